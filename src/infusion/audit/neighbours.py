"""Nearest neighbours of every document, in memory bounded by blocks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 1 << 26
"""Bytes of distances held at once."""


def nearest(
    points: Float[Tensor, "n d"], k: int, *, among: list[Tensor] | None = None
) -> Int[Tensor, "n k"]:
    """Find the k points next to each, itself left out, by Euclidean distance.

    Args:
        points: A row each.
        k: Neighbours; fewer than there are.
        among: Groups that neighbours are looked for in, each point in one; all of them
            if None. Groups must be larger than k.

    Returns:
        Positions, nearest first.
    """
    groups = [torch.arange(len(points))] if among is None else among
    result = torch.empty(len(points), k, dtype=torch.long)
    for own in groups:
        assert len(own) > k, "a group must have neighbours for all of its points"
        inside = points[own].float()
        squares = inside.square().sum(1)
        rows = max(1, _BLOCK // (4 * len(own)))
        for part in torch.arange(len(own)).split(rows):
            far = squares - 2 * inside[part] @ inside.T  # less the point's own square
            far[torch.arange(len(part)), part] = torch.inf
            result[own[part]] = own[far.topk(k, dim=1, largest=False).indices]
    return result
