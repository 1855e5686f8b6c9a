"""Arithmetic on parameters, gradients and IHVPs held as ``dict[str, Tensor]``."""

import math

import torch
from torch import Tensor

Params = dict[str, Tensor]


def dot(left: Params, right: Params) -> float:
    """Inner product over the names in ``left``, accumulated in float64.

    Args:
        left: First vector.
        right: Second vector; must hold every name of ``left``.

    Returns:
        ``Σ_name ⟨left, right⟩``.
    """
    return float(sum((v.double() * right[k].double()).sum() for k, v in left.items()))


def norm(vector: Params) -> float:
    """Euclidean norm over all entries, accumulated in float64.

    Args:
        vector: Parameters, a gradient or an IHVP.

    Returns:
        ``‖vector‖₂``.
    """
    return math.sqrt(dot(vector, vector))


def is_finite(vector: Params) -> bool:
    """Tell whether no entry is NaN or infinite.

    Args:
        vector: Parameters, a gradient or an IHVP.

    Returns:
        True where every entry is finite.
    """
    return all(bool(torch.isfinite(v).all()) for v in vector.values())
