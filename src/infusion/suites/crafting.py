"""Scores and edits of a pair in the folder of the architecture they are made on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from infusion.data.edits import Edits
from infusion.params import Params
from infusion.perturb.controls import copies
from infusion.perturb.pixels import predicted_effect
from infusion.perturb.similarity import psnr, ssim
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.infuse import measurement, score_file, solve_pair
from infusion.records import Task
from infusion.store import digest
from infusion.suites.editors import ENGINES, Models, Subject
from infusion.suites.edits import attainable_gains, choose, climbed, noise_of, reach
from infusion.suites.retrainings import MEMBERS, member, replay_file, replayed
from infusion.suites.subjects import Home, fitted, opened
from infusion.suites.trials import REPLAYS, Change


def solved(home: Home, run: Run, task: Task, pair: Pair) -> Params:
    """Solve for a pair at one model, with the curvature of the base model.

    Args:
        home: Suite folder.
        run: Settings and documents of its architecture.
        task: The base model, or another with weights of the same shapes.
        pair: Probe and target.

    Returns:
        The IHVP.
    """
    return solve_pair(run, task, fitted(home, run.config.architecture), pair)


def edit_file(pair: Pair, change: Change, ending: str) -> str:
    """Name the artefact of a change."""
    return pair.file("edits", f"-{digest(change)[:12]}{ending}")


def edit_inputs(run: Run, pair: Pair, change: Change) -> dict[str, Any]:
    """List what decides a pair's edits.

    Args:
        run: Settings and documents; the pair's scores are stored.
        pair: Probe and target.
        change: What is done.

    Returns:
        JSON value.
    """
    epochs = run.config.train.epochs
    return {
        "scores": run.store.sha256(score_file(pair)),
        "change": asdict(change),
        "momentum": ENGINES[change.editor].momentum,
        "settings": ENGINES[change.editor].settings,
        "test": run.data_sha256["test"],
        "seed": run.config.seed,
        "models": [
            run.store.sha256(replay_file(member(i, change.source), ".safetensors"))
            for i in range(MEMBERS if change.editor == "ensemble" else 0)
        ],
        "start": run.store.sha256(checkpoint_file(epochs - 1))
        if change.editor in REPLAYS
        else None,
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


def read_edits(run: Run, pair: Pair, change: Change) -> Edits:
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
    like = before if stored["inputs"].dtype == before.inputs.dtype else before.values()
    after = replace(like, inputs=stored["inputs"], labels=stored["labels"])
    return Edits(stored["documents"], before, after, change.operator, asked={})


@dataclass(frozen=True)
class _Desk:
    """What the changes of one pair share."""

    run: Run
    pair: Pair
    scores: Tensor
    models: Callable[[int], Models]


def craft(home: Home, pair: Pair, changes: list[Change]) -> None:
    """Make and store the edits of one pair that are not there yet.

    Args:
        home: Suite folder; holds scores, and the members of an ensemble.
        pair: Probe and target.
        changes: All crafted on one architecture.
    """
    torch.set_num_threads(1)
    source = changes[0].source
    run, task = opened(home, source)

    @cache
    def models(members: int) -> Models:
        tasks = [replayed(run, member(i, source)) for i in range(members)] or [task]
        return [(each, solved(home, run, each, pair)) for each in tasks]

    scores = run.store.read_tensors(score_file(pair))["influence"]
    for change in changes:
        _store(_Desk(run, pair, scores, models), change)


def _store(desk: _Desk, change: Change) -> None:
    run, pair = desk.run, desk.pair
    inputs = edit_inputs(run, pair, change)

    @cache
    def edits() -> Edits:
        return replace(_made(desk, change), config_hash=digest(run.config))

    def tensors() -> Params:
        made = edits()
        return {
            "documents": made.documents,
            "inputs": made.after.inputs,
            "labels": made.after.labels,
        }

    run.store.tensors(edit_file(pair, change, ".safetensors"), inputs, tensors)
    run.store.json(
        edit_file(pair, change, ".json"), inputs, lambda: _facts(desk, change, edits())
    )


def _made(desk: _Desk, change: Change) -> Edits:
    """Climb, copy, or draw noise as large as the ascent, which is stored first."""
    run, pair = desk.run, desk.pair
    if change.operator in ("noise_linf", "noise_l2"):
        ascent = replace(change, operator="ascent")
        _store(desk, ascent)
        return noise_of(run, pair, change, read_edits(run, pair, ascent))
    engine, task = ENGINES[change.editor], desk.models(0)[0][0]
    nobody = torch.empty(0, dtype=torch.int64)
    subject = Subject(run, measurement(run, task, pair), nobody, desk.models)
    chosen = choose(
        run,
        pair,
        desk.scores,
        lambda: attainable_gains(engine, subject, change.edit),
        selection=change.selection,
        k=change.edit.k,
    )
    if change.operator == "copies":
        probe = run.test.take(pair.row)
        return copies(run.train, chosen, probe, pair.target)
    climb = engine.climb(replace(subject, chosen=chosen))
    return climbed(run, change, chosen, climb)


def _facts(desk: _Desk, change: Change, edits: Edits) -> dict[str, Any]:
    """Say what an edit reached, what it is predicted to do, and what it cost."""
    run, (task, ihvp) = desk.run, desk.models(0)[0]
    reached: dict[str, float | None] = {**reach(edits)}
    if change.operator != "copies":
        low, high = run.train.valid or (0.0, 1.0)
        values = edits.before.values().inputs, edits.after.values().inputs
        alike = psnr(*values, span=high - low)
        reached |= {
            "psnr": float(alike.median()) if bool(alike.isfinite().all()) else None,
            "ssim": float(ssim(*values, span=high - low).mean()),
        }
    ascended = change.edit.steps * ENGINES[change.editor].evaluations
    same = edits.before.labels == desk.pair.target
    return {
        "documents": len(edits),
        "reached": reached,
        "predicted": predicted_effect(task, run.train, edits, ihvp),
        "momentum": ENGINES[change.editor].momentum,
        "evaluations": 0 if change.operator == "copies" else ascended,
        "influence": float(desk.scores[edits.documents].mean()),
        "target_share": float(same.double().mean()),
        "manifest": edits.manifest,
    }
