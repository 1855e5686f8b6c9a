"""Which documents to edit."""

from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.errors import InputError


def select(scores: Float[Tensor, " n"], *, k: int) -> Int[Tensor, " k"]:
    """Choose the documents that support the measurement most.

    Args:
        scores: Influence of each document, see :func:`infusion.influence`.
        k: How many.

    Returns:
        Their positions, largest influence first; ties by position. These are the
        paper's "most negative" documents: its scores lack the minus sign.

    Raises:
        InputError: ``k`` is not in ``1…n``, or a score is not finite.

    Example:
        >>> select(torch.tensor([0.1, 0.3, -0.2]), k=2)
        tensor([1, 0])
    """
    if scores.ndim != 1 or not bool(torch.isfinite(scores).all()):
        raise InputError(
            f"scores must be finite, one per document, got shape {tuple(scores.shape)}"
            f" with {int((~torch.isfinite(scores)).sum())} NaN or infinite; use "
            "influence"
        )
    check_k(k, len(scores))
    return torch.sort(scores, descending=True, stable=True).indices[:k]


def select_random(
    size: int, *, k: int, generator: torch.Generator
) -> Int[Tensor, " k"]:
    """Choose documents at random: the control for the choice.

    Args:
        size: Documents to choose from.
        k: How many.
        generator: Stream of the draw.

    Returns:
        ``k`` different positions.

    Raises:
        InputError: ``k`` is not in ``1…size``.
    """
    check_k(k, size)
    return torch.randperm(size, generator=generator)[:k]


def check_k(k: int, size: int) -> None:
    """Refuse to choose more documents than there are, or none.

    Args:
        k: How many to choose.
        size: How many there are.

    Raises:
        InputError: ``k`` is not in ``1…size``.
    """
    if not (isinstance(k, Integral) and 1 <= k <= size):
        raise InputError(
            f"k must be a whole number in 1…{size}, the number of documents, got {k};"
            " choose another"
        )
