"""Influence of every document: on many measurements, and on itself.

One forward and one backward pass to the layers' outputs serve everything here. With the
document gradient ``∇Wᵢ = Σ_t r_t c_tᵀ`` of each layer and IHVPs ``s_m``:

    influences       −(1/n) Σ_layers ⟨s_m, ∇Wᵢ⟩        a matrix product over m
    self_influence   +(1/n) ∇ℓᵢᵀ (H + λI)⁻¹ ∇ℓᵢ        of document i on f = −ℓᵢ

Signs and units are those of :func:`infusion.influence`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.attribution.passes import covered_layers, finished, fit_in
from infusion.curvature.blocks import Block, Curvature
from infusion.curvature.capture import Captured, Gradients
from infusion.curvature.filters import damped
from infusion.curvature.kinds import OneHot, dense
from infusion.curvature.layers import Layer
from infusion.curvature.rotation import products_and_squares, use_matrices
from infusion.curvature.sweep import Sweep, make_sweep
from infusion.errors import InputError, check_type, check_whole
from infusion.params import Params
from infusion.records import Batch, Documents, Task
from infusion.tasks import check_task


def influences(
    task: Task,
    data: Documents,
    ihvps: Sequence[Params],
    *,
    batch_size: int = 64,
    memory_limit: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, "m n"]:
    """Influence of every document on many measurements at once.

    The gradient of each document is formed once, layer by layer, and multiplied with
    all IHVPs: past the first few measurements another one costs next to nothing. For a
    single IHVP each layer's derivative along it costs less, so that is taken.

    Args:
        task: Model at the parameters the IHVPs were solved at.
        data: The whole training set: its size is the ``n`` of ``1/n``.
        ihvps: One per measurement, all over the same parameters.
        batch_size: Documents held at once; results do not depend on it beyond rounding.
        memory_limit: Bytes to stay within, beside model, documents and IHVPs: batches
            become smaller, then measurements are scored in several passes.
        on_batch: Called with the number of documents done, over all passes.

    Returns:
        A row per measurement; positive documents support it.

    Raises:
        InputError: There is no IHVP, one does not fit the model, a parameter belongs
            to no layer that curvature covers, or the limit is too small for one
            document and one measurement.
        DivergedError: A score is not finite.
    """
    if isinstance(ihvps, dict) or not ihvps:
        raise InputError(
            "influences needs a list of at least one IHVP, got "
            f"{'a single one' if ihvps else 'none'}; write [ihvp]"
        )
    check_task(task, data)
    layers = covered_layers(task, ihvps)
    group = len(ihvps)
    if memory_limit is not None:
        check_whole("memory_limit", memory_limit)
        batch_size, group = fit_in(
            task, data, layers, memory_limit, (batch_size, len(ihvps))
        )
    sweep = make_sweep(task, data, layers, batch_size=batch_size, on_batch=on_batch)
    rows = [
        _group_influences(sweep, ihvps[start : start + group])
        for start in range(0, len(ihvps), group)
    ]
    return torch.cat(rows)


def _group_influences(sweep: Sweep, ihvps: Sequence[Params]) -> Float[Tensor, "m n"]:
    """Score some measurements in one pass."""
    stacks = {}
    for layer in sweep.layers:
        names = layer.layout.names
        stacked = {name: torch.stack([s[name] for s in ihvps]) for name in names}
        stacks[layer.name] = layer.layout.matrix(stacked)
    parts = []
    for captured, directions in sweep:
        for gradients in directions:
            each = [
                captured.directional(layer, gradients, ihvps[0])[None]
                if len(ihvps) == 1
                else _products(captured, layer, gradients, stacks[layer.name])
                for layer in sweep.layers
            ]
            parts.append(torch.stack(each).sum(0))
            del gradients, each  # not beside the next forward pass
    return finished(parts, len(sweep.data))


def self_influence(
    task: Task,
    data: Documents,
    curvature: Curvature,
    *,
    damping: float | None = None,
    damping_ratio: float | None = None,
    whole: bool = False,
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, " n"]:
    """Influence of every document on its own negative loss.

    Args:
        task: Model the curvature was fitted on.
        data: The whole training set.
        curvature: Of the same parameters.
        damping: As in ``curvature.solve``.
        damping_ratio: Likewise.
        whole: Likewise.
        batch_size: Documents held at once.
        on_batch: Called with the number of documents done.

    Returns:
        ``(1/n) ∇ℓᵢᵀ (H + λI)⁻¹ ∇ℓᵢ ≥ 0``; large for documents that the others do not
        explain, mislabelled ones say.

    Raises:
        InputError: The damping is not usable, the curvature is dense, or it is of
            another model or other weights.
        DivergedError: A score is not finite.

    Source:
        Koh & Liang (2017), arXiv 1703.04730, §5.4.
    """
    found = score_documents(
        task,
        data,
        curvature,
        [],
        damping=damping,
        damping_ratio=damping_ratio,
        whole=whole,
        batch_size=batch_size,
        on_batch=on_batch,
    )
    return found.self_influence


@dataclass(frozen=True)
class Scores:
    """What one pass over the documents says of each.

    Attributes:
        influence: As :func:`influences`, a row per measurement.
        self_influence: As :func:`self_influence`.
        gradient_norm: ``‖∇ℓᵢ‖`` over the layers of the curvature.
    """

    influence: Float[Tensor, "m n"]
    self_influence: Float[Tensor, " n"]
    gradient_norm: Float[Tensor, " n"]


def score_documents(
    task: Task,
    data: Documents,
    curvature: Curvature,
    ihvps: Sequence[Params],
    *,
    damping: float | None = None,
    damping_ratio: float | None = None,
    whole: bool = False,
    batch_size: int = 64,
    memory_limit: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
    on_outputs: Callable[[Tensor, Batch], None] = lambda *_: None,
) -> Scores:
    """Score every document in every way, its gradient rotated once.

    Args:
        task: Model the curvature was fitted on.
        data: The whole training set.
        curvature: Of the same parameters.
        ihvps: One per measurement, over those parameters; none is possible.
        damping: Of self-influence, as in ``curvature.solve``.
        damping_ratio: Likewise.
        whole: Likewise.
        batch_size: Documents held at once.
        memory_limit: As in :func:`influences`; measurements that do not fit beside the
            rest are scored in passes of their own.
        on_batch: Called with the number of documents done.
        on_outputs: Called with the task's outputs of every batch in turn, and the
            batch; each process sees its own documents.

    Returns:
        The scores.

    Raises:
        InputError: As :func:`influences` and :func:`self_influence`.
        DivergedError: A score is not finite.
    """
    check_task(task, data)
    check_type("curvature", curvature, Curvature)
    lambdas = curvature.damping(
        damping=damping, damping_ratio=damping_ratio, whole=whole
    )
    layers = covered_layers(task, [_shaped(curvature), *ihvps])
    if {layer.name for layer in layers} != set(curvature.blocks):
        raise InputError(
            "self-influence needs a curvature with a block per layer, got "
            f"{curvature.kind} with the blocks {list(curvature.blocks)[:3]}…; use "
            "fit_ekfac on this model"
        )
    curvature.check_weights(task.model)
    group = len(ihvps)
    if memory_limit is not None and ihvps:
        check_whole("memory_limit", memory_limit)
        batch_size, group = fit_in(
            task, data, layers, memory_limit, (batch_size, group)
        )
    read = {
        layer.name: _rotated(layer, curvature.blocks[layer.name], ihvps[:group])
        for layer in layers
    }
    weights = {
        name: torch.stack(
            [
                damped(block.eigenvalues, lambdas[name]),
                torch.ones_like(block.eigenvalues),
            ]
        )
        for name, block in curvature.blocks.items()
    }
    products, squares = [], []
    sweep = make_sweep(
        task,
        data,
        layers,
        batch_size=batch_size,
        on_batch=on_batch,
        on_outputs=on_outputs,
    )
    for captured, directions in sweep:
        for gradients in directions:
            totals: tuple[Tensor | float, Tensor | float] = 0.0, 0.0
            for layer in layers:
                block = curvature.blocks[layer.name]
                found = products_and_squares(
                    captured.factors(layer, gradients),
                    block.row_basis,
                    block.column_basis,
                    vectors=read[layer.name],
                    weights=weights[layer.name],
                )
                totals = totals[0] + found[0], totals[1] + found[1]
            products.append(totals[0])
            squares.append(-torch.as_tensor(totals[1]))
            del gradients  # not beside the next forward pass
    own, norms = finished(squares, len(data))
    rows = [finished(products, len(data))] if ihvps else [own.new_zeros(0, len(own))]
    if group < len(ihvps):
        del read
        rest = ihvps[group:]
        limits = {"batch_size": batch_size, "memory_limit": memory_limit}
        rows.append(influences(task, data, rest, **limits, on_batch=on_batch))
    return Scores(torch.cat(rows), own, (norms * len(data)).clamp_min(0).sqrt())


def _rotated(
    layer: Layer, block: Block, ihvps: Sequence[Params]
) -> Float[Tensor, "m r c"]:
    """Lay IHVPs out as the layer's matrix, in its eigenbasis."""
    if not ihvps:
        return block.eigenvalues.new_zeros(0, *block.eigenvalues.shape)
    names = layer.layout.names
    stacked = {name: torch.stack([s[name] for s in ihvps]) for name in names}
    return block.rotate(layer.layout.matrix(stacked))


def _shaped(curvature: Curvature) -> Params:
    """Name the parameters of a curvature with their shapes, without their numbers."""
    return {
        name: torch.empty(shape, device="meta")
        for block in curvature.blocks.values()
        for name, shape in zip(block.names, block.layout.shapes, strict=True)
    }


def _products(
    captured: Captured,
    layer: Layer,
    gradients: Gradients,
    stack: Float[Tensor, "m r c"],
) -> Float[Tensor, "m b"]:
    total: Tensor | float = 0.0
    for side in captured.factors(layer, gradients):
        if isinstance(side.rows, OneHot):
            total = total + _one_hot_products(side.rows, dense(side.columns), stack)
        else:
            each = use_matrices(dense(side.rows), side.columns)
            total = total + stack.flatten(1) @ each.flatten(1).T
    assert isinstance(total, Tensor)
    return total


def _one_hot_products(
    rows: OneHot, columns: Float[Tensor, "b c t"], stack: Float[Tensor, "m v c"]
) -> Float[Tensor, "m b"]:
    """Look up the rows of each IHVP instead of forming vocabulary × width."""
    columns = columns.transpose(1, 2)
    if rows.kept is not None:
        columns = columns * rows.kept[..., None]
    return torch.stack([(s[rows.ids] * columns).sum((1, 2)) for s in stack])
