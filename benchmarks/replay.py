"""The replay gradient: memory against steps, time, and its cosine with EK-FAC.

    python benchmarks/replay.py

On the bundled digits (1,500 documents, small network), base models of three seeds and
the first pairs of each: the exact derivative through the last epoch, in its own order
and in fresh ones, beside the perturbation gradient of EK-FAC on the same documents.
Memory: most states of the training held at once, for more and more epochs.
"""

import json
import statistics
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import infusion as inf
from infusion.intervals import rank_correlation
from infusion.measure import predictions
from infusion.perturb.gradient import influence_gradient
from infusion.presets import find_preset
from infusion.replay.gradient import replay_gradient
from infusion.runs.store import environment
from infusion.seeding import derive, stream
from infusion.training.checkpoints import Checkpoint, reordered
from infusion.training.loop import init_model, train_epochs

SEEDS, PAIRS, ORDERS, K = (0, 1, 2), 4, 3, 15
OUT = Path(__file__).parent.parent / "results" / "replay.json"
PRESET = find_preset("digits")
CONFIG = PRESET.configs["small"]


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def base(seed: int, train: inf.Dataset) -> tuple[inf.Task, Checkpoint, float]:
    """A base model, its state before the last epoch, and that epoch's seconds."""
    model = init_model(lambda: PRESET.make_model("small", "resnet"), seed)
    task, kept, times = inf.classification(model), [], [time.perf_counter()]
    for checkpoint in train_epochs(task, train, CONFIG.train, seed=seed):
        kept.append(checkpoint)
        times.append(time.perf_counter())
    task.model.eval()
    return task, kept[-2], times[-1] - times[-2]


def rows_of(seed: int, train: inf.Dataset, test: inf.Dataset) -> list[dict[str, Any]]:
    task, start, epoch = base(seed, train)
    curvature = inf.fit_ekfac(task, train, skip=CONFIG.curvature.skip)
    predicted = predictions(task, test)
    found = []
    for index in range(PAIRS):
        generator = stream(seed, "replay benchmark", index)
        probe = int(torch.randint(len(test), (1,), generator=generator))
        trivial = {int(predicted[probe]), int(test.labels[probe])}
        target = next(c for c in range(10) if c not in trivial)
        inputs = test.batch(torch.tensor([probe])).inputs[0]
        measurement = inf.log_prob(inputs, target)
        ihvp = curvature.solve(inf.gradient(task, measurement), damping_ratio=0.1)
        chosen = inf.select(inf.influence(task, train, ihvp), k=K)
        values = train.batch(chosen).inputs
        approximate = influence_gradient([(task, ihvp)], train, chosen)(values)
        exact, seconds = [], []
        for order in range(ORDERS + 1):
            own = seed if order == 0 else derive(seed, "fresh order", order)
            begin = reordered(start, CONFIG.train, seed=own, size=len(train))
            began = time.perf_counter()
            through = replay_gradient(
                task, train, chosen, measurement, CONFIG.train, seed=own, start=begin
            )
            seconds.append(time.perf_counter() - began)
            exact.append(through.gradient)
        gains = [g.abs().flatten(1).sum(1).tolist() for g in (approximate, exact[0])]
        found.append(
            {
                "seed": seed,
                "probe": probe,
                "target": target,
                "cosine_own": cosine(approximate, exact[0]),
                "cosine_fresh": [cosine(approximate, g) for g in exact[1:]],
                "cosine_mean": cosine(approximate, torch.stack(exact[1:]).mean(0)),
                "cosine_between_orders": [
                    cosine(a, b) for a, b in combinations(exact, 2)
                ],
                "gain_rank_correlation": rank_correlation(*gains),
                "epochs_of_time": statistics.median(seconds) / epoch,
            }
        )
    return found


def memory(train: inf.Dataset, test: inf.Dataset) -> list[dict[str, int]]:
    task, start, _ = base(0, train)
    inputs = test.batch(torch.tensor([0])).inputs[0]
    last, found = CONFIG.train.epochs, []
    for more in (0, 1, 3, 7):
        config = replace(CONFIG.train, epochs=last + more)
        through = replay_gradient(
            task,
            train,
            torch.arange(K),
            inf.log_prob(inputs, 0),
            config,
            seed=0,
            start=start,
        )
        size = sum(v.numel() * v.element_size() for v in start.model.values())
        size += sum(v.numel() * v.element_size() for v in start.optimiser.values())
        found.append(
            {
                "steps": through.steps,
                "states": through.states,
                "bytes": through.states * size,
                "bytes_of_every_step": through.steps * size,
            }
        )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    train, test = PRESET.load(CONFIG.data)
    pairs = [row for seed in SEEDS for row in rows_of(seed, train, test)]
    result = {
        "pairs": pairs,
        "memory": memory(train, test),
        "environment": environment(),
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
