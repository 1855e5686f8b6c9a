"""What a pass over documents will cost, from running one of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from infusion.curvature.capture import Captured, Gradients
from infusion.curvature.covariance import (
    correlation_operations,
    gram_operations,
    is_correlated,
)
from infusion.curvature.kinds import OneHot, dense
from infusion.curvature.layers import Layer
from infusion.curvature.moments import is_diagonal
from infusion.curvature.patches import Patches
from infusion.curvature.sweep import loss_gradients
from infusion.curvature.tiles import tile_operations
from infusion.records import Documents, Task
from infusion.tasks import evaluating, first_parameter


@dataclass(frozen=True)
class Sizes:
    """One layer as one document runs through it.

    Attributes:
        rows: ``r``.
        columns: ``c``.
        positions: ``t``, over all uses.
        row_factor: ``r`` where that side has a dense factor, else 0.
        column_factor: Likewise.
        column_moment: Operations of the second moment of the columns.
        turned: Operations of a change of basis of the columns.
        tiled: Whether that is done by tiles, which hold four times the basis.
        looked_up: Positions of one-hot uses: their rows are looked up, not multiplied.
        outputs: Numbers at the output, over all uses.
    """

    rows: int
    columns: int
    positions: int
    row_factor: int
    column_factor: int
    column_moment: float
    turned: float
    tiled: bool
    looked_up: int
    outputs: int

    def moments(self) -> float:
        """Count the second moments of both sides."""
        rows = gram_operations(self.positions, self.row_factor)
        return rows + self.column_moment

    def matrix(self) -> float:
        """Count forming the document's gradient."""
        return 2.0 * (self.positions - self.looked_up) * self.rows * self.columns

    def dot(self) -> float:
        """Count the product of the document's gradient with one vector."""
        if self.looked_up == self.positions:
            return 0.0  # elementwise
        return 2.0 * self.rows * self.columns

    def eigenvalues(self) -> float:
        """Count the squared gradient in the eigenbasis."""
        r, c, t = self.row_factor, self.column_factor, self.positions
        turned = 2.0 * t * r * r + self.turned
        if t == 1 or self.looked_up:
            return turned + self.matrix()
        last = 2.0 * (r * r * self.columns + self.rows * c * c)
        sides_first = t * (r * r + c * c) < r * r * self.columns + self.rows * c * c
        return self.matrix() + (turned if sides_first else last)

    def factor_numbers(self) -> int:
        """Count the entries of the dense factors."""
        return self.row_factor**2 + self.column_factor**2


def _sizes(captured: Captured, layer: Layer, gradients: Gradients) -> Sizes:
    rows, columns = layer.layout.shape
    positions = looked_up = 0
    for side in captured.factors(layer, gradients):
        hot = isinstance(side.rows, OneHot)
        moving = dense(side.columns) if hot else dense(side.rows)
        positions += moving.shape[2]
        looked_up += moving.shape[2] if hot else 0
    factor = 0 if is_diagonal(layer, "columns") else columns
    moment, turned = gram_operations(positions, factor), 2.0 * positions * factor**2
    side = captured.fixed(layer, layer.uses[0])
    tiled = isinstance(side, Patches) and side.is_tiled(columns)
    if isinstance(side, Patches):
        conv, size = side.module, (side.inputs.shape[2], side.inputs.shape[3])
        kernel = conv.kernel_size[0], conv.kernel_size[1]
        if is_correlated(conv, size):
            moment = correlation_operations(conv.in_channels, size, kernel)
        if tiled:
            turned = tile_operations(conv.in_channels, size, columns)
    return Sizes(
        rows,
        columns,
        positions,
        0 if is_diagonal(layer, "rows") else rows,
        factor,
        moment,
        turned,
        tiled,
        looked_up,
        sum(g.numel() for use in layer.uses for g in gradients[use.name]),
    )


def _saved_bytes(task: Task, data: Documents) -> int:
    """Measure the bytes that one document's graph saves for its backward pass."""
    saved: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return value

    batch = data.batch(torch.tensor([0]), like=first_parameter(task))
    own = {p.untyped_storage().data_ptr() for p in task.model.parameters()}
    with (
        evaluating(task.model),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
    ):
        task.loss(task.outputs(task.model, batch), batch).sum()
    return sum(size for key, size in saved.items() if key not in own)


@dataclass(frozen=True)
class Plan:
    """Costs of one document in a pass over a model's layers.

    Attributes:
        sizes: Of each layer.
        passes: Operations of a forward and a backward pass.
        saved: Bytes that the graph of a forward pass saves.
        item: Bytes of one number of the model.
    """

    sizes: list[Sizes]
    passes: float
    saved: int
    item: int

    def numbers(self) -> int:
        """Count the covered parameters, zero entries of layouts included."""
        return sum(size.rows * size.columns for size in self.sizes)

    def tiled(self) -> int:
        """Count the numbers that tiles hold beside the bases."""
        return sum(4 * s.columns**2 for s in self.sizes if s.tiled)

    def sides(self) -> int:
        """Bytes of a document in a pass that reads both sides of every layer."""
        widest = max(s.positions * (s.rows + s.columns) for s in self.sizes)
        gradients = sum(s.outputs for s in self.sizes)  # of all layers, before any use
        return self.saved + self.item * (gradients + widest)

    def document(self) -> int:
        """Bytes of a document in a pass that also forms its gradients."""
        matrices = [s.rows * s.columns for s in self.sizes if s.looked_up < s.positions]
        return self.sides() + 2 * self.item * max(matrices, default=0)

    def measurement(self) -> int:
        """Bytes of one IHVP laid out by layer, beside the one that was handed in."""
        return 2 * self.item * self.numbers()


def make_plan(
    task: Task, data: Documents, layers: list[Layer], shared: frozenset[str]
) -> Plan:
    """Run the first document and note what it costs.

    Args:
        task: Model and loss.
        data: Documents, all of one shape.
        layers: Layers that a pass will read.
        shared: Uses that run once for all documents.

    Returns:
        Costs of one document.
    """
    with FlopCounterMode(display=False) as counter:
        captured, gradients = loss_gradients(task, data, layers, shared, 1)
    return Plan(
        [_sizes(captured, layer, gradients) for layer in layers],
        float(counter.get_total_flops()),
        _saved_bytes(task, data),
        first_parameter(task).element_size(),
    )
