"""The whole loop: train, attribute, edit, retrain, measure against controls, report."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infusion.configs import RunConfig
from infusion.device import settle
from infusion.presets import find_preset
from infusion.presets.base import base_model, check_taken, epoch_accuracies
from infusion.presets.checks import check
from infusion.presets.context import Pair, Run
from infusion.presets.infuse import curvature, curvature_facts
from infusion.presets.jobs import infuse_all, retrain_all
from infusion.presets.pairs import list_pairs
from infusion.presets.results import collect
from infusion.report.page import report
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import (
    alone_in,
    refuse_other_config,
    refuse_other_environment,
)
from infusion.runs.store import (
    Store,
    json_bytes,
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
    this = Run(config, preset, Store(root), train, test)
    if not (root / "config.yaml").exists():
        check_taken(this)  # before a folder is begun
    refuse_other_config(root, to_yaml(config))
    refuse_other_environment(root)
    settle(config.device, config.threads)
    with alone_in(root):
        return _run(this, root)


def _run(this: Run, root: Path) -> Finished:
    config, store = this.config, this.store
    task = base_model(this)
    accuracies = epoch_accuracies(this, task)
    pairs = list_pairs(this, task) if config.pairs else []
    facts = None
    if pairs:
        facts = curvature_facts(this, curvature(this, task))
        infuse_all(this, pairs)
        _write_manifest(this, pairs)
        retrain_all(this, pairs)
    torch.set_num_threads(1)  # as every retrained model was measured
    results = collect(this, task, pairs, accuracies) | {"curvature": facts}
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
