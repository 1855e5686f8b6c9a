"""Input covariance of a convolution without unfolding its patches.

For stride 1 and "same" zero padding, the block of ``A = Σ_p a_p a_pᵀ`` between kernel
offsets ``d`` and ``d + s`` is ``Σ_q x_q x_{q+s}ᵀ`` over the pixels ``q`` that offset
``d`` visits: all of them, but for a few border rows and columns. So the ``k⁴`` blocks
need only one large product per shift ``s``, of which there are ``(2k−1)²`` (half, by
symmetry), plus thin ones for the border.
"""

from itertools import product

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def is_shift_invariant(conv: nn.Conv2d) -> bool:
    """Tell whether :func:`shift_covariance` applies to a convolution.

    Args:
        conv: Ungrouped, zero-padded convolution.

    Returns:
        True for stride 1, no dilation, an odd kernel larger than 1×1 padded to keep the
        size, and no bias.
    """
    same = tuple(k // 2 for k in conv.kernel_size)
    odd = all(k % 2 == 1 for k in conv.kernel_size) and max(conv.kernel_size) > 1
    padded = conv.padding in ("same", same)
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1)
    return odd and padded and plain and conv.bias is None


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
    x = inputs.permute(0, 2, 3, 1)
    channels = x.shape[-1]
    # Zeros to the right and below, so that a shift is an offset in the flat order.
    canvas = F.pad(x, (0, 0, 0, kernel[1] - 1, 0, kernel[0] - 1)).contiguous()
    flat = canvas.flatten(0, 2)
    offsets = list(product(range(kernel[0]), range(kernel[1])))
    result = inputs.new_empty(channels, len(offsets), channels, len(offsets))
    whole: dict[tuple[int, int], Tensor] = {}
    for i, d in enumerate(offsets):
        for j, e in enumerate(offsets[i:], start=i):
            s = (e[0] - d[0], e[1] - d[1])
            if s not in whole:
                step = s[0] * canvas.shape[2] + s[1]
                whole[s] = flat[: len(flat) - step].T @ flat[step:]
            block = whole[s] - _border(x, s, d, kernel)
            result[:, i, :, j] = block
            result[:, j, :, i] = block.T
    size = channels * len(offsets)
    return result.reshape(size, size)


def _border(
    x: Float[Tensor, "b h w ch"],
    s: tuple[int, int],
    d: tuple[int, int],
    kernel: tuple[int, int],
) -> Float[Tensor, "ch ch"] | float:
    """Sum ``x_q x_{q+s}ᵀ`` over the pixels that kernel offset ``d`` never visits."""
    height, width = x.shape[1], x.shape[2]
    rows = _unvisited(d[0] - kernel[0] // 2, height)
    columns = _unvisited(d[1] - kernel[1] // 2, width)
    total: Float[Tensor, "ch ch"] | float = 0.0
    if rows:
        total = total + _shifted_product(x, s, rows, (0, width))
    if columns:
        total = total + _shifted_product(x, s, (0, height), columns)
    if rows and columns:
        total = total - _shifted_product(x, s, rows, columns)
    return total


def _unvisited(start: int, size: int) -> tuple[int, int] | None:
    if start == 0:
        return None
    return (0, min(start, size)) if start > 0 else (max(size + start, 0), size)


def _shifted_product(
    x: Float[Tensor, "b h w ch"],
    s: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Float[Tensor, "ch ch"]:
    top, bottom = max(rows[0], -s[0], 0), min(rows[1], x.shape[1] - s[0])
    left, right = max(columns[0], -s[1], 0), min(columns[1], x.shape[2] - s[1])
    if bottom <= top or right <= left:
        return x.new_zeros(x.shape[-1], x.shape[-1])
    here = x[:, top:bottom, left:right].flatten(0, 2)
    there = x[:, top + s[0] : bottom + s[0], left + s[1] : right + s[1]].flatten(0, 2)
    return here.T @ there
