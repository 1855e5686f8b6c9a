"""How the parameters of a layer lie in the matrix ``[r, c]`` of its curvature block."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.params import Params

Form = Literal["weight", "bias column", "bias row", "stacked"]


@dataclass(frozen=True)
class Layout:
    """A one-to-one map between named parameters and a matrix.

    Both directions take any number of leading axes: documents, or measurements.

    Attributes:
        names: Parameters in the model, weight first.
        shapes: Their shapes.
        form: The weight alone, ``[len(weight), rest]``; with the bias as a last column
            (Linear, convolutions) or row (``transformers``' Conv1D); or all parameters
            in one column.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    form: Form

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        if self.form == "stacked":
            return sum(map(math.prod, self.shapes)), 1
        rows, columns = self.shapes[0][0], math.prod(self.shapes[0][1:])
        return rows + (self.form == "bias row"), columns + (self.form == "bias column")

    def matrix(self, vector: Params) -> Float[Tensor, "... r c"]:
        """Lay out this layer's part of a vector."""
        lead = vector[self.names[0]].ndim - len(self.shapes[0])
        parts = [vector[name] for name in self.names]
        if self.form == "stacked":
            return torch.cat([part.flatten(lead) for part in parts], -1)[..., None]
        weight = parts[0].flatten(lead + 1)
        if self.form == "bias column":
            return torch.cat([weight, parts[1][..., None]], -1)
        if self.form == "bias row":
            return torch.cat([weight, parts[1][..., None, :]], -2)
        return weight

    def parameters(self, matrix: Float[Tensor, "... r c"]) -> Params:
        """Undo :meth:`matrix`."""
        if self.form == "stacked":
            parts = matrix[..., 0].split([math.prod(s) for s in self.shapes], -1)
        elif self.form == "bias column":
            parts = (matrix[..., :-1], matrix[..., -1])
        elif self.form == "bias row":
            parts = (matrix[..., :-1, :], matrix[..., -1, :])
        else:
            parts = (matrix,)
        lead = matrix.shape[:-2]
        return {
            name: part.reshape(*lead, *shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }
