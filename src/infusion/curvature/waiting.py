"""Columns of small batches wait for each other before they are multiplied.

A product of few columns, ``Σ x xᵀ`` over 64 documents say, is computed faster than it
is added to a float64 sum of its own size. Columns without positions (a perceptron's)
are held until there are as many as they are long: no more memory than one product.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from infusion.curvature.kinds import Side


class Waiting:
    """Sides by name, each with the documents first."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: dict[str, list[tuple[Tensor, ...]]] = {}

    def add(self, name: str, *sides: Side) -> Iterator[tuple[Side, ...]]:
        """Take the sides of one batch.

        Args:
            name: Sides of one name are joined.
            sides: Of the same documents.

        Yields:
            What is to be multiplied now: nothing, the sides themselves where waiting
            saves nothing, or all that were held.
        """
        columns = [s for s in sides if isinstance(s, Tensor) and s.shape[2] == 1]
        if len(columns) < len(sides):
            yield sides
            return
        held = self._held.setdefault(name, [])
        held.append(tuple(columns))
        if sum(len(first) for first, *_ in held) >= max(s.shape[1] for s in columns):
            yield _joined(self._held.pop(name))

    def rest(self) -> Iterator[tuple[str, tuple[Side, ...]]]:
        """Yield what is still held."""
        for name, held in self._held.items():
            yield name, _joined(held)
        self._held = {}


def _joined(held: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(sides) for sides in zip(*held, strict=True))
