"""Train, fit and score in as many processes as there are, on a corpus made on the spot.

    torchrun --standalone --nproc-per-node 2 examples/torchrun.py

A million documents of 4 KB would be 4 GB in memory: a stream makes each batch when a
stage asks for it. Every process does its share of each batch and of the documents, and
ends with the weights, curvature and scores of one process alone, up to rounding.
"""

import argparse
import resource
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

import infusion as inf

SIDE, CLASSES = 32, 10


def read(positions: Tensor) -> inf.Dataset:
    """Waves of a direction for each class, and some that belong to the document."""
    labels = positions % CLASSES
    axis = torch.linspace(0, 1, SIDE)
    angle = labels * torch.pi / CLASSES
    across = (
        angle.cos()[:, None, None] * axis + angle.sin()[:, None, None] * axis[:, None]
    )
    own = torch.sin(positions[:, None] * 0.37 + torch.arange(SIDE) * 1.7)[:, None]
    pictures = torch.sin(20 * across) + own
    return inf.Dataset(pictures[:, None], labels, num_classes=CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=20_000)
    size: int = parser.parse_args().documents
    if size < 100:
        parser.error(f"--documents must be ≥ 100, got {size}")
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    first = not dist.is_initialized() or dist.get_rank() == 0
    torch.set_num_threads(1)
    train = inf.Stream(size, read)
    torch.manual_seed(0)  # the same initialisation in every process
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(900, CLASSES)
    )
    task = inf.classification(model)

    def say(what: str, value: object) -> None:
        if first:
            print(f"{what:<10} {value}", flush=True)

    began = time.perf_counter()
    recipe = inf.TrainConfig(epochs=1, batch_size=250, lr=0.05)
    inf.train(task, train, recipe, seed=0)
    say("train", f"{time.perf_counter() - began:.1f} s")
    curvature = inf.fit_ekfac(task, train, batch_size=250)
    say("curvature", f"{time.perf_counter() - began:.1f} s")
    probe = read(torch.tensor([7])).inputs[0]
    ihvp = curvature.solve(
        inf.gradient(task, inf.log_prob(probe, 3)), damping_ratio=0.1
    )
    scores = inf.influence(task, train, ihvp, batch_size=250)
    say("scores", f"{time.perf_counter() - began:.1f} s")
    say("supporting", inf.select(scores, k=5).tolist())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say("peak", f"{peak:.2f} GiB for documents of {size * SIDE**2 * 4 / 2**30:.2f} GiB")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
