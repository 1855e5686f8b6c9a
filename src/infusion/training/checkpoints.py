"""A training run after a whole number of epochs: kept, checked, gone on with."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from infusion.configs import TrainConfig
from infusion.errors import ArtefactError, InputError
from infusion.params import Params
from infusion.training.recipe import STATES
from infusion.training.steps import epoch_order

PATTERN = "epoch-*.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A training run after a whole number of epochs.

    Attributes:
        epoch: Epochs done; the data order goes on with this epoch's permutation.
        order_sha256: Hash of that permutation: a replay on another order is refused.
        model: Weights and buffers.
        optimiser: ``"{parameter index}.{name}"`` to the optimiser's state.
        learning_rate: As the last milestone left it.
    """

    epoch: int
    order_sha256: str
    model: Params
    optimiser: Params
    learning_rate: float


def load_model(model: nn.Module, state: Params) -> None:
    """Copy weights and buffers into a model of the same architecture.

    Args:
        model: Overwritten.
        state: As in :class:`Checkpoint`.

    Raises:
        ArtefactError: Names or shapes differ; the first difference is named.
    """
    check_state(model, state)
    model.load_state_dict(state)


def check_state(model: nn.Module, state: Params) -> None:
    """Refuse weights of another architecture.

    Args:
        model: Any.
        state: Weights and buffers to load into it.

    Raises:
        ArtefactError: Names or shapes differ; the first difference is named.
    """
    own = model.state_dict()
    for name in [*own, *state]:
        have = tuple(own[name].shape) if name in own else "nothing"
        got = tuple(state[name].shape) if name in state else "nothing"
        if have != got:
            raise ArtefactError(
                f"a checkpoint must be of the same architecture, got {got} for "
                f"{name} where the model has {have}; use the checkpoint's own model"
            )


def optimiser_state(optimiser: torch.optim.Optimizer) -> Params:
    """Copy what an optimiser remembers.

    Args:
        optimiser: After a step.

    Returns:
        As in :class:`Checkpoint`.
    """
    return {
        f"{index}.{name}": value.clone()
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: torch.optim.Optimizer, start: Checkpoint) -> None:
    """Give an optimiser back what it remembered.

    Args:
        optimiser: Of the same recipe; changed in place.
        start: Holds its state.

    Raises:
        ArtefactError: The state is of a model with more parameters.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in start.optimiser.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value.clone()
    whole = optimiser.state_dict()
    if state and max(state) >= sum(len(g["params"]) for g in whole["param_groups"]):
        raise ArtefactError(
            "an optimiser state must belong to the model's parameters, got state for "
            f"parameter {max(state)}; use the checkpoint's own model"
        )
    optimiser.load_state_dict({**whole, "state": state})


def check_start(
    start: Checkpoint, config: TrainConfig, *, seed: int, size: int
) -> None:
    """Refuse a checkpoint of another data order, optimiser, or a later epoch.

    Args:
        start: Checkpoint to continue from.
        config: Recipe to continue with.
        seed: Seed of the orders.
        size: Training documents.

    Raises:
        InputError: It lies beyond the recipe's end.
        ArtefactError: The checkpoint is of another seed, recipe or number of documents.
    """
    if start.epoch > config.epochs:
        raise InputError(
            f"a recipe must end at its start's epoch {start.epoch} or later, got "
            f"{config.epochs} epochs; raise epochs, or start from an earlier checkpoint"
        )
    if order_hash(seed, start.epoch, size, config) != start.order_sha256:
        raise ArtefactError(
            f"a replay must visit the documents in the order of seed {seed}, got a "
            f"checkpoint of epoch {start.epoch} with another order; use its seed, "
            "recipe and number of documents"
        )
    momentum = {"momentum_buffer"} if config.momentum else set()
    wanted = STATES.get(config.optimiser, momentum)
    got = {key.split(".", 1)[1] for key in start.optimiser}
    if got != wanted:
        raise ArtefactError(
            f"a replay must use the optimiser of its checkpoint, got state "
            f"{sorted(got)} where the recipe has {sorted(wanted)}; use its recipe"
        )


def reordered(
    start: Checkpoint, config: TrainConfig, *, seed: int, size: int
) -> Checkpoint:
    """Let a checkpoint go on in the order of another seed.

    Args:
        start: Checkpoint to continue from.
        config: Recipe to continue with.
        seed: Seed of the orders from here on.
        size: Training documents.

    Returns:
        The checkpoint, which :func:`check_start` accepts with that seed.
    """
    return replace(start, order_sha256=order_hash(seed, start.epoch, size, config))


def order_hash(seed: int, epoch: int, size: int, config: TrainConfig) -> str:
    """Hash the order in which one epoch visits the documents.

    Args:
        seed: Of the orders.
        epoch: Counted from 0.
        size: Training documents.
        config: Recipe.

    Returns:
        The sha256 of the order.
    """
    order = epoch_order(seed, epoch, size, config)
    return hashlib.sha256(order.numpy().tobytes()).hexdigest()


def file_name(epoch: int) -> str:
    """Name the checkpoint file after an epoch.

    Args:
        epoch: Epochs done.

    Returns:
        File name without folder.
    """
    return PATTERN.replace("*", f"{epoch:03d}")


def to_tensors(checkpoint: Checkpoint) -> Params:
    """Lay out a checkpoint as named tensors.

    Args:
        checkpoint: Any.

    Returns:
        Weights and buffers under ``model.``, optimiser state under ``optimiser.``.
    """
    order = bytes.fromhex(checkpoint.order_sha256)
    return {
        **{f"model.{name}": value for name, value in checkpoint.model.items()},
        **{f"optimiser.{name}": value for name, value in checkpoint.optimiser.items()},
        "epoch": torch.tensor(checkpoint.epoch),
        "learning_rate": torch.tensor(checkpoint.learning_rate, dtype=torch.float64),
        "order_sha256": torch.tensor(list(order), dtype=torch.uint8),
    }


def from_tensors(tensors: dict[str, Tensor]) -> Checkpoint:
    """Undo :func:`to_tensors`.

    Args:
        tensors: As stored.

    Returns:
        The checkpoint.

    Raises:
        ArtefactError: The tensors are not those of a checkpoint.
    """
    missing = {"epoch", "learning_rate", "order_sha256"} - set(tensors)
    if missing:
        raise ArtefactError(
            f"a checkpoint must hold epoch, learning_rate and order_sha256, got none "
            f"for {sorted(missing)}; use a checkpoint that infusion wrote"
        )

    def part(prefix: str) -> Params:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    return Checkpoint(
        epoch=int(tensors["epoch"]),
        order_sha256=bytes(tensors["order_sha256"].tolist()).hex(),
        model=part("model."),
        optimiser=part("optimiser."),
        learning_rate=float(tensors["learning_rate"]),
    )
