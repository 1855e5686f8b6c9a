"""A training run between two steps, as values: what a replay carries on and returns to.

Nothing here has a graph; :mod:`infusion.replay.gradient` gives it one.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from infusion.configs import TrainConfig
from infusion.params import Params
from infusion.records import Task
from infusion.seeding import derive
from infusion.tasks import first_parameter
from infusion.training.checkpoints import Checkpoint, check_state
from infusion.training.layout import is_channels_last
from infusion.training.steps import epoch_steps

_PICTURES = 4
"""Axes of what has a channels-last layout."""
_FIELDS = ("params", "buffers", "slots")


class State(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
        params: Of the model, those that are not trained too.
        buffers: Running statistics and the like.
        slots: Of the optimiser, ``name.slot``.
        random: States of torch's generators.
    """

    params: Params
    buffers: Params
    slots: Params
    random: list[Tensor]

    def flat(self) -> Params:
        """Return all tensors but the generators', ``part/name``."""
        return {
            f"{part}/{name}": value
            for part in _FIELDS
            for name, value in getattr(self, part).items()
        }

    def using(self, flat: Params) -> "State":
        """Put tensors of :meth:`flat`'s names in place of its own."""
        return self._replace(
            **{
                part: {
                    name: flat.get(f"{part}/{name}", value)
                    for name, value in getattr(self, part).items()
                }
                for part in _FIELDS
            }
        )

    def detached(self) -> "State":
        """Cut it from its graph."""
        return self.using({key: value.detach() for key, value in self.flat().items()})


class ReplayStep(NamedTuple):
    """One optimiser step of a recorded training.

    Attributes:
        documents: Of its batch, in order.
        learning_rate: Of this step.
        noise: Seed of dropout and the like where an epoch begins.
    """

    documents: Tensor
    learning_rate: float
    noise: int | None


def steps_after(
    config: TrainConfig, seed: int, size: int, start: Checkpoint
) -> Iterator[ReplayStep]:
    """List the steps of :func:`infusion.training.loop.train_epochs` after a checkpoint.

    Args:
        config: Recipe.
        seed: Of its orders.
        size: Number of documents.
        start: Where it goes on.

    Yields:
        One step after the other.
    """
    rate = start.learning_rate
    for epoch in range(start.epoch, config.epochs):
        steps = epoch_steps(config, seed=seed, epoch=epoch, size=size, rate=rate)
        for place, step in enumerate(steps):
            noise = derive(seed, "train", "noise", epoch) if place == 0 else None
            yield ReplayStep(*step, noise)
        if epoch + 1 in config.milestones:
            rate *= config.gamma


def first_state(task: Task, start: Checkpoint, config: TrainConfig) -> State:
    """Split a checkpoint into parameters, buffers and the optimiser's slots.

    Args:
        task: Its model names them.
        start: What training returned.
        config: Recipe; gives the layout of filters.

    Returns:
        The state before the first step after it.

    Raises:
        ArtefactError: The checkpoint is of another model.
    """
    check_state(task.model, start.model)
    like = first_parameter(task)
    last = is_channels_last(config, like)

    def placed(value: Tensor) -> Tensor:
        value = value.to(like.device)
        if last and value.ndim == _PICTURES:  # as training lays it out
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    named = [name for name, _ in task.model.named_parameters()]
    own = dict(task.model.named_buffers())  # those that are not stored are constants
    slots = {}
    for key, value in start.optimiser.items():
        index, slot = key.split(".", 1)
        slots[f"{named[int(index)]}.{slot}"] = placed(value)
    return State(
        {name: placed(start.model[name]) for name in named},
        {name: start.model.get(name, value).to(value) for name, value in own.items()},
        slots,
        drawn(),
    )


def drawn() -> list[Tensor]:
    """Return the states of torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def draw_again(states: list[Tensor]) -> None:
    """Set the generators back.

    Args:
        states: What :func:`drawn` returned.
    """
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])
