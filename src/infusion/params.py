"""Parameters, gradients and IHVPs are all ``dict[str, Tensor]``."""

import torch
from torch import Tensor

Params = dict[str, Tensor]


def is_finite(vector: Params) -> bool:
    """Tell whether no entry is NaN or infinite.

    Args:
        vector: Parameters, a gradient or an IHVP.

    Returns:
        True where every entry is finite.
    """
    return all(bool(torch.isfinite(v).all()) for v in vector.values())


def dot(left: Params, right: Params) -> float:
    """Inner product over all entries, in float64.

    Args:
        left: A vector.
        right: Another over the same parameters.

    Returns:
        ``⟨left, right⟩``.
    """
    return sum(float((v.double() * right[n].double()).sum()) for n, v in left.items())


def axpy(scale: float, x: Params, y: Params) -> Params:
    """Return ``scale · x + y``.

    Args:
        scale: Factor.
        x: A vector.
        y: Another over the same parameters.

    Returns:
        A new vector.
    """
    return {n: scale * v + y[n] for n, v in x.items()}
