"""Fit curvature; then for each pair attribute, choose, craft the edit and its controls.

Every artefact names those it was made from, so a run that was killed goes on where it
stopped, and a changed setting is refused instead of mixed in.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from infusion.attribution.influence import gradient, influence
from infusion.attribution.selection import select, select_random
from infusion.configs import Arm, as_plain
from infusion.curvature import storage
from infusion.curvature.blocks import Curvature
from infusion.curvature.fit import fit_ekfac
from infusion.data.edits import Edits
from infusion.errors import ArtefactError
from infusion.measure import log_prob
from infusion.params import Params
from infusion.perturb.budget import BUDGETS
from infusion.perturb.controls import copies, noise_like
from infusion.perturb.pixels import craft, predicted_effect
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.records import Measurement, Task
from infusion.runs.progress import progress
from infusion.runs.store import digest
from infusion.seeding import derive, stream
from infusion.tasks import first_parameter

MOST_COPIES = 5


def curvature_file(run: Run) -> str:
    """Name the artefact of a run's curvature."""
    return f"curvature/ekfac{run.curvature_suffix}.safetensors"


def curvature(run: Run, task: Task) -> Curvature:
    """Fit EK-FAC at the base model, or read the stored fit.

    Args:
        run: Settings and documents.
        task: Base model.

    Returns:
        The curvature.
    """
    settings = run.config.curvature
    inputs = {
        "base": run.store.sha256(checkpoint_file(run.config.train.epochs)),
        "data": run.data_sha256["train"],
        "fisher": settings.fisher,
        "skip": settings.skip,
        "seed": run.config.seed,
        "batch_size": settings.batch_size,
    }

    def make() -> bytes:
        with (
            run.timed("curvature"),
            progress("fit curvature", 2 * len(run.train)) as advance,
        ):
            fitted = fit_ekfac(
                task,
                run.train,
                fisher=settings.fisher,
                skip=settings.skip,
                seed=derive(run.config.seed, "curvature"),
                batch_size=settings.batch_size,
                on_batch=advance,
            )
        return storage.to_bytes(fitted, origin=inputs)

    stored = run.store.file(curvature_file(run), inputs, make)
    return storage.from_bytes(stored, task.model)


def curvature_facts(run: Run, fitted: Curvature) -> dict[str, Any]:
    """Record what the curvature covers and the damping of each layer.

    Args:
        run: Settings.
        fitted: Its curvature.

    Returns:
        Fisher, documents, skipped modules with their parameter counts, and the absolute
        ``λ`` of each layer in nats per squared parameter.
    """
    settings = run.config.curvature
    return {
        "fisher": fitted.fisher,
        "num_documents": fitted.num_documents,
        "skipped": fitted.skipped,
        "damping": fitted.damping(
            damping=settings.damping, damping_ratio=settings.damping_ratio
        ),
    }


def measurement(run: Run, task: Task, pair: Pair) -> Measurement:
    """Return what a pair measures.

    Args:
        run: Gives the probe.
        task: Gives dtype and device.
        pair: Probe and target.

    Returns:
        ``log p(target | probe)``.
    """
    probe = run.test.batch(pair.row, like=first_parameter(task))
    return log_prob(probe.inputs[0], pair.target)


def solve_pair(
    run: Run, task: Task, fitted: Curvature, measured: Measurement
) -> Params:
    """Solve for a pair's measurement at one model, with the run's damping.

    Args:
        run: Settings and documents.
        task: The base model, or another with weights of the same shapes.
        fitted: Curvature of the base model.
        measured: What the pair measures.

    Returns:
        The IHVP.
    """
    settings = run.config.curvature
    return fitted.solve(
        gradient(task, measured),
        damping=settings.damping,
        damping_ratio=settings.damping_ratio,
    )


def infuse(run: Run, task: Task, fitted: Curvature, pair: Pair) -> None:
    """Write one pair's scores, edits and predicted effects into the run folder.

    Args:
        run: Settings and documents.
        task: Base model.
        fitted: Its curvature.
        pair: Probe and target; the measurement is ``log p(target | probe)``.
    """

    @cache
    def ihvp() -> Params:
        return solve_pair(run, task, fitted, measurement(run, task, pair))

    scores = run.store.tensors(
        score_file(run, pair),
        score_inputs(run, pair),
        lambda: _score(run, influence(task, run.train, ihvp()), pair),
    )
    _craft_arms(run, task, ihvp, pair, scores)


def score_file(run: Run, pair: Pair) -> str:
    """Name the artefact of a pair's scores."""
    return pair.file("scores", f"{run.suffix}.safetensors")


def influence_inputs(run: Run, pair: Pair) -> dict[str, Any]:
    """List what decides the influence of every document on a pair.

    Args:
        run: Settings and documents; its curvature is stored.
        pair: Probe and target.

    Returns:
        JSON value.
    """
    settings = run.config.curvature
    return {
        "pair": asdict(pair),
        "curvature": run.store.sha256(curvature_file(run)),
        "damping": [settings.damping, settings.damping_ratio],
        **run.drawn_from,
    }


def score_inputs(run: Run, pair: Pair) -> dict[str, Any]:
    """List what decides a pair's scores, and which documents they choose.

    Args:
        run: Settings and documents; its curvature is stored.
        pair: Probe and target.

    Returns:
        JSON value.
    """
    chosen = {"k": run.config.edit.k, "seed": run.config.seed}
    return influence_inputs(run, pair) | chosen


def edit_inputs(run: Run, pair: Pair) -> dict[str, Any]:
    """List what decides a pair's edits.

    Args:
        run: Settings and documents; the pair's scores are stored.
        pair: Probe and target.

    Returns:
        JSON value.
    """
    return {
        "scores": run.store.sha256(score_file(run, pair)),
        "edit": as_plain(run.config.edit),
        "arms": run.config.arms,
        "test": run.data_sha256["test"],
    }


def is_infused(run: Run, pair: Pair) -> bool:
    """Tell whether a pair's scores and edits are stored, made from these inputs.

    Args:
        run: Settings and documents.
        pair: Probe and target.

    Returns:
        False where one is missing or interrupted.

    Raises:
        ArtefactError: One was altered or has other inputs.
    """
    return run.store.has(score_file(run, pair), score_inputs(run, pair)) and all(
        run.store.has(pair.file("edits", ending), edit_inputs(run, pair))
        for ending in (".safetensors", ".json")
    )


def _score(run: Run, scores: Tensor, pair: Pair) -> Params:
    """Add to the influence of every document which ones each arm replaces."""
    k, size = run.config.edit.k, len(run.train)
    generator = stream(run.config.seed, "pair", pair.index, "random documents")
    return {
        "influence": scores,
        "chosen": select(scores, k=k),
        "random": select_random(size, k=k, generator=generator),
        "replaced": select(scores, k=MOST_COPIES),
    }


def _craft_arms(
    run: Run, task: Task, ihvp: Callable[[], Params], pair: Pair, scores: Params
) -> None:
    inputs = edit_inputs(run, pair)

    @cache
    def arms() -> dict[str, Edits]:
        return _craft(run, task, ihvp(), pair, scores)

    def tensors() -> Params:
        probe = run.test.take(torch.tensor([pair.probe])).inputs
        return {"probe": probe} | {
            f"{arm}/{part}": value
            for arm, edits in arms().items()
            for part, value in _tensors(edits).items()
        }

    def facts() -> dict[str, Any]:
        return {
            arm: {
                "predicted": predicted_effect(task, run.train, edits, ihvp()),
                "manifest": edits.manifest,
            }
            for arm, edits in arms().items()
        }

    run.store.tensors(pair.file("edits", ".safetensors"), inputs, tensors)
    run.store.json(pair.file("edits", ".json"), inputs, facts)


def _craft(
    run: Run, task: Task, ihvp: Params, pair: Pair, scores: Params
) -> dict[str, Edits]:
    config, settings = run.config, run.config.edit

    def ascend(documents: Tensor) -> Edits:
        return craft(
            task,
            run.train,
            documents,
            ihvp,
            budget=BUDGETS[settings.norm](settings.epsilon),
            steps=settings.steps,
            step_size=settings.step_size,
            ascent=settings.ascent,
            delivery=settings.delivery,
        )

    def noise(match: Literal["linf", "l2"]) -> Edits:
        seed = derive(config.seed, "pair", pair.index, "noise", match)
        return noise_like(edit, match=match, seed=seed)

    def copied(count: int) -> Edits:
        probe = run.test.take(torch.tensor([pair.probe]))
        return copies(run.train, scores["replaced"][:count], probe, pair.target)

    edit = ascend(scores["chosen"])
    makers: dict[Arm, Callable[[], Edits]] = {
        "edit": lambda: edit,
        "noise_linf": lambda: noise("linf"),
        "noise_l2": lambda: noise("l2"),
        "random_documents": lambda: ascend(scores["random"]),
        "copies_1": lambda: copied(1),
        "copies_5": lambda: copied(MOST_COPIES),
    }
    config_hash = digest(config)
    return {
        arm: replace(makers[arm](), config_hash=config_hash)
        for arm in config.arms
        if arm != "clean_replay"
    }


def _tensors(edits: Edits) -> Params:
    parts = {
        "documents": edits.documents,
        "before_inputs": edits.before.inputs,
        "before_labels": edits.before.labels,
        "after_inputs": edits.after.inputs,
        "after_labels": edits.after.labels,
    }
    # safetensors refuses tensors that share memory, as arms on the same documents do.
    return {name: value.clone() for name, value in parts.items()}


def read_edits(run: Run, pair: Pair, arm: Arm) -> Edits:
    """Read one arm's edits back from the run folder.

    Args:
        run: Settings and documents.
        pair: Probe and target.
        arm: Any but the clean replay.

    Returns:
        The edits; what was asked is in the manifest beside them.

    Raises:
        ArtefactError: The edits were not crafted for this run's documents.
    """
    stored = run.store.read_tensors(pair.file("edits", ".safetensors"))
    part = {k.removeprefix(f"{arm}/"): v for k, v in stored.items()}
    before = run.train.take(part["documents"])
    if not torch.equal(before.inputs, part["before_inputs"]):
        raise ArtefactError(
            "stored edits must start from the documents of this run, got others; "
            "remove the run folder"
        )
    like = before if part["after_inputs"].dtype == torch.uint8 else before.values()
    after = replace(like, inputs=part["after_inputs"], labels=part["after_labels"])
    return Edits(part["documents"], before, after, operator=arm, asked={})
