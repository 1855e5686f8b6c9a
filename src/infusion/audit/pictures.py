"""Scores from what a picture shows where pictures show little."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from infusion.audit.evidence import Evidence
from infusion.errors import NotApplicableError
from infusion.records import Dataset
from infusion.seeding import stream

_LAPLACE = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
"""Blind to planes: difference of two Laplacians, gain 6 on white noise."""
_GAIN = 6.0
_SMOOTH = 0.25
"""Share of a picture's places that are taken for smooth."""
_BLOCK = 8
"""Pixels along a block."""
_QUIET = 0.25
"""Share of the directions of a block that are taken for quiet."""
_ENOUGH = 4
"""Blocks for each of their values: a few edited pictures must not span a direction."""
_NOTHING = 1e-8
"""Variance over the largest that counts as none."""
_PICTURES = 1024
"""Held at once."""


def noise(evidence: Evidence) -> Float[Tensor, " n"]:
    """Noise of a picture where it is smoothest, in its colours where it has some.

    Fine detail of a photograph is much the same in all channels, and what is left is
    blurred by how cameras and JPEG store colour. Edits move every value by itself.

    Args:
        evidence: Its documents are pictures ``[n, channels, h, w]``.

    Returns:
        Lower quartile, over places and channels, of the absolute response to
        Immerkær's filter, less its mean over several channels; in values; large:
        suspicious.

    Raises:
        NotApplicableError: They are none, or smaller than the filter.

    Source:
        Immerkær (1996), Fast noise variance estimation, for the filter.
    """
    return torch.cat(
        [
            residuals(pictures).double().quantile(_SMOOTH, dim=1)
            for _, pictures in read_pictures(evidence.data)
        ]
    )


def residuals(pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n m"]:
    """Filter pictures: what is left has no smooth parts, and none that is grey.

    Args:
        pictures: In values.

    Returns:
        Absolute response at every place and channel, differentiable.
    """
    mask = torch.tensor(_LAPLACE).to(pictures)[None, None] / _GAIN
    found = F.conv2d(pictures.flatten(0, 1)[:, None], mask)
    found = found.reshape(*pictures.shape[:2], -1)
    if pictures.shape[1] > 1:
        found = found - found.mean(1, keepdim=True)
    return found.abs().flatten(1)


def unquiet(evidence: Evidence) -> Float[Tensor, " n"]:
    """Energy of a picture in the directions along which pictures hardly vary.

    They are learned from the other half of the documents: one that is edited must not
    turn the directions away from itself.

    Args:
        evidence: Its documents are pictures ``[n, channels, h, w]``.

    Returns:
        Least, over the blocks of the picture, of :meth:`Quiet.energies`; large:
        suspicious.

    Raises:
        NotApplicableError: They are none, too few, or no two of their blocks differ.
    """
    data, scores = evidence.data, torch.zeros(len(evidence.data), dtype=torch.float64)
    order = torch.randperm(len(data), generator=stream(0, "audit", "halves"))
    halves = order.tensor_split(2)
    for own, other in (halves, halves[::-1]):
        quiet = quiet_directions(data.take(other))
        own_pictures = read_pictures(data.take(own))
        least = [quiet.energies(each).amin(1) for _, each in own_pictures]
        scores[own] = torch.cat(least).double()
    return scores


@dataclass(frozen=True)
class Quiet:
    """The quietest principal directions of the blocks of pictures.

    Attributes:
        block: Pixels along a block.
        mean: Of all blocks.
        directions: In columns.
        variances: Along each.
    """

    block: int
    mean: Float[Tensor, " d"]
    directions: Float[Tensor, "d m"]
    variances: Float[Tensor, " m"]

    def energies(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, "n blocks"]:
        """Square a block's part along each direction, over the variance; the mean.

        Args:
            pictures: In values.

        Returns:
            About 1 for usual blocks, differentiable.
        """
        inside = (_blocks(pictures, self.block) - self.mean) @ self.directions
        return (inside.square() / self.variances).mean(-1)


def quiet_directions(data: Dataset) -> Quiet:
    """Learn along which directions blocks of pictures hardly vary.

    Args:
        data: Pictures ``[n, channels, h, w]``.

    Returns:
        A quarter of the principal directions, those of the least variance that is some.

    Raises:
        NotApplicableError: They are no pictures, too few, or no two blocks differ.
    """
    side = min(_BLOCK, *data.inputs.shape[-2:])
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for _, pictures in read_pictures(data):
        blocks = _blocks(pictures, side).flatten(0, 1).double()
        count += len(blocks)
        total, squares = total + blocks.sum(0), squares + blocks.T @ blocks
    if count < _ENOUGH * len(squares):
        raise NotApplicableError(
            f"quiet directions need {_ENOUGH} blocks of pictures for each of their "
            f"{len(squares)} values, got {count}; leave the detector out"
        )
    mean = total / count
    values, vectors = torch.linalg.eigh(squares / count - torch.outer(mean, mean))
    some = (values > _NOTHING * values[-1].clamp_min(_NOTHING)).nonzero()[:, 0]
    if not len(some):
        raise NotApplicableError(
            f"quiet directions need pictures that differ, got {len(data)} that are one "
            "colour; leave the detector out"
        )
    kept = some[: max(1, math.ceil(_QUIET * len(some)))]
    return Quiet(side, mean.float(), vectors[:, kept].float(), values[kept].float())


def _blocks(
    pictures: Float[Tensor, "n c h w"], side: int
) -> Float[Tensor, "n blocks d"]:
    """Cover pictures with blocks, as few as will do."""
    rows, columns = (
        sorted({round(i * (size - side) / max(n - 1, 1)) for i in range(n)})
        for size in pictures.shape[-2:]
        for n in [math.ceil(size / side)]
    )
    parts = [
        pictures[..., top : top + side, left : left + side].flatten(1)
        for top in rows
        for left in columns
    ]
    return torch.stack(parts, 1)


def read_pictures(
    data: Dataset,
) -> Iterator[tuple[Int[Tensor, " n"], Float[Tensor, "n c h w"]]]:
    """Read pictures a few at a time.

    Args:
        data: Documents.

    Yields:
        Their positions, and them in values.

    Raises:
        NotApplicableError: They are none, or smaller than a filter.
    """
    check_pictures(data)
    for places in torch.arange(len(data)).split(_PICTURES):
        yield places, data.take(places).values().inputs.float().cpu()


def check_pictures(data: Dataset) -> None:
    """Refuse what no detector of pictures can read.

    Args:
        data: Documents.

    Raises:
        NotApplicableError: They are no pictures, or smaller than a filter.
    """
    shape = tuple(data.inputs.shape)
    numbers = data.levels is not None or data.inputs.is_floating_point()
    if not numbers or len(shape) != 4 or min(shape[2:]) < len(_LAPLACE):
        raise NotApplicableError(
            "this reads pictures [n, channels, h, w] of 3 × 3 pixels at least, "
            f"got {data.inputs.dtype} of shape {shape}; leave the detector out"
        )
