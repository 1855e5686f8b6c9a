"""The optimisers' updates as functions with derivatives, one parameter at a time.

Formulas and state are those of ``torch.optim``, which tests compare them with.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from infusion.configs import TrainConfig
from infusion.params import Params

_EPS = 1e-8
"""Of torch's Adam, which recipes do not change."""


def clipped(gradients: Params, largest: float) -> Params:
    """Shorten gradients together, as ``torch.nn.utils.clip_grad_norm_`` does.

    Args:
        gradients: Of all parameters that have one.
        largest: Norm that they may have together.

    Returns:
        The gradients, scaled alike.
    """
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)
    return {name: g * scale for name, g in gradients.items()}


def _sgd(
    name: str,
    value: Tensor,
    gradient: Tensor,
    slots: Params,
    config: TrainConfig,
) -> Tensor:
    """``b ← μ b + g,  θ ← θ − η b``; the first ``b`` is ``g``."""
    gradient = gradient + config.weight_decay * value
    if config.momentum:
        before = slots.get(f"{name}.momentum_buffer")
        if before is not None:
            gradient = config.momentum * before + gradient
        slots[f"{name}.momentum_buffer"] = gradient
    return value - config.lr * gradient


def _adam(
    name: str,
    value: Tensor,
    gradient: Tensor,
    slots: Params,
    config: TrainConfig,
) -> Tensor:
    """``θ ← θ − η m̂ / (√v̂ + ε)``; where ``v = 0`` the root's derivative counts as 0."""
    # A gradient that is zero but for rounding, a bias before BatchNorm say, is scaled
    # up to whole steps, and its derivative means as little.
    first, second = config.betas
    gradient = gradient + config.weight_decay * value
    zero = torch.zeros_like(value)
    count = slots.get(f"{name}.step", torch.zeros(())).detach() + 1
    mean = first * slots.get(f"{name}.exp_avg", zero) + (1 - first) * gradient
    square = second * slots.get(f"{name}.exp_avg_sq", zero)
    square = square + (1 - second) * gradient * gradient
    slots |= {
        f"{name}.step": count,
        f"{name}.exp_avg": mean,
        f"{name}.exp_avg_sq": square,
    }
    reached, positive = float(count), square > 0
    root = torch.where(positive, square, 1.0).sqrt() * positive
    scale = root / math.sqrt(1 - second**reached) + _EPS
    return value - config.lr / (1 - first**reached) * mean / scale


def _adamw(
    name: str,
    value: Tensor,
    gradient: Tensor,
    slots: Params,
    config: TrainConfig,
) -> Tensor:
    """Shrink ``θ`` by ``1 − η λ`` first, then step as without decay."""
    value = value * (1 - config.lr * config.weight_decay)
    return _adam(name, value, gradient, slots, replace(config, weight_decay=0.0))


UPDATES: dict[str, Callable[..., Tensor]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
}
"""``(name, θ, gradient, state, recipe) -> θ``; the state is changed in place, and the
recipe's ``lr`` is that of this step."""
