"""How a model lies in memory while it is trained: rounding depends on it."""

import torch
from torch import Tensor, nn

from infusion.configs import TrainConfig


def is_channels_last(config: TrainConfig, like: Tensor) -> bool:
    """Tell how filters lie in memory: a GPU trains small ones faster without.

    Args:
        config: Recipe.
        like: A parameter of the model.

    Returns:
        Whether channels come last.
    """
    return config.channels_last and like.device.type == "cpu"


def lay_out(model: nn.Module, config: TrainConfig) -> None:
    """Lay a model out in memory as its recipe trains it: rounding depends on it.

    Args:
        model: Changed in place.
        config: Its ``channels_last``, which counts on a CPU.
    """
    if is_channels_last(config, next(model.parameters())):
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
