"""Second moments ``Σ x xᵀ``, those of a convolution's inputs without their patches.

For stride 1 and "same" zero padding, take the patches at every position that touches
the picture, those beyond its border among them. The block of ``Σ a aᵀ`` between kernel
offsets ``d`` and ``d + s`` is then the autocorrelation ``Σ_q x_q x_{q+s}ᵀ``, the same
for all pairs that differ by ``s``. By the correlation theorem it is

    Σ_q x_q x_{q+s}ᵀ = 1/N Σ_f e^{iθ_f·s} conj(X_f) X_fᵀ,   X the transform of x,

one small product per frequency instead of a long one per shift: for a 3×3 kernel on
32×32 pixels a third of the operations. Positions beyond the border, which the
convolution never visits, are then taken away; most of their patches is zero. The
transforms are products with matrices of cosines and sines, faster than FFTs this small.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infusion.curvature.kinds import Side, dense
from infusion.curvature.patches import Patches

_BLOCKS = 4
"""Of the columns of a symmetric product: those below the diagonal are mirrored."""
_FEWEST_COLUMNS = 256
_FEWEST_CHANNELS = 8


def gram(side: Side) -> Float[Tensor, "d d"]:
    """Sum ``x xᵀ`` over documents and positions.

    Args:
        side: Columns, not one-hot.

    Returns:
        Symmetric, positive semi-definite.
    """
    if isinstance(side, Patches) and side.module.dilation == (1, 1):
        rows = side.rows()
        kernel, channels = rows.shape[2:4], rows.shape[4]
        blocks = _symmetric(rows.flatten(2).flatten(0, 1))
        size = len(blocks)
        blocks = blocks.view(2 * (*kernel, channels))
        return blocks.permute(2, 0, 1, 5, 3, 4).reshape(size, size)
    columns = dense(side)
    if columns.mT.is_contiguous():
        return _symmetric(columns.mT.flatten(0, 1))
    return _symmetric(columns.transpose(0, 1).flatten(1).T)


def _symmetric(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Return ``XᵀX``, computing little more than the half above the diagonal."""
    n, d = rows.shape
    if d < _FEWEST_COLUMNS or 2 * n < d:  # then mirroring costs more than it saves
        return rows.T @ rows
    result = rows.new_empty(d, d)
    edges = [d * i // _BLOCKS for i in range(_BLOCKS + 1)]
    for start, stop in pairwise(edges):
        result[start:stop, start:] = rows[:, start:stop].T @ rows[:, start:]
        result[stop:, start:stop] = result[start:stop, stop:].T
    return result


def is_shift_invariant(conv: nn.Conv2d) -> bool:
    """Tell whether :func:`shift_covariance` applies to a convolution.

    Args:
        conv: Ungrouped, zero-padded convolution.

    Returns:
        True for stride 1, no dilation, an odd kernel larger than 1×1 padded to keep the
        size, no bias, and more than a few channels: with few it is not faster.
    """
    same = tuple(k // 2 for k in conv.kernel_size)
    odd = all(k % 2 == 1 for k in conv.kernel_size) and max(conv.kernel_size) > 1
    padded = conv.padding in ("same", same)
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.bias is None
    return odd and padded and plain and conv.in_channels >= _FEWEST_CHANNELS


def shift_covariance(
    inputs: Float[Tensor, "b ch h w"], kernel: tuple[int, int]
) -> Float[Tensor, "i i"]:
    """Sum ``a aᵀ`` over documents and positions, ``a`` in the order of ``F.unfold``.

    Args:
        inputs: Inputs of the convolution, without padding.
        kernel: Odd height and width, padded to keep the size.

    Returns:
        Symmetric ``[ch·kh·kw, ch·kh·kw]``.
    """
    x = inputs.permute(0, 2, 3, 1).contiguous()
    channels, (high, wide) = x.shape[3], kernel
    spectrum = _spectrum(x.shape[1], x.shape[2], kernel).like(x)
    shifts = spectrum.autocorrelation(x)
    down, across = (torch.arange(k, device=x.device) for k in kernel)
    down = down - down[:, None] + high - 1
    across = across - across[:, None] + wide - 1
    blocks = shifts[down[:, None, :, None], across[None, :, None, :]]
    _take_border_away(blocks, x, wide - 1)
    beside = blocks.permute(1, 0, 3, 2, 4, 5), x.transpose(1, 2)
    _take_border_away(*beside, high // 2)
    size = channels * high * wide
    return blocks.permute(4, 0, 1, 5, 2, 3).reshape(size, size)


@dataclass(frozen=True)
class _Spectrum:
    """Constant matrices of one picture size and kernel.

    Attributes:
        rows: Pixels of a column to half of its frequencies, ``[2f, h]``.
        columns: Complex pixels of a row to all frequencies, ``[2g, 2w]``.
        shifts: Products at each frequency to shifts, ``[sy, sx, 2fg]``.
    """

    rows: Float[Tensor, "f2 h"]
    columns: Float[Tensor, "g2 w2"]
    shifts: Float[Tensor, "sy sx fg2"]

    def like(self, x: Tensor) -> "_Spectrum":
        """Return the matrices in the dtype and on the device of a picture."""
        return _Spectrum(self.rows.to(x), self.columns.to(x), self.shifts.to(x))

    def autocorrelation(
        self, x: Float[Tensor, "b h w ch"]
    ) -> Float[Tensor, "sy sx ch ch"]:
        """Sum ``x_q x_{q+s}ᵀ`` over documents and pixels, from the lowest shift on."""
        count, _, width, channels = x.shape
        tall = (self.rows @ x.flatten(2)).view(-1, 2 * width, channels)
        whole = (self.columns @ tall).view(count, -1, 2 * channels).transpose(0, 1)
        parts = (whole.mT @ whole).view(-1, 2, channels, 2, channels)
        real = parts[:, 0, :, 0] + parts[:, 1, :, 1]
        imaginary = parts[:, 0, :, 1] - parts[:, 1, :, 0]
        power = torch.stack([real, imaginary])
        found = self.shifts @ power.flatten(2).flatten(0, 1)
        return found.unflatten(2, (channels, channels))


@cache
def _spectrum(height: int, width: int, kernel: tuple[int, int]) -> _Spectrum:
    """Build the matrices, in float64; shifts must not wrap around."""
    high, wide = height + kernel[0] - 1, width + kernel[1] - 1
    down, across = torch.arange(high // 2 + 1), torch.arange(wide)
    turn = 2 * math.pi / high * torch.outer(down, torch.arange(height)).double()
    rows = torch.stack([turn.cos(), -turn.sin()], 1).flatten(0, 1)
    turn = 2 * math.pi / wide * torch.outer(across, torch.arange(width)).double()
    cos, sin = turn.cos(), turn.sin()
    columns = torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1)
    y = torch.arange(1 - kernel[0], kernel[0])
    z = torch.arange(1 - kernel[1], kernel[1])
    turn = (
        2 * math.pi / high * torch.outer(y, down).double()[:, None, :, None]
        + 2 * math.pi / wide * torch.outer(z, across).double()[None, :, None, :]
    )
    twice = torch.full((len(down), 1), 2.0, dtype=torch.float64)
    twice[0] = 1  # the other half of the frequencies is conjugate; these are their own
    if high % 2 == 0:
        twice[-1] = 1
    weights = twice / (high * wide)
    shifts = torch.stack([turn.cos() * weights, -turn.sin() * weights], 2)
    return _Spectrum(rows, columns.flatten(0, 1), shifts.flatten(2))


def _take_border_away(
    blocks: Float[Tensor, "kh kw kh kw ch ch"],
    x: Float[Tensor, "b h w ch"],
    margin: int,
) -> None:
    """Subtract the patches of positions above and below the picture.

    Args:
        blocks: Changed in place.
        x: Picture.
        margin: Zeros beside it that count as part of a row.
    """
    (high, wide), height, channels = blocks.shape[:2], x.shape[1], x.shape[3]
    reach = high // 2
    for position in (*range(-reach, 0), *range(height, height + reach)):
        touched = slice(max(reach - position, 0), min(height + reach - position, high))
        start = position - reach
        rows = x[:, start + touched.start : start + touched.stop]
        patches = F.pad(rows, (0, 0, margin, margin)).unfold(2, wide, 1)
        flat = patches.permute(0, 2, 1, 4, 3).flatten(0, 1).flatten(1)
        own = (flat.T @ flat).view(2 * (rows.shape[1], wide, channels))
        blocks[touched, :, touched] -= own.permute(0, 1, 3, 4, 2, 5)
