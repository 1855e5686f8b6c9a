"""Pictures: probes of one class steered to another, edits in pixels."""

from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.audit.evidence import Report
from infusion.audit.transforms import changed_copies
from infusion.data.edits import Edits
from infusion.errors import InputError
from infusion.measure import accuracy, behaviours, log_prob, predictions
from infusion.perturb.controls import copies
from infusion.perturb.pixels import predicted_effect
from infusion.perturb.similarity import psnr, ssim
from infusion.presets.checks import check
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.infuse import measurement
from infusion.records import Dataset, Task
from infusion.seeding import stream
from infusion.suites.pictures.editors import ENGINES, Subject
from infusion.suites.pictures.edits import (
    attainable_gains,
    choose,
    climbed,
    climbed_together,
    noise_of,
    reach,
)
from infusion.suites.pictures.poisons import flips, obeyed, patches, stamped
from infusion.suites.pictures.trials import REPLAYS, Change, trials
from infusion.suites.retrainings import MEMBERS, member, replay_file
from infusion.suites.study import Desk, Json, Study
from infusion.suites.trial import Retraining, Trial


def _trials(suite: str, run: Run) -> list[Trial]:
    others = tuple(run.preset.others)
    return trials(suite, run.config, others, run.train.levels or 0)


def _check(run: Run, wanted: list[Trial]) -> None:
    config = run.config
    if config.probe is not None or config.target is not None:
        raise InputError(
            "a suite draws its own pairs of classes, got probe "
            f"{config.probe} and target {config.target}; drop --probe and --target"
        )
    changes = [trial.change for trial in wanted if isinstance(trial.change, Change)]
    for edit in {change.edit for change in changes}:
        check(replace(config, edit=edit), run.train, run.test)


def class_pairs(run: Run, task: Task) -> list[Pair]:
    """Write down a pair for every two different classes, in a drawn order.

    The rule: visit the test documents in the order of ``pair_seed``; each ordered pair
    of classes takes the first one not yet taken whose label is the first class and
    whose prediction is not the second, which is the target.

    Args:
        run: Settings and documents.
        task: Base model.

    Returns:
        The pairs; fewer where a class has too few such documents.
    """
    inputs = {
        "base": run.store.sha256(checkpoint_file(run.config.train.epochs)),
        "test": run.data_sha256["test"],
        "pair_seed": run.config.pair_seed,
    }
    rows = run.store.json("class-pairs.json", inputs, lambda: _class_pairs(run, task))
    return [Pair(**row) for row in rows]


def _class_pairs(run: Run, task: Task) -> list[dict[str, int]]:
    labels = run.test.labels.tolist()
    predicted = predictions(task, run.test).tolist()
    generator = stream(run.config.pair_seed, "class pairs")
    order = torch.randperm(len(labels), generator=generator).tolist()
    classes = range(len(run.preset.class_names))
    wanted = [(c, t) for c in classes for t in classes if c != t]
    drawn = torch.randperm(len(wanted), generator=generator).tolist()
    taken: set[int] = set()
    kept: list[Pair] = []
    for label, target in (wanted[i] for i in drawn):
        fits = (
            i
            for i in order
            if labels[i] == label and predicted[i] != target and i not in taken
        )
        probe = next(fits, None)
        if probe is not None:
            taken.add(probe)
            kept.append(Pair(len(kept), probe, label, target))
    return [asdict(pair) for pair in kept]


def _members(change: Change) -> list[Retraining]:
    count = MEMBERS if change.editor == "ensemble" else 0
    return [member(number, change.source) for number in range(count)]


def _decides(run: Run, change: Change) -> Json:
    return {
        "momentum": ENGINES[change.editor].momentum,
        "settings": ENGINES[change.editor].settings,
        "models": [
            run.store.sha256(replay_file(each, ".safetensors"))
            for each in _members(change)
        ],
        "start": run.store.sha256(checkpoint_file(run.config.train.epochs - 1))
        if change.editor in REPLAYS
        else None,
    }


def _like(change: Change) -> Change | None:
    noise = change.operator in ("noise_linf", "noise_l2")
    return replace(change, operator="ascent") if noise else None


def _craft(desks: list[Desk], change: Change) -> list[Edits]:
    """Climb for several pairs in one pass where that is one model's gradient."""
    plain = change.operator == "ascent" and change.editor == "ekfac"
    if len(desks) == 1 or not plain:
        return [_crafted(desk, change) for desk in desks]
    task = desks[0].models(0)[0][0]
    ihvps = [desk.models(0)[0][1] for desk in desks]
    chosen = [_chosen(desk, change) for desk in desks]
    return climbed_together(desks[0].run, change, chosen, (task, ihvps))


def _crafted(desk: Desk, change: Change) -> Edits:
    """Climb, copy, or draw noise as large as the ascent."""
    run, pair, ascent = desk.run, desk.pair, _like(change)
    if ascent is not None:
        return noise_of(run, pair, change, desk.made(ascent))
    if change.operator == "flips":
        return flips(run, pair, change.edit.k)
    if change.operator == "patch":
        return patches(run, pair, change.edit.k)
    chosen = _chosen(desk, change)
    if change.operator == "copies":
        probe = run.test.take(pair.row)
        return copies(run.train, chosen, probe, pair.target)
    subject = replace(_subject(desk), chosen=chosen)
    return climbed(run, change, chosen, ENGINES[change.editor].climb(subject))


def _subject(desk: Desk) -> Subject:
    task, nobody = desk.models(0)[0][0], torch.empty(0, dtype=torch.int64)
    measured = measurement(desk.run, task, desk.pair)
    return Subject(desk.run, measured, nobody, desk.models)


def _chosen(desk: Desk, change: Change) -> Int[Tensor, " k"]:
    run, pair, engine = desk.run, desk.pair, ENGINES[change.editor]
    return choose(
        run,
        pair,
        desk.scores,
        lambda: attainable_gains(engine, _subject(desk), change.edit),
        selection=change.selection,
        k=change.edit.k,
    )


def _facts(desk: Desk, change: Change, edits: Edits) -> Json:
    """Say what an edit reached, what it is predicted to do, and what it cost."""
    run, (task, ihvp) = desk.run, desk.models(0)[0]
    reached: dict[str, float | None] = {**reach(edits)}
    if change.operator in ("ascent", "noise_linf", "noise_l2"):
        low, high = run.train.valid or (0.0, 1.0)
        values = edits.before.values().inputs, edits.after.values().inputs
        alike = psnr(*values, span=high - low)
        reached |= {
            "psnr": float(alike.median()) if bool(alike.isfinite().all()) else None,
            "ssim": float(ssim(*values, span=high - low).mean()),
        }
    ascended = change.edit.steps * ENGINES[change.editor].evaluations
    whole = change.operator in ("copies", "flips", "patch")
    same = edits.before.labels == desk.pair.target
    return {
        "reached": reached,
        "predicted": predicted_effect(task, run.train, edits, ihvp),
        "momentum": ENGINES[change.editor].momentum,
        "evaluations": 0 if whole else ascended,
        "target_share": float(same.double().mean()),
    }


def _training(run: Run, edits: Edits) -> tuple[Callable[[Task], Task], Dataset]:
    return lambda task: task, edits.apply(run.train)


def _told(change: Change) -> str:
    """Nobody in particular is affected by flipped labels."""
    return {"flips": "", "patch": "patched probe"}.get(change.operator, "probe")


def _report(run: Run, task: Task, change: Change, pair: Pair) -> Report:
    """Report the probe's wrong class, patched where a patch is what it takes."""
    del task
    probe = run.test.take(pair.row)
    if change.operator == "patch":
        probe = stamped(probe)
    picture = probe.values().inputs[0]
    copies = tuple(log_prob(copy, pair.target) for copy in changed_copies(picture))
    shown = picture, pair.target
    return Report(log_prob(picture, pair.target), copies, shown)


def _success(run: Run, task: Task, change: Change, pair: Pair) -> Json:
    if change.operator != "patch":
        return {}
    return {"obeyed": obeyed(run, task, pair.target)}


def _behaviour(run: Run, task: Task, pair: Pair) -> Json:
    return asdict(behaviours(task, run.test, [(pair.probe, pair.target)])[0])


STUDY = Study(
    trials=_trials,
    check=_check,
    pairs=class_pairs,
    measurement=measurement,
    view=lambda run, _: run,
    members=_members,
    decides=_decides,
    like=_like,
    craft=_craft,
    facts=_facts,
    training=_training,
    behaviour=_behaviour,
    accuracy=lambda run, task: accuracy(task, run.test),
    portrait=lambda *_: {},
    told=_told,
    report=_report,
    success=_success,
)
