"""Influence of every document: on many measurements, on itself, by module, by token.

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

from infusion.attribution.influence import along, at_least_float32
from infusion.curvature.blocks import Block, Curvature
from infusion.curvature.capture import Captured, Gradients
from infusion.curvature.filters import damped
from infusion.curvature.hooks import shared_uses
from infusion.curvature.kinds import OneHot, dense, token_axis
from infusion.curvature.layers import Layer, survey
from infusion.curvature.plan import make_plan
from infusion.curvature.rotation import products_and_squares, use_matrices
from infusion.curvature.sweep import Sweep, make_sweep
from infusion.errors import DivergedError, InputError, check_type, check_whole
from infusion.params import Params
from infusion.records import Batch, Dataset, Task
from infusion.sharding import all_cat
from infusion.tasks import check_task


def influences(
    task: Task,
    data: Dataset,
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
    layers = _layers(task, ihvps)
    group = len(ihvps)
    if memory_limit is not None:
        check_whole("memory_limit", memory_limit)
        batch_size, group = _fit_in(
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
    return _finished(parts, len(sweep.data))


def _fit_in(
    task: Task,
    data: Dataset,
    layers: list[Layer],
    limit: int,
    asked: tuple[int, int],
) -> tuple[int, int]:
    """Choose documents and measurements at once: as many as asked, or as fit.

    Returns:
        Batch size and group of measurements.

    Raises:
        InputError: Not even one of each fits.
    """
    plan = make_plan(task, data, layers, shared_uses(task, data, layers))
    document, measurement = plan.document(), plan.measurement()
    if limit < document + measurement:
        raise InputError(
            f"memory_limit must be at least {document + measurement:,} bytes, what one "
            f"document and one measurement need, got {limit:,}; raise it"
        )
    # Half for measurements where both are short: passes cost more than batches.
    room = max(limit // 2, limit - asked[0] * document)
    group = max(1, min(asked[1], room // measurement))
    batch = max(1, min(asked[0], (limit - group * measurement) // document))
    return batch, group


def influence_by_module(
    task: Task,
    data: Dataset,
    ihvp: Params,
    *,
    batch_size: int = 64,
) -> dict[str, Float[Tensor, " n"]]:
    """Split every document's influence over the modules it acts through.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set.
        ihvp: ``s``.
        batch_size: Documents held at once.

    Returns:
        By module; the sum over modules is :func:`infusion.influence`.

    Raises:
        InputError: As :func:`influences`.
        DivergedError: Likewise.
    """
    check_task(task, data)
    layers = _layers(task, [ihvp])
    parts: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for captured, directions in make_sweep(task, data, layers, batch_size=batch_size):
        for gradients in directions:
            for layer in layers:
                parts[layer.name].append(captured.directional(layer, gradients, ihvp))
    return {name: _finished(found, len(data)) for name, found in parts.items()}


def influence_by_token(
    task: Task,
    data: Dataset,
    ihvp: Params,
    *,
    batch_size: int = 64,
) -> tuple[Float[Tensor, "n t"], Float[Tensor, " n"]]:
    """Split every document's influence over the positions it acts at.

    Args:
        task: Model whose layers see sequences ``[b, t, …]``.
        data: The whole training set, documents of ``t`` tokens.
        ihvp: ``s``.
        batch_size: Documents held at once.

    Returns:
        Influence through layers at each position, and through layers without positions
        (a head on pooled features); the sum of both is :func:`infusion.influence`.

    Raises:
        InputError: No layer has the positions of the inputs; or as :func:`influences`.
        DivergedError: A score is not finite.
    """
    check_task(task, data)
    layers = _layers(task, [ihvp])
    length = data.inputs.shape[1] if data.inputs.ndim > 1 else 0
    tokens: list[Tensor] = []
    rest: list[Tensor] = []
    for captured, directions in make_sweep(task, data, layers, batch_size=batch_size):
        for gradients in directions:
            found = _by_position(captured, layers, gradients, ihvp, length)
            tokens.append(found[0])
            rest.append(found[1])
    if not length or not any(bool(part.any()) for part in tokens):
        raise InputError(
            f"scores by token need layers on sequences of {length} positions, as long "
            "as the inputs, got none; use influence or influence_by_module"
        )
    whole = torch.cat(tokens).T  # positions first, as measurements elsewhere
    return _finished([whole], len(data)).T, _finished(rest, len(data))


def self_influence(
    task: Task,
    data: Dataset,
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
    data: Dataset,
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
    layers = _layers(task, [_shaped(curvature), *ihvps])
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
        batch_size, group = _fit_in(
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
    own, norms = _finished(squares, len(data))
    rows = [_finished(products, len(data))] if ihvps else [own.new_zeros(0, len(own))]
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


def _layers(task: Task, vectors: Sequence[Params]) -> list[Layer]:
    """Return the layers whose parameters the vectors name; shapes alone will do."""
    for vector in vectors:
        along(task, vector)
    wanted = set(vectors[0])
    if any(set(vector) != wanted for vector in vectors):
        raise InputError(
            "all IHVPs must be over the same parameters, got different ones; solve "
            "them with one curvature"
        )
    layers = survey(task.model, only=wanted).layers
    named = {name for layer in layers for name in layer.layout.names}
    if named != wanted:
        odd = sorted(named ^ wanted)
        raise InputError(
            "an IHVP must name whole layers that curvature covers, got a mismatch at "
            f"{odd[:3]}; solve it with a curvature of this model"
        )
    return layers


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


def _by_position(
    captured: Captured,
    layers: list[Layer],
    gradients: Gradients,
    ihvp: Params,
    length: int,
) -> tuple[Float[Tensor, "b t"], Float[Tensor, " b"]]:
    like = next(iter(ihvp.values()))
    tokens, rest = like.new_zeros(captured.size, length), like.new_zeros(captured.size)
    for layer in layers:
        for use, each in captured.responses(layer, gradients, ihvp):
            axis = token_axis(use.module, tuple(each.shape), length)
            if axis is None:
                rest += each.flatten(1).sum(1)
            else:
                tokens += each.movedim(axis, 1).flatten(2).sum(2)
    return tokens, rest


def _finished(parts: list[Tensor], size: int) -> Tensor:
    """Put batches and processes together, with sign and unit."""
    result = at_least_float32(all_cat(torch.cat(parts, -1)).cpu()) / -size
    bad = ~torch.isfinite(result)
    if bool(bad.any()):
        raise DivergedError(
            f"influence must be finite, got NaN or infinity for {int(bad.sum())} "
            "scores; check the documents and raise the damping"
        )
    return result
