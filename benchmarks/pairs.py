"""Seconds per pair of each stage after the shared ones, one at a time and together.

    python benchmarks/pairs.py --data FOLDER [--scale small]

CIFAR-10 with the preset's network, one thread. Scores: one pair against eight in one
pass. Retraining: one edit against a stack of four. Everything beside a plain training
epoch in the same run; the goal is that a pair costs at most 1.5 epochs on two cores.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import tyro

import infusion as inf
from infusion.presets import find_preset
from infusion.retrain import retrain
from infusion.stacked import retrain_stacked
from infusion.store import environment
from infusion.training import init_model, lay_out, load_model, train_epochs

ROUNDS, TOGETHER, STACK = 3, 8, 4
OUT = Path(__file__).parent.parent / "results" / "pairs.json"


def main(
    data: str, scale: Literal["small", "paper"] = "small", epochs: int = 2
) -> None:
    """Time every stage.

    Args:
        data: CIFAR-10 as in `infusion run cifar10`.
        scale: Of the preset.
        epochs: Of the base model; times do not depend on it.
    """
    torch.set_num_threads(1)
    preset = find_preset("cifar10")
    config = preset.configs[scale]
    recipe, edit = replace(config.train, epochs=epochs), config.edit
    train, test = preset.load(replace(config.data, source=data))

    def make_task() -> inf.Task:
        return inf.classification(
            init_model(lambda: preset.make_model(scale, config.architecture), 0)
        )

    task = make_task()
    times, checkpoints = [time.perf_counter()], []
    for checkpoint in train_epochs(task, train, recipe, seed=0):
        times.append(time.perf_counter())
        checkpoints.append(checkpoint)
    epoch = min(b - a for a, b in pairwise(times))
    start = checkpoints[-2]
    load_model(task.model, checkpoints[-1].model)
    lay_out(task.model, recipe)
    few = torch.arange(512)
    curvature = inf.fit_ekfac(task, train, skip=config.curvature.skip, documents=few)
    probes = test.batch(torch.arange(TOGETHER)).inputs
    ihvps = [
        curvature.solve(
            inf.gradient(task, inf.log_prob(probe, int(label + 1) % 10)),
            damping_ratio=0.1,
        )
        for probe, label in zip(probes, test.labels[:TOGETHER], strict=True)
    ]
    chosen = torch.arange(edit.k)

    def craft() -> inf.Edits:
        return inf.craft(
            task,
            train,
            chosen,
            ihvps[0],
            budget=inf.LInf(edit.epsilon),
            steps=edit.steps,
        )

    edits = craft()
    settings = {"seed": 0, "start": start}
    seconds = {
        "score, one pair": timed(lambda: inf.influence(task, train, ihvps[0])),
        "score, per pair of eight": timed(lambda: inf.influences(task, train, ihvps))
        / TOGETHER,
        "craft": timed(craft),
        "retrain, one": timed(
            lambda: retrain(make_task, edits.apply(train), recipe, **settings)
        ),
        "retrain, per model of a stack of four": timed(
            lambda: retrain_stacked(
                make_task, train, [edits] * STACK, recipe, **settings
            )
        )
        / STACK,
    }
    row = {
        "scale": scale,
        "documents": len(train),
        "epoch_seconds": epoch,
        "seconds": seconds,
        "epochs": {name: value / epoch for name, value in seconds.items()},
        "threads": 1,
        "environment": environment(),
    }
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps({**before, scale: row}, indent=1) + "\n")


def timed(work: Callable[[], object]) -> float:
    """Return the median wall time of a few runs, in seconds."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    tyro.cli(main)
