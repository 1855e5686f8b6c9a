"""Second moments ``Σ x xᵀ``, those of a convolution's inputs without their patches.

For stride 1 and "same" zero padding, take the patches at every position that touches
the picture, those beyond its border among them. The block of ``Σ a aᵀ`` between kernel
offsets ``d`` and ``d + s`` is then the autocorrelation ``Σ_q x_q x_{q+s}ᵀ``, the same
for all pairs that differ by ``s``. By the correlation theorem it is

    Σ_q x_q x_{q+s}ᵀ = 1/N Σ_f e^{iθ_f·s} conj(X_f) X_fᵀ,   X the transform of x,

one small product per frequency instead of a long one per shift: for a 3×3 kernel on
32×32 pixels a third of the operations. Positions beyond the border, which the
convolution never visits, are then taken away; most of their patches is zero. Small
transforms are products with matrices of cosines and sines, faster than an FFT.
"""

import math
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
"""Below, mirroring costs what it saves (measured on one core)."""
_FEWEST_CHANNELS = 8
"""Below, products at each frequency are too thin to be fast (measured on one core)."""
_LARGEST_PRODUCT = 64
"""Pixels along an edge up to which a product transforms faster than an FFT."""
_CACHED = 2**24
"""Bytes of products at frequencies to hold at once."""


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


def is_correlated(conv: nn.Conv2d, size: tuple[int, int]) -> bool:
    """Tell whether :func:`shift_covariance` applies and needs fewer operations.

    Args:
        conv: Ungrouped, zero-padded convolution.
        size: Height and width of its inputs.

    Returns:
        True for stride 1, no dilation, an odd kernel larger than 1×1 padded to keep the
        size, no bias and more than a few channels, where patches would take longer.
    """
    kernel = conv.kernel_size[0], conv.kernel_size[1]
    same = tuple(k // 2 for k in kernel)
    odd = all(k % 2 == 1 for k in kernel) and max(kernel) > 1
    padded = conv.padding in ("same", same)
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.bias is None
    if not (odd and padded and plain and conv.in_channels >= _FEWEST_CHANNELS):
        return False
    channels, positions = conv.in_channels, math.prod(size)
    direct = gram_operations(positions, channels * math.prod(kernel))
    return correlation_operations(channels, size, kernel) < direct


def gram_operations(positions: int, width: int) -> float:
    """Count the operations of :func:`gram` for one document.

    Args:
        positions: Columns of its side.
        width: Numbers in each.

    Returns:
        Multiplications and additions.
    """
    share = (_BLOCKS + 1) / (2 * _BLOCKS) if width >= _FEWEST_COLUMNS else 1.0
    return 2.0 * share * positions * width**2


def correlation_operations(
    channels: int, size: tuple[int, int], kernel: tuple[int, int]
) -> float:
    """Count the operations of :func:`shift_covariance` for one of many documents.

    Args:
        channels: Of the picture.
        size: Its height and width.
        kernel: Odd height and width.

    Returns:
        Multiplications and additions: transforms, products at each frequency, border.
    """
    high, wide = (n + k - 1 for n, k in zip(size, kernel, strict=True))
    half = high // 2 + 1
    if max(size) > _LARGEST_PRODUCT:
        transforms = 2.5 * high * wide * math.log2(high * wide)
    else:
        transforms = 4.0 * half * size[0] * size[1] + 8.0 * half * wide * size[1]
    strips = [
        4.0 * across * (touched * k * channels) ** 2
        for reach, k, across in (
            (kernel[0] // 2, kernel[1], wide),
            (kernel[1] // 2, kernel[0], size[0]),
        )
        for touched in range(1, reach + 1)
    ]
    return channels * transforms + 8.0 * half * wide * channels**2 + sum(strips)


def shift_covariance(
    inputs: Float[Tensor, "b ch h w"], kernel: tuple[int, int]
) -> Float[Tensor, "i i"]:
    """Sum ``a aᵀ`` over documents and positions, ``a`` in the order of ``F.unfold``.

    Args:
        inputs: Inputs of the convolution, without padding.
        kernel: Odd height and width, padded to keep the size.

    Returns:
        Symmetric ``[ch·kh·kw, ch·kh·kw]``, at least in float32.
    """
    x = inputs.permute(0, 2, 3, 1).contiguous()
    if x.dtype in (torch.float16, torch.bfloat16):  # frequency 0 sums all pixels
        x = x.float()
    channels, (high, wide) = x.shape[3], kernel
    shifts = _autocorrelation(x, kernel)
    down, across = (torch.arange(k, device=x.device) for k in kernel)
    down = down - down[:, None] + high - 1
    across = across - across[:, None] + wide - 1
    blocks = shifts[down[:, None, :, None], across[None, :, None, :]]
    _take_border_away(blocks, x, wide - 1)
    beside = blocks.permute(1, 0, 3, 2, 4, 5), x.transpose(1, 2)
    _take_border_away(*beside, high // 2)
    size = channels * high * wide
    return blocks.permute(4, 0, 1, 5, 2, 3).reshape(size, size)


def _autocorrelation(
    x: Float[Tensor, "b h w ch"], kernel: tuple[int, int]
) -> Float[Tensor, "sy sx ch ch"]:
    """Sum ``x_q x_{q+s}ᵀ`` over documents and pixels, from the lowest shift on."""
    (_, height, width, channels), like = x.shape, (x.dtype, x.device)
    whole = _transformed(x, kernel)
    phases = _phases(height, width, kernel, *like)
    few = max(_CACHED // (4 * channels**2 * x.element_size()), 1)
    total: Tensor | None = None
    for part, turned in zip(whole.split(few), phases.split(few, 3), strict=True):
        products = (part.mT @ part).view(-1, 2, channels, 2, channels)
        real = products[:, 0, :, 0] + products[:, 1, :, 1]
        imaginary = products[:, 0, :, 1] - products[:, 1, :, 0]
        power = torch.stack([real, imaginary]).flatten(2)
        found = turned.flatten(2) @ power.flatten(0, 1)
        total = found if total is None else total.add_(found)
    assert total is not None, "there is at least one frequency"
    return total.unflatten(2, (channels, channels))


def _transformed(
    x: Float[Tensor, "b h w ch"], kernel: tuple[int, int]
) -> Float[Tensor, "f b ch2"]:
    """Return half of the frequencies, real parts of all channels, then imaginary."""
    count, height, width, channels = x.shape
    if max(height, width) > _LARGEST_PRODUCT:
        sizes = width + kernel[1] - 1, height + kernel[0] - 1
        found = torch.view_as_real(torch.fft.rfft2(x, sizes, (2, 1)))
        return found.flatten(1, 2).permute(1, 0, 3, 2).flatten(2)
    rows, columns = _transforms(height, width, kernel, x.dtype, x.device)
    tall = (rows @ x.flatten(2)).view(-1, 2 * width, channels)
    return (columns @ tall).view(count, -1, 2 * channels).transpose(0, 1)


@cache
def _transforms(
    height: int,
    width: int,
    kernel: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Float[Tensor, "f2 h"], Float[Tensor, "g2 w2"]]:
    """Return what turns pixels of a column to frequencies, then those of a row.

    The picture is as if followed by zeros, so that shifts do not wrap around.
    """
    high, wide = height + kernel[0] - 1, width + kernel[1] - 1
    down, across = torch.arange(high // 2 + 1), torch.arange(wide)
    turn = 2 * math.pi / high * torch.outer(down, torch.arange(height)).double()
    rows = torch.stack([turn.cos(), -turn.sin()], 1).flatten(0, 1)
    turn = 2 * math.pi / wide * torch.outer(across, torch.arange(width)).double()
    cos, sin = turn.cos(), turn.sin()
    columns = torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1)
    return rows.to(device, dtype), columns.flatten(0, 1).to(device, dtype)


@cache
def _phases(
    height: int,
    width: int,
    kernel: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "sy sx 2 f"]:
    """Return what turns products at each frequency to shifts: ``cos θ``, ``−sin θ``."""
    high, wide = height + kernel[0] - 1, width + kernel[1] - 1
    down, across = torch.arange(high // 2 + 1), torch.arange(wide)
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
    phases = torch.stack([turn.cos() * weights, -turn.sin() * weights], 2)
    return phases.flatten(3).to(device, dtype)


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
