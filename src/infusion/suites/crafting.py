"""Scores and edits of a pair in the folder of the base model they are made on."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from infusion.configs import as_plain
from infusion.data.edits import Edits
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


def craft(home: Home, works: list[tuple[Pair, list[Change]]]) -> None:
    """Make and store the edits of a few pairs that are not there yet.

    Args:
        home: Suite folder; holds scores, and the members of an ensemble.
        works: Pairs and changes, all crafted on one base model, in one view.
    """
    torch.set_num_threads(1)
    wanted: dict[Change, list[Desk]] = {}
    for pair, changes in works:
        desk = _desk(home, pair, changes[0])
        for change in changes:
            wanted.setdefault(change, []).append(desk)
    for change, desks in wanted.items():
        missing = [desk for desk in desks if not has_edits(desk.run, desk.pair, change)]
        if not missing:  # another change of its pair was made from it
            continue
        made = study_of(missing[0].run).craft(missing, change)
        for desk, edits in zip(missing, made, strict=True):
            _store(desk, change, lambda edits=edits: edits)


def _desk(home: Home, pair: Pair, change: Change) -> Desk:
    source, view = change.source, change.view
    _, task = opened(home, source)
    run = seen(home, source, view)

    @cache
    def models(members: int) -> Models:
        tasks = [replayed(run, member(i, source)) for i in range(members)] or [task]
        return [(each, solved(home, run, each, pair)) for each in tasks]

    def made(change: Change) -> Edits:
        _store(desk, change, lambda: study_of(run).craft([desk], change)[0])
        return read_edits(run, pair, change)

    scores = run.store.read_tensors(score_file(run, pair))["influence"]
    desk = Desk(run, pair, scores, models, made)
    return desk


def _store(desk: Desk, change: Change, make: Callable[[], Edits]) -> None:
    run, pair, study = desk.run, desk.pair, study_of(desk.run)
    inputs = edit_inputs(run, pair, change)

    @cache
    def edits() -> Edits:
        return replace(make(), config_hash=digest(run.config))

    def tensors() -> Params:
        made = edits()
        return {
            "documents": made.documents,
            "inputs": made.after.inputs,
            "labels": made.after.labels,
        }

    def facts() -> Json:
        made = edits()
        return {
            "documents": len(made),
            "influence": float(desk.scores[made.documents].mean()),
            "manifest": made.manifest,
            **study.facts(desk, change, made),
        }

    run.store.tensors(edit_file(pair, change, ".safetensors"), inputs, tensors)
    run.store.json(edit_file(pair, change, ".json"), inputs, facts)
