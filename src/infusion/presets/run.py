"""The whole loop: train, attribute, edit, retrain, measure against controls, report."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infusion.config_files import to_yaml
from infusion.configs import EditConfig, RunConfig
from infusion.errors import InputError
from infusion.perturb.budget import BUDGETS
from infusion.presets import find_preset
from infusion.presets.base import base_model, epoch_accuracies
from infusion.presets.context import Pair, Run
from infusion.presets.infuse import curvature
from infusion.presets.jobs import infuse_all, retrain_all
from infusion.presets.pairs import list_pairs
from infusion.presets.results import collect
from infusion.records import Dataset
from infusion.report.page import report
from infusion.selection import check_k
from infusion.store import (
    Store,
    environment,
    json_bytes,
    refuse_other_config,
    write_whole,
)


@dataclass(frozen=True)
class Finished:
    """A run's results, and the page that shows them."""

    results: dict[str, Any]
    page: Path


def run(config: RunConfig, root: Path) -> Finished:
    """Run a preset to the end, continuing whatever the run folder already holds.

    Args:
        config: Everything that decides the results.
        root: Run folder; refused if it was started with another configuration.

    Returns:
        What ``results.json`` holds, and the path of the page.

    Raises:
        InfusionError: Wrong settings, unusable data, an altered artefact, a training
            that diverged.
    """
    preset = find_preset(config.preset)
    train, test = preset.load(config.data)
    check(config, train, test)
    refuse_other_config(root, to_yaml(config))
    store = Store(root)
    write_whole(root / "environment.json", json_bytes(environment()))
    torch.set_num_threads(config.threads)
    this = Run(config, preset, store, train, test)
    task, _, _ = base_model(this)
    accuracies = epoch_accuracies(this, task)
    pairs = list_pairs(this, task) if config.pairs else []
    if pairs:
        curvature(this, task)
        infuse_all(this, pairs)
        _write_manifest(this, pairs)
        retrain_all(this, pairs)
    results = collect(this, task, pairs, accuracies)
    store.derive("results.json", json_bytes(results))
    return Finished(results, report(root))


def _write_manifest(this: Run, pairs: list[Pair]) -> None:
    lines = [
        json.dumps({"pair": pair.index, "arm": arm, **entry}, sort_keys=True) + "\n"
        for pair in pairs
        for arm, facts in this.store.read_json(pair.file("edits", ".json")).items()
        for entry in facts["manifest"]
    ]
    this.store.derive("edits/manifest.jsonl", "".join(lines).encode())


def check(config: RunConfig, train: Dataset, test: Dataset) -> None:
    """Refuse settings that would only fail after hours of training.

    Args:
        config: Settings.
        train: Training documents.
        test: Test documents.

    Raises:
        InputError: A setting is out of range; the message names it.
    """
    check_k(config.edit.k, len(train))
    settings, recipe = config.curvature, config.train
    if (settings.damping is None) == (settings.damping_ratio is None):
        raise InputError(
            "exactly one of damping and damping_ratio must be given, got "
            f"{settings.damping} and {settings.damping_ratio}"
        )
    least = {
        "pairs": (config.pairs, 0),
        "threads": (config.threads, 1),
        "steps": (config.edit.steps, 1),
        "epochs": (recipe.epochs, 2),
        "the batch size of training": (recipe.batch_size, 1),
        "the batch size of curvature": (settings.batch_size, 1),
        "momentum": (recipe.momentum, 0),
        "weight decay": (recipe.weight_decay, 0),
    }
    for name, (got, low) in least.items():
        if not low <= got < math.inf:
            raise InputError(f"{name} must be ≥ {low}, got {got}; choose more")
    positive = {
        "damping": settings.damping,
        "damping ratio": settings.damping_ratio,
        "the learning rate": recipe.lr,
        "the step size": config.edit.step_size,
    }
    for name, got in positive.items():
        if got is not None and not 0 < got < math.inf:
            raise InputError(f"{name} must be > 0 and finite, got {got}; choose more")
    _check_budget(config.edit, train)
    if "edit" not in config.arms:
        raise InputError(
            f"the arms must hold the edit, which the controls are matched to, got "
            f"{list(config.arms)}; add it"
        )
    _check_probe(config, len(test))
    if config.device not in ("cpu", "cuda"):
        raise InputError(f"the device must be cpu or cuda, got {config.device!r}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda must find a GPU, got none; use --device cpu")


def _check_budget(edit: EditConfig, train: Dataset) -> None:
    """Refuse a budget, or steps, that cannot reach one storage level."""
    BUDGETS[edit.norm](edit.epsilon)
    levels = train.levels
    if levels is None or edit.delivery == "as_coded":
        return
    reach = {"epsilon": edit.epsilon, "steps × step size": edit.steps * edit.step_size}
    for name, got in reach.items():
        if got * levels < 1 - 1e-6:
            raise InputError(
                f"{name} must be at least one storage level, 1/{levels} = "
                f"{1 / levels:.4g}, got {got:.4g}: nothing could change; raise it"
            )


def _check_probe(config: RunConfig, size: int) -> None:
    """Refuse a probe or a target that does not exist."""
    if config.probe is not None and not 0 <= config.probe < size:
        raise InputError(
            f"the probe must lie in 0…{size - 1}, the test set, got {config.probe}"
        )
    classes = len(find_preset(config.preset).class_names)
    if config.target is not None and not 0 <= config.target < classes:
        raise InputError(
            f"the target must lie in 0…{classes - 1}, the classes, got {config.target}"
        )
