"""What runs side by side, one process and one thread each; every job is a function.

A job gets settings and numbers only, and loads documents once per process.
"""

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infusion.configs import FlipsConfig, LDSConfig
from infusion.fidelity.context import Context, Model
from infusion.fidelity.flips import flip_labels, found, suspicion
from infusion.fidelity.methods import METHODS
from infusion.fidelity.pbrf import proximal_bregman_response
from infusion.fidelity.subsets import membership, probe_positions, subset
from infusion.fidelity.suites import open_suite
from infusion.measure import accuracy, behaviours
from infusion.params import model_sha256
from infusion.records import Dataset, Task
from infusion.runs.store import Store
from infusion.training.checkpoints import load_model

BASE = "base.safetensors"
CHUNK = 10
"""Probes that one job scores."""
TAKEN_OFF = 0.05
"""Weight that PBRF takes off the documents outside a subset; ranks need no more, and
taking them out whole leaves its objective without a minimum, see
:mod:`infusion.fidelity.pbrf`."""


def log_odds_of(task: Task, test: Dataset, probes: list[int]) -> list[float]:
    """Measure every probe: the log-odds of its true class.

    Args:
        task: Trained model.
        test: Test documents.
        probes: Positions among them.

    Returns:
        One value per probe.
    """
    pairs = [(probe, int(test.labels[probe])) for probe in probes]
    return [each.log_odds for each in behaviours(task, test, pairs)]


def retrained(config: LDSConfig, index: int, seed: int) -> dict[str, Any]:
    """Train from scratch on one subset and measure the probes.

    Args:
        config: Settings.
        index: Which subset.
        seed: Of initialisation and orders.

    Returns:
        A row: measurements, hash of the model, seconds of training.
    """
    suite = open_suite(config.suite)
    began = time.monotonic()
    kept = subset(config, len(suite.train), index)
    task = suite.fit(suite.train.take(kept), seed)
    seconds = round(time.monotonic() - began, 2)
    probes = probe_positions(config, len(suite.test))
    return {
        "subset": index,
        "seed": seed,
        "log_odds": log_odds_of(task, suite.test, probes),
        "model_sha256": model_sha256(task.model),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
    }


def base_task(root: Path, config: LDSConfig) -> Task:
    """Read the stored base model.

    Args:
        root: Run folder.
        config: Settings.

    Returns:
        The task with the model trained on all documents.
    """
    task = open_suite(config.suite).make_task(config.seed)
    load_model(task.model, Store(root).read_tensors(BASE))
    task.model.eval()
    return task


@lru_cache(maxsize=1)
def _model(root: Path, config: LDSConfig) -> Model:
    train = open_suite(config.suite).train
    return Model(base_task(root, config), train, config.suite.skip, config.seed)


def score_file(method: str, first: int) -> str:
    """Name the artefact of a method's scores on one chunk of probes."""
    return f"scores/{method}-{first:03d}.safetensors"


def scored(
    root: Path, config: LDSConfig, inputs: dict[str, Any], method: str, first: int
) -> None:
    """Score every document for one chunk of probes and store it.

    Args:
        root: Run folder, which holds the base model.
        config: Settings.
        inputs: What decides the scores.
        method: One of ``METHODS``.
        first: Place of the first probe in the list of all.
    """

    def make() -> dict[str, Tensor]:
        test = open_suite(config.suite).test
        chunk = probe_positions(config, len(test))[first : first + CHUNK]
        probes = test.take(torch.tensor(chunk))
        return {"scores": METHODS[method](Context(_model(root, config), probes, first))}

    Store(root).tensors(score_file(method, first), inputs, make)


def responded(root: Path, config: LDSConfig, index: int) -> dict[str, Any]:
    """Answer one subset by the proximal Bregman response.

    Args:
        root: Run folder, which holds the base model.
        config: Settings.
        index: Which subset.

    Returns:
        A row: measurements, and how well the optimisation ended. The damping is that
        of EK-FAC at ratio 0.1, layer by layer.
    """
    model, suite = _model(root, config), open_suite(config.suite)
    began = time.monotonic()
    kept = membership(config, len(model.train))[index]
    response = proximal_bregman_response(
        model.task,
        model.train,
        1.0 - TAKEN_OFF * (~kept).float(),
        model.curvature(),
        damping_ratio=0.1,
    )
    probes = probe_positions(config, len(suite.test))
    return {
        "subset": index,
        "log_odds": log_odds_of(response.task, suite.test, probes),
        "residual": response.residual,
        "evaluations": response.evaluations,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 2),
    }


def flipped(config: FlipsConfig, seed: int) -> dict[str, Any]:
    """Flip labels, train on them and count how many each method finds.

    Args:
        config: Settings.
        seed: Of the flips, the model and the curvature's draws.

    Returns:
        A row.
    """
    suite = open_suite(config.suite)
    began = time.monotonic()
    flips = flip_labels(suite.train, share=config.share, seed=seed)
    task = suite.fit(flips.data, seed)
    scores = suspicion(Model(task, flips.data, config.suite.skip, seed))
    return {
        "seed": seed,
        "flipped": len(flips.positions),
        "found": {
            name: found(value, flips.positions) for name, value in scores.items()
        },
        "accuracy": accuracy(task, suite.test),
        "base_sha256": model_sha256(task.model),
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - began, 2),
    }
