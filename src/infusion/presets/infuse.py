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

from infusion.attribution import gradient, influence
from infusion.configs import Arm
from infusion.curvature import storage
from infusion.curvature.ekfac import EKFAC, fit_ekfac
from infusion.data.edits import Edits
from infusion.errors import ArtefactError
from infusion.measure import log_prob
from infusion.params import Params
from infusion.perturb.budget import BUDGETS
from infusion.perturb.controls import copies, noise_like
from infusion.perturb.pixels import craft, predicted_effect
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.progress import progress
from infusion.records import Task
from infusion.seeding import derive, stream
from infusion.selection import select, select_random
from infusion.store import digest
from infusion.tasks import first_parameter

CURVATURE = "curvature/ekfac.safetensors"


def curvature(run: Run, task: Task) -> EKFAC:
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

    def make() -> Params:
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
        return storage.to_tensors(fitted)

    tensors = run.store.tensors(CURVATURE, inputs, make)
    on_device = {k: v.to(run.config.device) for k, v in tensors.items()}
    return storage.from_tensors(
        on_device,
        task.model,
        skip=settings.skip,
        fisher=settings.fisher,
        num_documents=len(run.train),
    )


def infuse(run: Run, task: Task, fitted: EKFAC, pair: Pair) -> None:
    """Write one pair's scores, edits and predicted effects into the run folder.

    Args:
        run: Settings and documents.
        task: Base model.
        fitted: Its curvature.
        pair: Probe and target; the measurement is ``log p(target | probe)``.
    """
    settings = run.config.curvature

    @cache
    def ihvp() -> Params:
        probe = run.test.batch(torch.tensor([pair.probe]), like=first_parameter(task))
        return fitted.solve(
            gradient(task, log_prob(probe.inputs[0], pair.target)),
            damping=settings.damping,
            damping_ratio=settings.damping_ratio,
        )

    scores = _score(run, task, ihvp, pair)
    _craft_arms(run, task, ihvp, pair, scores)


def _score(run: Run, task: Task, ihvp: Callable[[], Params], pair: Pair) -> Params:
    """Influence of every document, the chosen ones, and random ones."""
    k, size = run.config.edit.k, len(run.train)
    inputs = {
        "pair": asdict(pair),
        "curvature": run.store.sha256(CURVATURE),
        "damping": [run.config.curvature.damping, run.config.curvature.damping_ratio],
        "k": k,
        "seed": run.config.seed,
    }

    def make() -> Params:
        scores = influence(task, run.train, ihvp())
        generator = stream(run.config.seed, "pair", pair.index, "random documents")
        return {
            "influence": scores,
            "chosen": select(scores, k=k),
            "random": select_random(size, k=k, generator=generator),
        }

    return run.store.tensors(pair.file("scores", ".safetensors"), inputs, make)


def _craft_arms(
    run: Run, task: Task, ihvp: Callable[[], Params], pair: Pair, scores: Params
) -> None:
    inputs = {
        "scores": run.store.sha256(pair.file("scores", ".safetensors")),
        "edit": asdict(run.config.edit),
        "arms": run.config.arms,
        "test": run.data_sha256["test"],
    }

    @cache
    def arms() -> dict[str, Edits]:
        return _craft(run, task, ihvp(), pair, scores)

    def tensors() -> Params:
        return {
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
        generator = torch.Generator().manual_seed(seed)
        return noise_like(edit, match=match, seed=seed, generator=generator)

    chosen, probe = scores["chosen"], run.test.take(torch.tensor([pair.probe]))
    edit = ascend(chosen)
    makers: dict[Arm, Callable[[], Edits]] = {
        "edit": lambda: edit,
        "noise_linf": lambda: noise("linf"),
        "noise_l2": lambda: noise("l2"),
        "random_documents": lambda: ascend(scores["random"]),
        "copies_1": lambda: copies(run.train, chosen[:1], probe, pair.target),
        "copies_5": lambda: copies(run.train, chosen[:5], probe, pair.target),
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
