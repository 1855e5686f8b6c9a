"""Passes over the documents that hand out layer inputs and output gradients."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.curvature.capture import (
    Captured,
    Gradients,
)
from infusion.curvature.fisher import Directions, check_likelihood
from infusion.curvature.hooks import capturing, shared_uses
from infusion.curvature.layers import Layer
from infusion.curvature.rotation import document_matrices
from infusion.curvature.tiles import filters_kept
from infusion.errors import InputError
from infusion.records import Batch, Documents, Task
from infusion.sharding import shard
from infusion.tasks import batches, evaluating, first_parameter, losses

_SAME = 5e-2
"""Relative difference of a gradient that half precision explains."""
_TINY = 1e-12
"""Difference that counts as rounding where a gradient is zero."""


@dataclass(frozen=True)
class Sweep:
    """One pass over documents per iteration, each process over its share.

    Attributes:
        task: Model and outputs.
        data: Documents.
        layers: Layers to read.
        directions: Which output gradients to pull back.
        shared: Uses that run once for all documents.
        documents: Positions to visit.
        batch_size: Documents held at once.
        on_batch: Called with the number of documents done.
        masks: Whether positions that are no data count as zero: in fits.
        on_outputs: Called with the outputs of every batch, and the batch.
    """

    task: Task
    data: Documents
    layers: list[Layer]
    directions: Directions
    shared: frozenset[str]
    documents: Int[Tensor, " m"]
    batch_size: int
    on_batch: Callable[[int], None]
    masks: bool
    on_outputs: Callable[[Tensor, Batch], None]

    def __iter__(self) -> Iterator[tuple[Captured, Iterator[Gradients]]]:
        """Yield each batch's capture, and its gradients direction by direction."""
        model = self.task.model
        own = self.documents[shard(len(self.documents))]
        with (
            evaluating(model),
            capturing(model, self.layers, self.shared) as captured,
            filters_kept(),
        ):
            for documents, batch in batches(
                self.task, self.data, self.batch_size, documents=own
            ):
                mask = self.task.mask(batch) if self.masks and self.task.mask else None
                check_mask(mask, len(documents))
                captured.start(len(documents), mask)
                with torch.enable_grad():
                    outputs = self.task.outputs(model, batch)
                self._check(outputs.detach(), batch, documents)
                self.on_outputs(outputs.detach(), batch)
                yield captured, self._pulled(captured, outputs, batch, documents)
                del outputs  # and its graph, before the next forward pass
                self.on_batch(len(documents))

    def _pulled(
        self, captured: Captured, outputs: Tensor, batch: Batch, documents: Tensor
    ) -> Iterator[Gradients]:
        directions = self.directions(outputs.detach(), batch, documents)
        for direction, is_last in _with_last(directions):
            yield captured.gradients(
                self.layers, outputs, direction, keep_graph=not is_last
            )

    def _check(self, outputs: Tensor, batch: Batch, documents: Tensor) -> None:
        first = int(documents[0]) == int(self.documents[0])
        fisher, plain = self.directions.fisher, self.task.scale == 1
        if first and fisher is not None and not (fisher == "empirical" and plain):
            check_likelihood(self.task, outputs, batch)


def _with_last(values: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Say of each value whether it is the last one."""
    before = next(values)
    for value in values:
        yield before, False
        before = value
    yield before, True


def make_sweep(
    task: Task,
    data: Documents,
    layers: list[Layer],
    *,
    directions: Directions | None = None,
    documents: Int[Tensor, " m"] | None = None,
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda _: None,
    masks: bool = False,
    on_outputs: Callable[[Tensor, Batch], None] = lambda *_: None,
) -> Sweep:
    """Plan passes over documents.

    Args:
        task: Model and outputs.
        data: Documents.
        layers: Layers to read.
        directions: Output gradients to pull back; None for those of the loss.
        documents: Positions to visit, in any order; None for all.
        batch_size: Documents held at once.
        on_batch: Called with the number of documents done.
        masks: Whether positions that ``task.mask`` excludes count as zero.
        on_outputs: Called with the outputs of every batch, and the batch.

    Returns:
        Passes in the order of positions.

    Raises:
        InputError: Documents are not those of the data, a layer's calls do not fit
            them, or a layer's gradient is not what autograd finds.
    """
    if documents is None:
        documents = torch.arange(len(data))
    if not isinstance(documents, Tensor):
        raise InputError(
            "documents must be a tensor of positions, got "
            f"{type(documents).__name__}; use torch.tensor"
        )
    good = documents.ndim == 1 and len(documents) > 0 and documents.dtype != torch.bool
    if not (good and int(documents.min()) >= 0 and int(documents.max()) < len(data)):
        raise InputError(
            f"documents must be positions in 0…{len(data) - 1}, at least one, got "
            f"{documents.tolist()[:5]}…; draw them from the data"
        )
    if len(documents.unique()) < len(documents):
        raise InputError(
            f"documents must be different positions, got {len(documents)} with "
            f"{len(documents.unique())} different ones; draw without replacement"
        )
    shared = shared_uses(task, data, layers)
    check_gradients(task, data, layers, shared)
    return Sweep(
        task,
        data,
        layers,
        directions or Directions(task),
        shared,
        documents.sort().values,
        batch_size,
        on_batch,
        masks,
        on_outputs,
    )


def check_mask(mask: Tensor | None, size: int) -> None:
    """Refuse a mask that is not one truth value per token.

    Args:
        mask: From ``task.mask``.
        size: Documents of the batch.

    Raises:
        InputError: Its shape or dtype is another.
    """
    if mask is None:
        return
    if mask.ndim != 2 or len(mask) != size or mask.dtype != torch.bool:
        raise InputError(
            f"a mask must be bool of shape [{size}, tokens], got {mask.dtype} of shape "
            f"{tuple(mask.shape)}; return e.g. batch.inputs != padding"
        )


def check_gradients(
    task: Task, data: Documents, layers: list[Layer], shared: frozenset[str]
) -> None:
    """Compare the first document's gradients with autograd's, layer by layer.

    Hooks miss a weight that is used outside its module, and a norm known by its name
    only may compute something else.

    Args:
        task: Model and loss.
        data: Its first document is run.
        layers: Layers to compare.
        shared: Uses that run once for all documents.

    Raises:
        InputError: A layer's gradient differs by more than rounding.
    """
    captured, gradients = loss_gradients(task, data, layers, shared, 1)
    batch = data.batch(torch.tensor([0]), like=first_parameter(task))
    named = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
    with evaluating(task.model), torch.enable_grad():
        loss = losses(task, task.outputs(task.model, batch), batch).sum()
        pulled = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    true = {
        n: torch.zeros_like(p) if g is None else g
        for (n, p), g in zip(named.items(), pulled, strict=True)
    }
    for layer in layers:
        expected = layer.layout.matrix(true)
        with evaluating(task.model):  # a norm runs again to find its factors
            got = document_matrices(captured.factors(layer, gradients))[0]
        off = float((got - expected).double().norm())
        if off > _SAME * float(expected.double().norm()) + _TINY:
            raise InputError(
                f"the gradient at {layer.name} must be what its module computes, got "
                f"one that differs from autograd's by {off:.2g} of "
                f"{float(expected.double().norm()):.2g}: its weight is used elsewhere "
                "too, or its class computes something else; skip it"
            )


def loss_gradients(
    task: Task, data: Documents, layers: list[Layer], shared: frozenset[str], count: int
) -> tuple[Captured, Gradients]:
    """Run the first documents and pull their losses back.

    Args:
        task: Model and loss.
        data: Documents.
        layers: Layers to read.
        shared: Uses that run once for all documents.
        count: Documents to run.

    Returns:
        What the layers saw, and the gradients at their outputs.
    """
    batch = data.batch(torch.arange(count), like=first_parameter(task))
    directions = Directions(task)
    with evaluating(task.model), capturing(task.model, layers, shared) as captured:
        captured.start(count, None)
        with torch.enable_grad():
            outputs = task.outputs(task.model, batch)
        (direction,) = directions(outputs.detach(), batch, torch.arange(count))
        gradients = captured.gradients(layers, outputs, direction)
        kept = Captured(captured.shared, captured.size)
        kept.inputs.update(captured.inputs)
        kept.shapes.update(captured.shapes)
    return kept, gradients
