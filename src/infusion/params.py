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
