"""Parameters, gradients and IHVPs are all ``dict[str, Tensor]``."""

import hashlib

import torch
from torch import Tensor, nn

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


def params_sha256(values: Params) -> str:
    """Hash tensors bit for bit, a model's state or a gradient.

    Args:
        values: By name.

    Returns:
        sha256 hex digest over names and bytes, in the order of names.
    """
    total = hashlib.sha256()
    for name in sorted(values):
        flat = values[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        total.update(name.encode() + flat.numpy().tobytes())
    return total.hexdigest()


def model_sha256(model: nn.Module) -> str:
    """Hash a model's parameters and buffers bit for bit.

    Args:
        model: On any device; what its ``state_dict`` leaves out does not count.

    Returns:
        sha256 hex digest.
    """
    state = model.state_dict()
    return params_sha256({n: v for n, v in state.items() if isinstance(v, Tensor)})
