"""Checkpoints to tensors and back."""

import torch
from torch import Tensor

from infusion.errors import ArtefactError
from infusion.params import Params
from infusion.training import Checkpoint

PATTERN = "epoch-*.safetensors"


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
