"""What to divide by: a spectral filter turns eigenvalues into an approximate inverse.

==================  =========================================================
damped              ``1 / (λ + damping)``
pseudo_inverse      ``1 / λ`` where ``λ > cutoff``, else 0
horizon             ``(1 − (1 − ηλ)^T) / λ``: T steps of gradient descent
horizon, flow       ``(1 − e^(−ηλT)) / λ``: the same in continuous time
==================  =========================================================

A horizon is what T steps reach from ``θ`` when the objective gains a linear term, so it
needs no damping: where ``λ → 0`` it tends to ``ηT``. Momentum ``β`` turns ``η`` into
``η / (1 − β)``; weight decay adds to ``λ``.

Source: Bae et al. (2024), arXiv 2405.12186, eq. 12 for the horizon.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.errors import InputError, check_choice

Eigenvalues = Float[Tensor, "..."]


def damped(eigenvalues: Eigenvalues, damping: float) -> Eigenvalues:
    """Return ``1 / (λ + damping)``.

    Args:
        eigenvalues: Of the curvature; a Hessian's may be negative.
        damping: Added to each.

    Returns:
        The filter's value at each eigenvalue.

    Raises:
        InputError: An eigenvalue plus the damping is not positive.

    Example:
        >>> damped(torch.tensor([1.0, 3.0]), 1.0)
        tensor([0.5000, 0.2500])
    """
    lowest = float(eigenvalues.min())
    if not lowest + damping > 0:
        raise InputError(
            f"every eigenvalue plus the damping must be > 0, got {lowest:.3g} + "
            f"{damping:.3g}; raise the damping"
        )
    return 1 / (eigenvalues + damping)


def pseudo_inverse(eigenvalues: Eigenvalues, cutoff: float) -> Eigenvalues:
    """Return ``1 / λ`` where ``λ > cutoff`` and 0 elsewhere.

    Args:
        eigenvalues: Of the curvature.
        cutoff: Absolute, ``≥ 0``; directions up to it are left out.

    Returns:
        The filter's value at each eigenvalue.

    Raises:
        InputError: The cutoff is negative or not finite.

    Example:
        >>> pseudo_inverse(torch.tensor([0.0, 4.0]), 1e-6)
        tensor([0.0000, 0.2500])
    """
    if not 0 <= cutoff < math.inf:
        raise InputError(
            f"a cutoff must be ≥ 0 and finite, got {cutoff}; 0 leaves out null "
            "directions only"
        )
    kept = eigenvalues > cutoff
    return torch.where(kept, 1 / torch.where(kept, eigenvalues, 1.0), 0.0)


def horizon(
    eigenvalues: Eigenvalues,
    *,
    lr: float,
    steps: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    time: Literal["steps", "flow"] = "steps",
) -> Eigenvalues:
    """Return what ``steps`` of gradient descent reach in each direction.

    Args:
        eigenvalues: Of the objective's curvature, a mean over documents.
        lr: Learning rate ``η``.
        steps: ``T``, optimiser steps.
        momentum: Heavy-ball ``β`` of SGD, in the limit of many steps.
        weight_decay: Added to each eigenvalue.
        time: ``"flow"`` is the limit of small steps and accepts any ``ηλ``.

    Returns:
        The filter's value at each eigenvalue.

    Raises:
        InputError: A setting is out of range, or ``ηλ ≥ 1``: the discrete form then
            overshoots or diverges.

    Example:
        >>> horizon(torch.tensor([0.0, 0.5]), lr=1.0, steps=2)
        tensor([2.0000, 1.5000])
    """
    if not (lr > 0 and steps >= 1 and 0 <= momentum < 1 and weight_decay >= 0):
        raise InputError(
            "a horizon needs lr > 0, steps ≥ 1, 0 ≤ momentum < 1 and weight decay ≥ 0, "
            f"got {lr}, {steps}, {momentum} and {weight_decay}; change the one out of "
            "range"
        )
    rate = lr / (1 - momentum)
    check_choice("time", time, ("steps", "flow"))
    values = eigenvalues.double() + weight_decay
    largest = float(values.max()) * rate
    if time == "steps" and largest >= 1:
        raise InputError(
            f"ηλ must be < 1 in every direction, got η = {rate:.3g} times λ = "
            f"{float(values.max()):.3g} = {largest:.3g}; lower lr or pass time='flow'"
        )
    if float(values.min()) < 0:
        raise InputError(
            f"a horizon needs eigenvalues ≥ 0, got {float(values.min()):.3g}; add "
            "weight decay or use a positive semi-definite curvature"
        )
    decay = torch.log1p(-rate * values) if time == "steps" else -rate * values
    still = values == 0
    reached = -torch.expm1(steps * decay) / torch.where(still, 1.0, values)
    return torch.where(still, rate * steps, reached).to(eigenvalues.dtype)
