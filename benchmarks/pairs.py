"""Seconds per pair of each stage after the shared ones, one at a time and together.

    python benchmarks/pairs.py --data FOLDER [--scale small] [--device cpu]
        [--rounds 3] [--no-stacked]

CIFAR-10 with the preset's network and edit; CPU time of one thread, or what a clock
shows on a GPU. One pair at a time against several together: scored in one pass, crafted
in one, retrained in one stack, on a GPU in recorded steps side by side. Everything
beside a plain training epoch in the same run; the goal is that a pair costs at most 1.5
epochs.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

import infusion as inf
from infusion.configs import RunConfig
from infusion.device import settle
from infusion.params import Params
from infusion.presets import find_preset
from infusion.records import Dataset, Measurement
from infusion.runs.store import environment
from infusion.training.checkpoints import Checkpoint, load_model
from infusion.training.lane import Training
from infusion.training.layout import lay_out
from infusion.training.loop import init_model, train_epochs
from infusion.training.retrain import retrain
from infusion.training.stacked import retrain_stacked
from infusion.training.together import train_together

TOGETHER = {"cpu": 4, "cuda": 16}
OUT = Path(__file__).parent.parent / "results" / "pairs.json"


@dataclass(frozen=True)
class Scene:
    """A base model and what is done to it."""

    config: RunConfig
    make_task: Callable[[], inf.Task]
    task: inf.Task
    train: Dataset
    start: Checkpoint
    curvature: inf.Curvature
    measurements: list[Measurement]
    ihvps: list[Params]
    epoch_seconds: float


def scene(
    data: str, scale: Literal["small", "paper"], epochs: int, device: str
) -> Scene:
    """Train a base model for a few epochs, and solve for a few measurements."""
    preset = find_preset("cifar10")
    config = preset.configs[scale]
    config = replace(config, train=replace(config.train, epochs=epochs))
    train, test = preset.load(replace(config.data, source=data))

    def make_task() -> inf.Task:
        model = init_model(lambda: preset.make_model(scale, config.architecture), 0)
        return inf.classification(model.to(device))

    task = make_task()
    times, checkpoints = [now(device)], []
    recorded = device == "cuda"
    for checkpoint in train_epochs(task, train, config.train, seed=0, record=recorded):
        times.append(now(device))
        checkpoints.append(checkpoint)
    load_model(task.model, checkpoints[-1].model)
    lay_out(task.model, config.train)
    few = torch.arange(512)
    curvature = inf.fit_ekfac(task, train, skip=config.curvature.skip, documents=few)
    count = TOGETHER[device]
    probes = test.batch(torch.arange(count)).inputs.to(device)
    measurements = [
        inf.log_prob(probe, int(label + 1) % 10)
        for probe, label in zip(probes, test.labels[:count], strict=True)
    ]
    return Scene(
        config,
        make_task,
        task,
        train,
        checkpoints[-2],
        curvature,
        measurements,
        [solved(task, curvature, each) for each in measurements],
        statistics.median(after - before for before, after in pairwise(times)),
    )


def solved(
    task: inf.Task, curvature: inf.Curvature, measurement: Measurement
) -> Params:
    """Solve for one measurement."""
    return curvature.solve(inf.gradient(task, measurement), damping_ratio=0.1)


def stages(on: Scene, device: str, rounds: int, stacked: bool) -> dict[str, float]:
    """Time every stage: seconds per pair."""
    edit, task, train, ihvps = on.config.edit, on.task, on.train, on.ihvps
    count = TOGETHER[device]
    chosen = [torch.arange(edit.k) + edit.k * pair for pair in range(count)]
    climb: dict[str, Any] = {"budget": inf.LInf(edit.epsilon), "steps": edit.steps}
    if device == "cuda":
        climb["batch_size"] = count * edit.k
    few = count if stacked else 1
    edits = inf.craft_together(task, train, chosen[:few], ihvps[:few], **climb)
    placed = train.to(device)

    def retrained(some: list[inf.Edits]) -> object:
        if device == "cpu":
            again: dict[str, Any] = {"seed": 0, "start": on.start}
            make_task, recipe = on.make_task, on.config.train
            if len(some) == 1:
                return retrain(make_task, some[0].apply(train), recipe, **again)
            return retrain_stacked(make_task, train, some, recipe, **again)
        return train_together(
            [
                Training(
                    on.make_task(),
                    each.apply(placed),
                    on.config.train,
                    seed=0,
                    start=on.start,
                    record=True,
                )
                for each in some
            ]
        )

    alone: dict[str, Callable[[], object]] = {
        "solve": lambda: solved(task, on.curvature, on.measurements[0]),
        "score": lambda: inf.influence(task, train, ihvps[0]),
        "craft": lambda: inf.craft(task, train, chosen[0], ihvps[0], **climb),
        "retrain": lambda: retrained(edits[:1]),
    }
    together: dict[str, Callable[[], object]] = {
        "solve": lambda: [solved(task, on.curvature, m) for m in on.measurements],
        "score": lambda: inf.influences(task, train, ihvps),
        "craft": lambda: inf.craft_together(task, train, chosen, ihvps, **climb),
        "retrain": lambda: retrained(edits),
    }
    if not stacked:
        del together["craft"], together["retrain"]
    found: dict[str, float] = {}
    for mode, works, pairs in (
        ("one at a time", alone, 1),
        ("together", together, count),
    ):
        each = {
            f"{stage}, {mode}": timed(work, device, rounds) / pairs
            for stage, work in works.items()
        }
        found |= each
        if len(each) == len(alone):
            found[f"pair, {mode}"] = sum(each.values())
    return found


def main(
    *,
    data: str,
    scale: Literal["small", "paper"] = "small",
    epochs: int = 4,
    device: Literal["cpu", "cuda"] = "cpu",
    rounds: int = 3,
    stacked: bool = True,
) -> None:
    """Time every stage and keep it in results/pairs.json.

    Args:
        data: CIFAR-10 as in `infusion run cifar10`.
        scale: Of the preset.
        epochs: Of the base model, three or more; the median is compared with.
        device: Where to compute.
        rounds: Runs of each stage; the median counts.
        stacked: Whether to craft and retrain for several pairs together too, which on a
            CPU takes longer than one by one.
    """
    settle(device, 1)
    on = scene(data, scale, epochs, device)
    seconds = stages(on, device, rounds, stacked)
    row = {
        "preset": on.config.preset,
        "scale": scale,
        "device": device,
        "documents": len(on.train),
        "edited": on.config.edit.k,
        "steps": on.config.edit.steps,
        "together": TOGETHER[device],
        "rounds": rounds,
        "epoch_seconds": on.epoch_seconds,
        "seconds": seconds,
        "epochs": {name: value / on.epoch_seconds for name, value in seconds.items()},
        "threads": 1,
        "environment": environment(),
    }
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps({**before, f"{scale}, {device}": row}, indent=1) + "\n")


def now(device: str) -> float:
    """Return seconds: CPU time of the one thread, or on a GPU what a clock shows."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], object], device: str, rounds: int) -> float:
    """Return the median time of a few runs, in seconds."""
    found = []
    for _ in range(rounds):
        began = now(device)
        work()
        found.append(now(device) - began)
    return statistics.median(found)


if __name__ == "__main__":
    tyro.cli(main)
