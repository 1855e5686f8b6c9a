"""Which documents each step visits, and at what rate: functions of the seed alone."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.configs import TrainConfig
from infusion.errors import InputError
from infusion.seeding import stream

_LOWEST, _LAST = 25.0, 1e4
"""Largest rate over the first, and first over the last, of a cycle."""


class Step(NamedTuple):
    """One optimiser step.

    Attributes:
        documents: Of its batch, in order.
        learning_rate: Of this step.
    """

    documents: Tensor
    learning_rate: float


def epoch_order(
    seed: int, epoch: int, size: int, config: TrainConfig
) -> Int[Tensor, " n"]:
    """Return the order in which one epoch visits the documents.

    Args:
        seed: Root seed of the run.
        epoch: Counted from 0.
        size: Training documents.
        config: ``"fixed"`` order ignores the epoch.

    Returns:
        A permutation of ``0…size−1``.
    """
    part = 0 if config.order == "fixed" else epoch
    return torch.randperm(size, generator=stream(seed, "train", "order", part))


def epoch_steps(
    config: TrainConfig, *, seed: int, epoch: int, size: int, rate: float
) -> list[Step]:
    """List the steps of one epoch.

    Args:
        config: Recipe.
        seed: Of its orders.
        epoch: Counted from 0.
        size: Training documents.
        rate: What the last milestone left of the learning rate; a cycle has its own.

    Returns:
        The steps in order.

    Raises:
        InputError: The warm-up is as long as the training.
    """
    parts = epoch_order(seed, epoch, size, config).split(config.batch_size)
    if config.schedule == "steps":
        return [Step(documents, rate) for documents in parts]
    before, whole = epoch * len(parts), config.epochs * len(parts)
    if config.warmup >= whole:
        raise InputError(
            f"warmup of the training recipe must end before its {whole} steps, got "
            f"{config.warmup}; shorten it"
        )
    return [
        Step(documents, cycle_rate(config, before + step, whole))
        for step, documents in enumerate(parts)
    ]


def cycle_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of one step of a cycle.

    Args:
        config: Its largest rate and its warm-up.
        step: Counted from 0 over all epochs.
        steps: Of all epochs.

    Returns:
        That of ``torch.optim.lr_scheduler.OneCycleLR`` (Smith & Topin, 2018,
        arXiv 1708.07120) as a function of the step alone, so that a replay needs no
        state of it. Momentum stays; torch's default moves Adam's first beta too.
    """
    top, low = config.lr, config.lr / _LOWEST
    peak = config.warmup - 1
    if step <= peak:
        return _eased(low, top, step / peak if peak else 1.0)
    return _eased(top, low / _LAST, (step - peak) / (steps - 1 - peak))


def _eased(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
