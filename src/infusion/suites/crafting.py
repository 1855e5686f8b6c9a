"""Scores and edits of a pair in the folder of the base model they are made on."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

from infusion.configs import as_plain
from infusion.data.edits import Edits
from infusion.device import settle
from infusion.params import Params
from infusion.presets.context import Pair, Run
from infusion.presets.infuse import score_file, solve_pair
from infusion.records import Task
from infusion.runs.store import digest
from infusion.suites.retrainings import member, replayed
from infusion.suites.study import Desk, Json, Models, study_of
from infusion.suites.subjects import Home, fitted, opened, seen
from infusion.suites.trial import Change


def solved(home: Home, run: Run, task: Task, pair: Pair) -> Params:
    """Solve for a pair at one model, with the curvature of the base model.

    Args:
        home: Suite folder.
        run: Settings and documents of its architecture, in one view.
        task: The base model, or another with weights of the same shapes.
        pair: Probe and target.

    Returns:
        The IHVP.
    """
    curvature = fitted(home, run.config.architecture, run.view)
    measured = study_of(run).measurement(run, task, pair)
    return solve_pair(run, task, curvature, measured)


def edit_file(pair: Pair, change: Change, ending: str) -> str:
    """Name the artefact of a change."""
    return pair.file("edits", f"-{digest(change)[:12]}{ending}")


def edit_inputs(run: Run, pair: Pair, change: Change) -> Json:
    """List what decides a pair's edits.

    Args:
        run: Settings and documents; the pair's scores are stored.
        pair: Probe and target.
        change: What is done.

    Returns:
        JSON value.
    """
    return {
        "scores": run.store.sha256(score_file(run, pair)),
        "change": as_plain(change),
        "test": run.data_sha256["test"],
        "seed": run.config.seed,
        **study_of(run).decides(run, change),
    }


def has_edits(run: Run, pair: Pair, change: Change) -> bool:
    """Tell whether a change is stored whole.

    Args:
        run: Settings and documents; the pair's scores are stored.
        pair: Probe and target.
        change: What is done.

    Returns:
        False where a part is missing.

    Raises:
        ArtefactError: It was altered or has other inputs.
    """
    inputs = edit_inputs(run, pair, change)
    return all(
        run.store.has(edit_file(pair, change, ending), inputs)
        for ending in (".safetensors", ".json")
    )


def read_edits(run: Run, pair: Pair, change: Any) -> Edits:
    """Read a change back.

    Args:
        run: Settings and documents.
        pair: Probe and target.
        change: What was done.

    Returns:
        The edits; what was asked is in the manifest beside them.
    """
    stored = run.store.read_tensors(edit_file(pair, change, ".safetensors"))
    before = run.train.take(stored["documents"])
    same = stored["inputs"].dtype == before.inputs.dtype
    after = replace(
        before if same else before.values(),
        inputs=stored["inputs"],
        labels=stored["labels"],
    )
    return Edits(stored["documents"], before, after, change.operator, asked={})


def craft(home: Home, pairs: list[Pair], changes: list[Change]) -> None:
    """Make the edits of a few pairs, and store those that are not there yet.

    All of them are made wherever one is missing: made together they round together.

    Args:
        home: Suite folder; holds scores, and the members of an ensemble.
        pairs: Probes and targets.
        changes: All crafted on one base model, in one view.
    """
    settle(home.config.device, 1)
    source, view = changes[0].source, changes[0].view
    desks = [_desk(home, pair, source, view) for pair in pairs]
    for change in changes:
        _make(desks, change)


def _desk(home: Home, pair: Pair, source: str, view: str) -> Desk:
    _, task = opened(home, source)
    run = seen(home, source, view)

    @cache
    def models(members: int) -> Models:
        tasks = [replayed(run, member(i, source)) for i in range(members)] or [task]
        return [(each, solved(home, run, each, pair)) for each in tasks]

    scores = run.store.read_tensors(score_file(run, pair))["influence"]
    return Desk(run, pair, scores, models, partial(read_edits, run, pair))


def _make(desks: list[Desk], change: Change) -> None:
    if all(has_edits(desk.run, desk.pair, change) for desk in desks):
        return
    study = study_of(desks[0].run)
    before = study.like(change)
    if before is not None:
        _make(desks, before)
    for desk, edits in zip(desks, study.craft(desks, change), strict=True):
        _store(desk, change, edits)


def _store(desk: Desk, change: Change, made: Edits) -> None:
    run, pair, study = desk.run, desk.pair, study_of(desk.run)
    inputs = edit_inputs(run, pair, change)
    made = replace(made, config_hash=digest(run.config))

    def tensors() -> Params:
        return {
            "documents": made.documents,
            "inputs": made.after.inputs,
            "labels": made.after.labels,
        }

    def facts() -> Json:
        return {
            "documents": len(made),
            "influence": float(desk.scores[made.documents].mean()),
            "manifest": made.manifest,
            **study.facts(desk, change, made),
        }

    run.store.tensors(edit_file(pair, change, ".safetensors"), inputs, tensors)
    run.store.json(edit_file(pair, change, ".json"), inputs, facts)
