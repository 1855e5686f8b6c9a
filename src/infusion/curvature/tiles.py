"""A change of basis of 3×3 patches with a quarter of the products.

Rotating patches is a convolution with the basis vectors as filters. On tiles of 4×4
outputs it needs 36 products per pair of channels, not 144. With matrices ``A``,
``B``, ``G`` of polynomial multiplication at five points and infinity,

    y = Aᵀ [(G f Gᵀ) ∘ (Bᵀ x B)] A          per tile, summed over channels.

Source: Lavin and Gray (2016), arXiv 1509.09308, eq. 8, F(4×4, 3×3).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

TILE = 4
"""Outputs along an edge of a tile."""
_KERNEL = 3
_SIZE = TILE + _KERNEL - 1
_POINTS = (0.0, 1.0, -1.0, 2.0, -0.5)
"""Rounding of float32 costs about 1e-6 of the result with these, 2e-6 with ±2."""
_KEPT: ContextVar[WeakTensorKeyDictionary | None] = ContextVar("kept", default=None)
"""Basis to its filters at the points, inside :func:`filters_kept`."""


def turn_by_tiles(
    inputs: Float[Tensor, "b h w ch"], basis: Float[Tensor, "i c"]
) -> Float[Tensor, "b t c"]:
    """Return ``Cᵀ a_t`` for the patches of a 3×3 convolution, stride 1, padding 1.

    Args:
        inputs: Channels last, without padding.
        basis: Rows in the order of ``F.unfold``.

    Returns:
        In the order of output positions.
    """
    _, picture, outputs = (m.to(inputs) for m in _matrices())
    count, height, width, channels = inputs.shape
    below, right = -height % TILE, -width % TILE
    tiles = F.pad(inputs, (0, 0, 1, 1 + right, 1, 1 + below))
    tiles = tiles.unfold(1, _SIZE, TILE).unfold(2, _SIZE, TILE)
    down, across = tiles.shape[1:3]
    points = picture @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(_SIZE**2, -1)
    products = points.view(_SIZE**2, -1, channels) @ _kernels(basis, channels)
    turned = (outputs @ products.flatten(1)).view(TILE, TILE, count, down, across, -1)
    whole = turned.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
    return whole[:, :height, :width].flatten(1, 2)


def tile_operations(channels: int, size: tuple[int, int], filters: int) -> float:
    """Count the operations of :func:`turn_by_tiles` for one of many documents.

    Args:
        channels: Of the picture.
        size: Its height and width.
        filters: Columns of the basis.

    Returns:
        Multiplications and additions.
    """
    tiles = -(-size[0] // TILE) * -(-size[1] // TILE)
    points = _SIZE**2
    transforms = points * channels + TILE**2 * filters
    return 2.0 * tiles * points * (transforms + channels * filters)


@contextmanager
def filters_kept() -> Iterator[None]:
    """Transform a basis once for all batches of a pass; four times its size is held.

    Yields:
        Nothing.
    """
    token = _KEPT.set(WeakTensorKeyDictionary())
    try:
        yield
    finally:
        _KEPT.reset(token)


def _kernels(basis: Float[Tensor, "i c"], channels: int) -> Float[Tensor, "p ch c"]:
    """Return ``G f Gᵀ`` of a basis."""
    kept = _KEPT.get()
    if kept is not None and basis in kept:
        return kept[basis]
    filters = _matrices()[0].to(basis)
    taps = basis.unflatten(0, (channels, -1)).transpose(0, 1).flatten(1)
    kernels = (filters @ taps).view(_SIZE**2, channels, -1)
    if kept is not None:
        kept[basis] = kernels
    return kernels


@cache
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Return ``G ⊗ G``, ``Bᵀ ⊗ Bᵀ`` and ``Aᵀ ⊗ Aᵀ`` in float64."""
    # Transposing polynomial multiplication by evaluation gives a correlation.
    parts = (
        _at_points(_KERNEL),
        torch.linalg.inv(_at_points(_SIZE)).T,
        _at_points(TILE).T,
    )
    filters, picture, outputs = (torch.kron(part, part) for part in parts)
    return filters, picture, outputs


def _at_points(count: int) -> Float[Tensor, "p k"]:
    """Evaluate the first powers at the points, and the leading one at infinity."""
    points = torch.tensor(_POINTS, dtype=torch.float64)
    finite = torch.stack([points**power for power in range(count)], 1)
    return torch.cat([finite, torch.eye(count, dtype=torch.float64)[-1:]])
