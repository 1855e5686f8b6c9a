"""Time and memory of each stage against documents, parameters, measurements and pairs.

    python benchmarks/growth.py

Random pictures of CIFAR-10's shape and the paper's network, one thread, each point in a
process of its own: the second of two calls is timed, and memory is what it held over
what was there before. Along each axis the other sizes stay at the middle. Pairs are
those of a sweep on the digits, in one process, from one base model.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import infusion as inf
from infusion.bench.cost import measure
from infusion.models.resnet import TinyResNet
from infusion.presets import find_preset
from infusion.runs.places import backend_of
from infusion.runs.store import environment
from infusion.suites.sweep import Sweep, sweep
from infusion.training.loop import init_model

OUT = Path(__file__).parent.parent / "results" / "growth.json"
SKIP = ("BatchNorm2d",)


@dataclass(frozen=True)
class Sizes:
    """Of one point; the defaults are the middle."""

    documents: int = 1_000
    width: int = 16
    measurements: int = 8
    pairs: int = 4


AXES: dict[str, tuple[int, ...]] = {
    "documents": (250, 500, 1_000, 2_000, 4_000),
    "width": (4, 8, 16, 32, 64),
    "measurements": (1, 2, 4, 8, 16, 32, 64),
    "pairs": (2, 4, 8, 16, 32),
}
STAGES = {
    "documents": ("train", "curvature", "scores", "crafting"),
    "width": ("train", "curvature", "scores", "crafting"),
    "measurements": ("scores",),
    "pairs": ("sweep",),
}


def corpus(sizes: Sizes) -> inf.Dataset:
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.documents, 3, 32, 32)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, shape[:1], generator=generator)
    return inf.Dataset(pixels, labels, levels=255, valid=(0.0, 1.0), num_classes=10)


def stages(sizes: Sizes) -> dict[str, Callable[[], Any]]:
    width = sizes.width
    widths = (width, 2 * width, 4 * width)
    data = corpus(sizes)
    task = inf.classification(init_model(lambda: TinyResNet(widths=widths), 0))
    recipe = inf.TrainConfig(epochs=1, batch_size=16, lr=0.01)
    inf.train(task, data.take(torch.arange(16)), recipe, seed=0)
    warm = inf.fit_ekfac(task, data.take(torch.arange(64)), skip=SKIP)
    ihvps = [
        warm.solve(
            inf.gradient(
                task, inf.log_prob(data.batch(torch.tensor([i])).inputs[0], 3)
            ),
            damping_ratio=0.1,
        )
        for i in range(sizes.measurements)
    ]
    chosen = torch.arange(100)
    return {
        "train": lambda: inf.train(task, data, recipe, seed=0),
        "curvature": lambda: inf.fit_ekfac(task, data, skip=SKIP),
        "scores": lambda: inf.influences(task, data, ihvps),
        "crafting": lambda: inf.craft(
            task, data, chosen, ihvps[0], budget=inf.LInf(8 / 255), steps=5
        ),
    }


def point(stage: str, sizes: Sizes) -> dict[str, Any]:
    torch.set_num_threads(1)
    call = swept(sizes) if stage == "sweep" else stages(sizes)[stage]
    if stage != "sweep":
        call()
    _, cost = measure(call)
    assert cost.peak_bytes is not None, "Linux says how much was held"
    width = sizes.width
    model = TinyResNet(widths=(width, 2 * width, 4 * width))
    return {
        "stage": stage,
        **asdict(sizes),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": cost.seconds,
        "bytes": cost.peak_bytes - cost.baseline_bytes,
    }


def swept(sizes: Sizes) -> Callable[[], Any]:
    """A sweep of so many pairs after the first, whose base model is there."""
    config = replace(find_preset("digits").configs["small"], threads=1)
    folder = Path(tempfile.mkdtemp(dir=os.environ["GROWTH_FOLDER"]))

    def go(pairs: int) -> None:
        with backend_of("processes", 1) as backend:
            sweep(Sweep(replace(config, pairs=pairs), "main", (0,)), folder, backend)

    go(1)
    return lambda: go(1 + sizes.pairs)


def main() -> None:
    rows = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for axis, values in AXES.items():
            for stage in STAGES[axis]:
                for value in values:
                    sizes = replace(Sizes(), **{axis: value})
                    asked = json.dumps([stage, asdict(sizes)])
                    done = subprocess.run(
                        [sys.executable, __file__, asked],
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                        env={**os.environ, "GROWTH_FOLDER": folder},
                    )
                    rows.append(
                        {"axis": axis, **json.loads(done.stdout.splitlines()[-1])}
                    )
                    print(f"{time.monotonic() - began:.0f} s", rows[-1], flush=True)
    OUT.write_text(json.dumps({"rows": rows, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, given = json.loads(sys.argv[1])
        print(json.dumps(point(name, Sizes(**given))))
    else:
        main()
