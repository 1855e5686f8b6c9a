"""What a recipe does to a batch before the model sees it: mirror, move, add noise."""

import torch
from torch import nn

from infusion.configs import TrainConfig
from infusion.errors import InputError
from infusion.records import Batch

_PICTURES = 4


def disturbs(config: TrainConfig) -> bool:
    """Tell whether a recipe changes batches before the model sees them.

    Args:
        config: Recipe.

    Returns:
        True where :func:`disturbed` draws.
    """
    return config.flip or config.shift > 0 or config.noise > 0


def disturbed(batch: Batch, config: TrainConfig) -> Batch:
    """Augment a batch as a recipe asks, drawing from torch's global generator.

    Args:
        batch: Pictures ``[b, ch, h, w]`` where they are moved or mirrored.
        config: Its ``flip``, ``shift`` and ``noise``; nothing is drawn for what is off.

    Returns:
        The same inputs where nothing is asked.

    Raises:
        InputError: The documents are no pictures.
    """
    x = batch.inputs
    if (config.flip or config.shift) and x.ndim != _PICTURES:
        raise InputError(
            "a recipe that mirrors or moves documents needs pictures [b, ch, h, w], "
            f"got shape {tuple(x.shape)}; leave flip and shift out"
        )
    if config.flip:
        mirrored = (torch.rand(len(x)) < 0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if config.shift:
        wide, (height, width) = 2 * config.shift + 1, x.shape[2:]
        down, across = torch.randint(wide, (2, len(x), 1)).to(x.device)
        rows = (down + torch.arange(height, device=x.device))[:, :, None]
        columns = (across + torch.arange(width, device=x.device))[:, None, :]
        padded = nn.functional.pad(x, [config.shift] * 4).permute(0, 2, 3, 1)
        which = torch.arange(len(x), device=x.device)[:, None, None]
        x = padded[which, rows, columns].permute(0, 3, 1, 2)
    if config.noise:
        x = x + config.noise * torch.randn(x.shape).to(x)
    return batch._replace(inputs=x)
