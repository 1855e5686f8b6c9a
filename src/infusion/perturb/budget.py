"""Budgets: how far an edit may move a document, in the data's own units.

``LInf(ε)``: ``{δ : max |δⱼ| ≤ ε}``, nearest point ``clip(δ, −ε, ε)``.
``L2(ε)``: ``{δ : ‖δ‖₂ ≤ ε}``, nearest point ``δ · min(1, ε / ‖δ‖₂)``.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.errors import InputError


def _check(epsilon: float) -> None:
    if not (epsilon > 0 and math.isfinite(epsilon)):
        raise InputError(
            f"a budget must be > 0 and finite, got epsilon={epsilon}; 8/255 is usual "
            "for 8-bit pixels"
        )


def per_document(values: Float[Tensor, " k"], like: Tensor) -> Tensor:
    """Shape one value per document so that it broadcasts over the document's entries.

    Args:
        values: One per document.
        like: Tensor of shape ``[k, …]``.

    Returns:
        ``values`` of shape ``[k, 1, …]``.
    """
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class LInf:
    """Largest change of any one entry, in values."""

    epsilon: float
    name = "linf"

    def __post_init__(self) -> None:
        """Refuse an empty budget."""
        _check(self.epsilon)

    @staticmethod
    def size(delta: Float[Tensor, "k ..."]) -> Float[Tensor, " k"]:
        """Return ``max |δⱼ|`` of each document."""
        return delta.flatten(1).abs().amax(1)

    def project(
        self, delta: Float[Tensor, "k ..."], scale: float = 1.0
    ) -> Float[Tensor, "k ..."]:
        """Return the nearest edit within ``scale · ε``."""
        return delta.clamp(-self.epsilon * scale, self.epsilon * scale)


@dataclass(frozen=True)
class L2:
    """Euclidean length of one document's change, in values."""

    epsilon: float
    name = "l2"

    def __post_init__(self) -> None:
        """Refuse an empty budget."""
        _check(self.epsilon)

    @staticmethod
    def size(delta: Float[Tensor, "k ..."]) -> Float[Tensor, " k"]:
        """Return ``‖δ‖₂`` of each document."""
        return delta.flatten(1).norm(dim=1)

    def project(
        self, delta: Float[Tensor, "k ..."], scale: float = 1.0
    ) -> Float[Tensor, "k ..."]:
        """Return the nearest edit within ``scale · ε``."""
        length = self.size(delta).clamp_min(torch.finfo(delta.dtype).tiny)
        shrink = (self.epsilon * scale / length).clamp(max=1.0)
        return delta * per_document(shrink, delta)


Budget = LInf | L2
BUDGETS: dict[str, type[LInf] | type[L2]] = {"linf": LInf, "l2": L2}
