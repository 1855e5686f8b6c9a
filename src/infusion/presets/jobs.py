"""Pairs and retrains side by side: one process and one thread each."""

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from infusion.configs import Arm, RunConfig, as_plain
from infusion.curvature.blocks import Curvature
from infusion.device import settle
from infusion.measure import accuracy, behaviours
from infusion.params import params_sha256
from infusion.presets import find_preset
from infusion.presets.base import base_model
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.infuse import curvature, infuse, is_infused, read_edits
from infusion.records import Task
from infusion.runs.parallel import side_by_side
from infusion.runs.store import Store, environment
from infusion.training.checkpoints import from_tensors
from infusion.training.retrain import retrain


def job_file(arm: Arm, pair: Pair) -> str:
    """Name the artefact of one retrain; the clean replay serves all pairs."""
    if arm == "clean_replay":
        return "retrain/clean_replay.json"
    return pair.file("retrain", f"-{arm}.json")


def job_inputs(run: Run, pairs: list[Pair], arm: Arm) -> dict[str, Any]:
    """List what decides the result of one retrain.

    Args:
        run: Settings and documents.
        pairs: One pair, or all of them for the clean replay.
        arm: Which retrain.

    Returns:
        JSON value.
    """
    epochs = run.config.train.epochs
    edits = None
    if arm != "clean_replay":
        edits = run.store.sha256(pairs[0].file("edits", ".safetensors"))
    return {
        "arm": arm,
        "start": run.store.sha256(checkpoint_file(epochs - 1)),
        "pairs": [asdict(pair) for pair in pairs],
        "edits": edits,
        "train": as_plain(run.config.train),
        "seed": run.config.seed,
    }


@lru_cache(maxsize=1)
def _run(root: str, config: RunConfig) -> Run:
    """Open the run in a worker, once per process."""
    settle(config.device, 1)
    preset = find_preset(config.preset)
    return Run(config, preset, Store(Path(root)), *preset.load(config.data))


@lru_cache(maxsize=1)
def _fitted(root: str, config: RunConfig) -> tuple[Task, Curvature]:
    run = _run(root, config)
    task = base_model(run)
    return task, curvature(run, task)


def _infuse(root: str, config: RunConfig, pair: Pair) -> None:
    infuse(_run(root, config), *_fitted(root, config), pair)


def _retrain(root: str, config: RunConfig, pairs: list[Pair], arm: Arm) -> None:
    run = _run(root, config)

    def make() -> dict[str, Any]:
        train = run.train
        if arm != "clean_replay":
            train = read_edits(run, pairs[0], arm).apply(train)
        start = run.store.read_tensors(checkpoint_file(config.train.epochs - 1))
        task, final = retrain(
            run.make_task,
            train,
            config.train,
            seed=config.seed,
            start=from_tensors(start),
            record=run.is_recorded,
        )
        probes = [(pair.probe, pair.target) for pair in pairs]
        return {
            "behaviours": [asdict(b) for b in behaviours(task, run.test, probes)],
            "accuracy": accuracy(task, run.test),
            "model_sha256": params_sha256(final.model),
            "threads": torch.get_num_threads(),
            "environment": environment(),
        }

    run.store.json(job_file(arm, pairs[0]), job_inputs(run, pairs, arm), make)


def _side_by_side(
    run: Run, label: str, job: Callable[..., None], arguments: list[tuple[Any, ...]]
) -> None:
    if not arguments:
        return
    given = [(str(run.store.root), run.config, *more) for more in arguments]
    workers = run.config.threads if run.config.device == "cpu" else 1
    with run.timed(label):
        side_by_side(label, job, given, workers=workers)


def infuse_all(run: Run, pairs: list[Pair]) -> None:
    """Attribute and craft every pair that the run folder does not hold yet.

    Args:
        run: Settings and documents; its curvature is fitted.
        pairs: Probes and targets.

    Raises:
        InfusionError: Whatever a pair raised; finished ones are kept.
    """
    missing = [(pair,) for pair in pairs if not is_infused(run, pair)]
    _side_by_side(run, "attribute, craft", _infuse, missing)


def retrain_all(run: Run, pairs: list[Pair]) -> None:
    """Retrain on every edit and control that the run folder does not hold yet.

    Args:
        run: Settings and documents; ``threads`` trainings run at a time.
        pairs: Pairs whose edits are crafted.

    Raises:
        InfusionError: Whatever a training raised; finished ones are kept.
    """
    wanted: list[tuple[list[Pair], Arm]] = [
        ([pair], arm)
        for pair in pairs
        for arm in run.config.arms
        if arm != "clean_replay"
    ]
    if "clean_replay" in run.config.arms:
        wanted.insert(0, (pairs, "clean_replay"))
    missing = [
        (group, arm)
        for group, arm in wanted
        if not run.store.has(job_file(arm, group[0]), job_inputs(run, group, arm))
    ]
    _side_by_side(run, "retrain", _retrain, missing)
