"""Known ways to spoil labels: flips, and a patch that stands for a class."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.attribution.selection import select_random
from infusion.data.edits import Edits
from infusion.measure import predictions
from infusion.presets.context import Pair, Run
from infusion.records import Dataset, Task
from infusion.seeding import derive

_PATCH = 0.125
"""Side of a patch over the height of the picture: 4 pixels of 32, as 3 were not learned
from 1 % of 10,000 pictures."""
_TRIED = 1_000
"""Test pictures that the patch is tried on."""


def flips(run: Run, pair: Pair, k: int) -> Edits:
    """Give random documents a random other label.

    Args:
        run: Settings and documents.
        pair: Its index names the draw.
        k: How many.

    Returns:
        The edits.
    """
    seed = derive(run.config.seed, "pair", pair.index, "label flips")
    generator = torch.Generator().manual_seed(seed)
    chosen = select_random(len(run.train), k=k, generator=generator)
    before = run.train.take(chosen)
    classes = run.train.num_classes or 0
    further = torch.randint(1, classes, (k,), generator=generator)
    after = replace(before, labels=(before.labels + further) % classes)
    return Edits(chosen, before, after, operator="flips", asked={"k": k}, seed=seed)


def patches(run: Run, pair: Pair, k: int) -> Edits:
    """Stamp a patch on random documents of other classes and label them the target.

    Args:
        run: Settings and documents.
        pair: Names the target and the draw.
        k: How many.

    Returns:
        The edits.

    Source:
        Gu et al. (2017), BadNets, arXiv 1708.06733.
    """
    seed = derive(run.config.seed, "pair", pair.index, "patch")
    generator = torch.Generator().manual_seed(seed)
    others = (run.train.labels != pair.target).nonzero()[:, 0]
    chosen = others[select_random(len(others), k=k, generator=generator)]
    before = run.train.take(chosen)
    labels = torch.full_like(before.labels, pair.target)
    after = replace(stamped(before), labels=labels)
    asked = {"k": k, "target": pair.target}
    return Edits(chosen, before, after, operator="patch", asked=asked, seed=seed)


def stamped(data: Dataset) -> Dataset:
    """Put the patch into the lower right corner: a checkerboard, its corners bright.

    Args:
        data: Pictures.

    Returns:
        The same with the patch.
    """
    inputs = data.inputs.clone()
    side = max(round(_PATCH * inputs.shape[-2]), 2)
    low, high = data.valid or (0.0, 1.0)
    dark, bright = (
        round(value * data.levels) if data.levels else value for value in (low, high)
    )
    board = (torch.arange(side)[:, None] + torch.arange(side)) % 2 == 0
    inputs[..., -side:, -side:] = torch.where(
        board, torch.tensor(bright), torch.tensor(dark)
    ).to(inputs)
    return replace(data, inputs=inputs)


def obeyed(run: Run, task: Task, target: int) -> float:
    """Measure how often a model takes the patch for the target.

    Args:
        run: Its test documents are patched.
        task: Model.
        target: Class.

    Returns:
        Share of patched test pictures of other classes that are predicted as it.
    """
    others: Int[Tensor, " n"] = (run.test.labels != target).nonzero()[:_TRIED, 0]
    found = predictions(task, stamped(run.test.take(others)))
    return float((found == target).double().mean())
