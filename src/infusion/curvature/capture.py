"""What each layer saw in a forward pass, and the gradients at its outputs.

The two factors of a document's gradient (see :mod:`infusion.curvature.kinds`) are read
from a forward pass and a backward pass to the layers' outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from infusion.curvature.covariance import is_correlated, shift_covariance
from infusion.curvature.kinds import OneHot, Side, dense, response, spread_mask
from infusion.curvature.layers import Layer, Use
from infusion.errors import InputError
from infusion.params import Params

Gradients = dict[str, list[Tensor]]
"""Per use, the gradient at the output of each call."""


@dataclass(frozen=True)
class Factors:
    """The two sides of one use's gradients; ``Σ_t rows_t columns_tᵀ``."""

    rows: Side
    columns: Side


@dataclass
class Captured:
    """Inputs and output edges of every use in one forward pass.

    Attributes:
        shared: Uses that run once for all documents, position embeddings say.
        size: Documents of the batch.
        mask: Positions that count, ``[b, t]``; None for all.
        inputs: Per use, one tensor per call.
        edges: Likewise.
        shapes: Of the outputs, likewise.
    """

    shared: frozenset[str] = frozenset()
    size: int = 0
    mask: Bool[Tensor, "b t"] | None = None
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    edges: dict[str, list[GradientEdge]] = field(default_factory=dict)
    shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def start(self, size: int, mask: Tensor | None) -> None:
        """Forget the last forward pass and its graph, and expect another one."""
        self.inputs.clear()
        self.edges.clear()
        self.shapes.clear()
        self.size, self.mask = size, mask

    def record(self, use: Use, inputs: Tensor, output: Tensor) -> Tensor:
        """Note one call; return the output with a gradient edge per document."""
        if use.name in self.shared:
            inputs, output = self._spread(inputs), self._spread(output)
        if len(inputs) != self.size:
            raise InputError(
                "the first axis of a layer's input must be the documents, got "
                f"{len(inputs)} rows for {self.size} documents at {use.name}; skip it"
            )
        if not output.requires_grad:
            # A node of its own; a view of a leaf could not be changed in place.
            output = output.detach().requires_grad_().clone()
        self.inputs.setdefault(use.name, []).append(inputs.detach())
        self.edges.setdefault(use.name, []).append(get_gradient_edge(output))
        self.shapes.setdefault(use.name, []).append(tuple(output.shape))
        return output

    def _spread(self, value: Tensor) -> Tensor:
        """Repeat what is the same for all documents, so that each has its own."""
        whole = value if value.shape[0] == 1 else value[None]
        return whole.expand(self.size, *whole.shape[1:])

    def gradients(
        self,
        layers: list[Layer],
        outputs: Tensor,
        direction: Tensor,
        *,
        keep_graph: bool = False,
    ) -> Gradients:
        """Pull one output direction back to the output of every call of every use.

        Args:
            layers: Layers of this pass.
            outputs: The task's outputs, with graph.
            direction: Same shape as ``outputs``.
            keep_graph: Whether another direction follows.

        Returns:
            Per use, one gradient per call.

        Raises:
            InputError: The outputs do not depend on a layer.
        """
        if not outputs.requires_grad:
            raise InputError(
                "the outputs must depend on the task's model, got some that depend on "
                "no covered layer; do not detach them, and use the model handed in"
            )
        names = list(dict.fromkeys(use.name for lay in layers for use in lay.uses))
        edges = [edge for name in names for edge in self.edges[name]]
        pulled = iter(
            torch.autograd.grad(
                outputs, edges, direction, retain_graph=keep_graph, allow_unused=True
            )
        )
        result = {name: [next(pulled) for _ in self.edges[name]] for name in names}
        unused = [n for n, found in result.items() if all(g is None for g in found)]
        if unused:
            raise InputError(
                "the outputs must depend on every covered layer, got none on "
                f"{', '.join(unused)}; skip them"
            )
        return {
            name: [
                outputs.new_zeros(shape) if g is None else g
                for g, shape in zip(found, self.shapes[name], strict=True)
            ]
            for name, found in result.items()
        }

    def fixed(self, layer: Layer, use: Use) -> Side:
        """Return the side that does not depend on the direction, all calls in a row."""
        sides = [use.kind.fixed(use.module, x) for x in self.inputs[use.name]]
        if layer.layout.form.startswith("bias"):
            sides = [_with_ones(side) for side in sides]
        kept = self._columns_kept(use)
        return _joined([_masked(s, k) for s, k in zip(sides, kept, strict=True)])

    def moving(self, use: Use, gradients: Gradients) -> Tensor:
        """Return the side that follows from one direction, all calls in a row."""
        sides = [
            use.kind.moving(use.module, x, g, use.parameters)
            for x, g in zip(
                self.inputs[use.name], self._kept(use, gradients), strict=True
            )
        ]
        return sides[0] if len(sides) == 1 else torch.cat(sides, 2)

    def factors(self, layer: Layer, gradients: Gradients) -> list[Factors]:
        """Return both sides of every use of a layer.

        Args:
            layer: Of this pass.
            gradients: Of one direction.

        Returns:
            Sides on the axes of the layer's matrix.
        """
        result = []
        for use in layer.uses:
            fixed, moving = self.fixed(layer, use), self.moving(use, gradients)
            on_rows = use.kind.fixed_axis == "rows"
            result.append(Factors(fixed, moving) if on_rows else Factors(moving, fixed))
        return result

    def count(self, layer: Layer, use: Use, moving: Tensor) -> Tensor:
        """Count the columns of a use's sides that are not masked out."""
        if layer.has_one_hot_rows and use.kind.fixed_axis == "rows":
            side = self.fixed(layer, use)
            assert isinstance(side, OneHot), "only an embedding has one-hot rows"
            return side.counts().sum()
        kept = [k for k in self._columns_kept(use) if k is not None]
        if kept:
            return torch.stack([k.sum() for k in kept]).sum()
        return torch.tensor(self.size * moving.shape[2])

    def correlated(self, layer: Layer, use: Use) -> Float[Tensor, "d d"] | None:
        """Sum ``x xᵀ`` of the fixed side without its patches, where that is cheaper."""
        module, inputs = use.module, self.inputs[use.name]
        if not (
            isinstance(module, nn.Conv2d)
            and layer.layout.form == "weight"
            and all(kept is None for kept in self._columns_kept(use))
            and all(is_correlated(module, (x.shape[2], x.shape[3])) for x in inputs)
        ):
            return None
        height, width = module.kernel_size
        parts = [shift_covariance(x, (height, width)) for x in inputs]
        return torch.stack(parts).sum(0)

    def directional(
        self, layer: Layer, gradients: Gradients, vector: Params
    ) -> Float[Tensor, " b"]:
        """Return ``⟨v, ∇θ⟩`` of every document, over one layer's parameters.

        Args:
            layer: Of this pass.
            gradients: Of one direction.
            vector: Names this layer's parameters.

        Returns:
            One number per document; no gradient of a parameter is formed.
        """
        parts = [
            each.flatten(1).sum(1)
            for _, each in self.responses(layer, gradients, vector)
        ]
        return torch.stack(parts).sum(0)

    def responses(
        self, layer: Layer, gradients: Gradients, vector: Params
    ) -> Iterator[tuple[Use, Float[Tensor, "b ..."]]]:
        """Yield the entries whose sum is :meth:`directional`, call by call.

        Args:
            layer: Of this pass.
            gradients: Of one direction.
            vector: Names this layer's parameters.

        Yields:
            The use, and output gradient times the output's derivative along the vector.
        """
        for use in layer.uses:
            moved = {
                own: vector[name]
                for own, name in zip(use.parameters, layer.layout.names, strict=True)
            }
            pairs = zip(self.inputs[use.name], self._kept(use, gradients), strict=True)
            for x, g in pairs:
                yield use, response(use.module, x, moved) * g

    def _kept(self, use: Use, gradients: Gradients) -> list[Tensor]:
        """Zero the output gradients of each call at masked positions."""
        if self.mask is None:
            return gradients[use.name]
        masks = [
            spread_mask(use.module, tuple(g.shape), self.mask)
            for g in gradients[use.name]
        ]
        return [
            g if mask is None else g * mask
            for g, mask in zip(gradients[use.name], masks, strict=True)
        ]

    def _columns_kept(self, use: Use) -> list[Bool[Tensor, "b t"] | None]:
        """Return which columns of the fixed side count, call by call; None for all."""
        shapes = self.shapes[use.name]
        if self.mask is None or use.kind.stacks:
            return [None] * len(shapes)
        masks = [spread_mask(use.module, shape, self.mask) for shape in shapes]
        return [None if mask is None else mask.flatten(1) for mask in masks]


def _masked(side: Side, kept: Bool[Tensor, "b t"] | None) -> Side:
    """Count the columns at masked positions as zero."""
    if kept is None:
        return side
    return (
        side.masked(kept) if isinstance(side, OneHot) else dense(side) * kept[:, None]
    )


def _with_ones(side: Side) -> Tensor:
    columns = dense(side)
    if columns.mT.is_contiguous():  # keep a position's numbers together
        return F.pad(columns.mT, (0, 1), value=1.0).mT
    return F.pad(columns, (0, 0, 0, 1), value=1.0)


def _joined(sides: list[Side]) -> Side:
    if len(sides) == 1:
        return sides[0]
    hot = [side for side in sides if isinstance(side, OneHot)]
    if not hot:
        return torch.cat([dense(side) for side in sides], 2)
    kept = [
        torch.ones_like(h.ids, dtype=torch.bool) if h.kept is None else h.kept
        for h in hot
    ]
    return OneHot(torch.cat([h.ids for h in hot], 1), hot[0].size, torch.cat(kept, 1))
