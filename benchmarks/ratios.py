"""Time as ratios within one run: never part of the tests.

    python benchmarks/ratios.py [--threads 1] [--documents 512]

Each row alternates the two contenders and compares the medians of their wall times:

- ``influence``: all documents on one measurement, against a plain forward pass over
  the same documents with the same layout (goal: at most 6; the floor is 3 to 4).
- ``crafting step``: one perturbation gradient, against double backward through the
  parameter gradients of the same batch (goal: at most 1).
- ``fit``: EK-FAC, per document, in plain forward passes.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import infusion as inf
from infusion.models.resnet import TinyResNet
from infusion.params import Params
from infusion.runs.store import environment
from infusion.tasks import batches, evaluating

ROUNDS = 5
OUT = Path(__file__).parent.parent / "results" / "ratios.json"


@dataclass(frozen=True)
class Setup:
    """The paper's network at initialisation, random pictures, and an IHVP."""

    task: inf.Task
    data: inf.Dataset
    ihvp: Params


def setup(documents: int) -> Setup:
    torch.manual_seed(0)
    model = TinyResNet().to(memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (documents, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (documents,))
    data = inf.Dataset(pixels, labels, levels=255, valid=(0.0, 1.0), num_classes=10)
    task = inf.classification(model)
    measured = inf.gradient(task, inf.log_prob(torch.rand(3, 32, 32), 3))
    ihvp = {
        k: v for k, v in measured.items() if "bn" not in k and "shortcut.1" not in k
    }
    return Setup(task, data, ihvp)


def forward(s: Setup) -> None:
    with evaluating(s.task.model), torch.no_grad():
        for _, batch in batches(s.task, s.data, 64):
            s.task.outputs(s.task.model, batch)


def double_backward(s: Setup, batch: inf.Batch) -> torch.Tensor:
    """The gradient that the paper's code takes: through parameter gradients."""
    named = {k: p for k, p in s.task.model.named_parameters() if k in s.ihvp}
    inputs = batch.inputs.clone().requires_grad_()
    with evaluating(s.task.model):
        outputs = s.task.outputs(s.task.model, batch._replace(inputs=inputs))
        loss = s.task.loss(outputs, batch).sum()
        grads = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        along = sum((g * s.ihvp[k]).sum() for k, g in zip(named, grads, strict=True))
        assert isinstance(along, torch.Tensor)
        return torch.autograd.grad(along, inputs)[0] / -len(s.data)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS
) -> dict[str, float]:
    """Alternate two contenders after one warm-up each."""
    ours()
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    mine, other = (statistics.median(side) for side in zip(*times, strict=True))
    return {"seconds": mine, "reference_seconds": other, "ratio": mine / other}


def main(threads: int = 1, documents: int = 512) -> None:
    """Print and store the rows.

    Args:
        threads: Torch threads.
        documents: Pictures per pass.
    """
    torch.set_num_threads(threads)
    s = setup(documents)
    batch = s.data.batch(torch.arange(100))

    def step() -> torch.Tensor:
        return inf.perturbation_gradient(
            s.task, batch, s.ihvp, num_documents=len(s.data)
        )

    expected = double_backward(s, batch)
    error = float((step() - expected).norm() / expected.norm())
    assert error < 1e-4, f"the two contenders must agree, got {error}"
    skip = ("BatchNorm2d",)
    rows = {
        "influence / forward pass": compare(
            lambda: inf.influence(s.task, s.data, s.ihvp), lambda: forward(s)
        ),
        "crafting step / double backward": compare(
            step, lambda: double_backward(s, batch)
        )
        | {"relative_difference": error},
        "EK-FAC fit / forward pass": compare(
            lambda: inf.fit_ekfac(s.task, s.data, skip=skip), lambda: forward(s)
        ),
    }
    for name, row in rows.items():
        print(f"{name}: {row['ratio']:.2f}")
    stored = json.loads(OUT.read_text()) if OUT.exists() else {}
    stored["1 thread" if threads == 1 else f"{threads} threads"] = {
        "documents": documents,
        "environment": environment(),
        "rows": rows,
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
