"""Fit a curvature on module hooks: factors in one pass, eigenvalues in another.

Per layer, with sides ``r_t`` (rows) and ``c_t`` (columns) of the gradient
``∇W = Σ_t r_t c_tᵀ`` of a document (:mod:`infusion.curvature.kinds`):

    A = Σ r rᵀ = R S_R Rᵀ          B = Σ c cᵀ = C S_C Cᵀ
    kfac      Λ = (1/n) S_R S_Cᵀ / positions
    ekfac     Λ = mean over documents of (Rᵀ ∇W C)²
    diagonal  the same with R = C = I

Source: George et al. (2018), arXiv 1806.03884, eq. 12; Eschenhagen et al. (2023), arXiv
2311.00636, the "expand" setting, for positions.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import get_args

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.configs import Fisher, FittedKind
from infusion.curvature.blocks import Block, Curvature
from infusion.curvature.capture import Captured, Factors, Gradients
from infusion.curvature.fisher import Directions, check_fisher
from infusion.curvature.layers import Layer, cover
from infusion.curvature.moments import (
    Moments,
    add,
    bases,
    collect_moments,
    kronecker_eigenvalues,
)
from infusion.curvature.rotation import squared_rotation
from infusion.curvature.sweep import Sweep, make_sweep
from infusion.curvature.waiting import Waiting
from infusion.errors import check_choice, check_whole
from infusion.memory import freed_memory_kept
from infusion.params import Params, model_sha256
from infusion.records import Documents, Task
from infusion.sharding import all_sum
from infusion.tasks import check_task

FITTED = get_args(FittedKind)


def fit_curvature(
    task: Task,
    data: Documents,
    *,
    kind: FittedKind = "ekfac",
    fisher: Fisher | None = None,
    skip: tuple[str, ...] = (),
    draws: int = 1,
    seed: int = 0,
    documents: Int[Tensor, " m"] | None = None,
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Curvature:
    """Fit a block-diagonal curvature to the training documents, in eval mode.

    Under ``torch.distributed`` every process fits its share of the documents and all
    return the whole curvature.

    Args:
        task: Model at the parameters to linearise at.
        data: Documents; memory does not grow with their number.
        kind: ``"identity"``, ``"diagonal"``, ``"kfac"`` or ``"ekfac"``; dense ones are
            fitted by :func:`infusion.curvature.dense.fit_dense`.
        fisher: ``None`` is ``"sampled"``, or ``"empirical"`` with a warning where the
            task names no likelihood.
        skip: Module types or names to leave out, e.g. ``("BatchNorm2d",)``.
        draws: Labels drawn per document for ``"sampled"``.
        seed: Of the label draws; they depend on the document's position only.
        documents: Fit on these only, a random subset say; the curvature then carries
            its estimated sampling error.
        batch_size: Documents held at once.
        on_batch: Called with the number of documents done, over all passes.

    Returns:
        The curvature as a value.

    Raises:
        InputError: The likelihood does not fit the loss or the Fisher, an entry of
            ``skip`` matches nothing, or documents are not those of the data.
        UncoveredLayerError: A trainable layer is neither covered nor skipped.
        DivergedError: A factor became NaN or infinite.
    """
    check_choice("kind", kind, FITTED)
    check_task(task, data)
    check_whole("draws", draws)
    fisher = _fisher(task, fisher)
    layers, skipped = cover(task.model, skip)
    directions = Directions(task, fisher, draws, seed)
    sweep = make_sweep(
        task,
        data,
        layers,
        directions=directions,
        documents=documents,
        batch_size=batch_size,
        on_batch=on_batch,
        masks=True,
    )
    blocks, error = _fit_blocks(task, sweep, kind)
    fitted = None if kind == "identity" else fisher
    weights = model_sha256(task.model)
    count = len(sweep.documents)
    return Curvature(blocks, kind, fitted, count, skipped, weights, error)


@freed_memory_kept()
def _fit_blocks(
    task: Task, sweep: Sweep, kind: FittedKind
) -> tuple[dict[str, Block], float | None]:
    """Return a block per layer, and the sampling error of their eigenvalues."""
    layers, n = sweep.layers, len(sweep.documents)
    moments = Moments()
    if kind in ("kfac", "ekfac"):
        moments = collect_moments(sweep)
    by_layer = {layer.name: bases(layer, moments) for layer in layers}
    error = 0.0 if n == len(sweep.data) else None
    if kind == "identity":
        eigenvalues = {lay.name: _ones(lay, task) for lay in layers}
    elif kind == "kfac":
        eigenvalues = {
            lay.name: kronecker_eigenvalues(lay, moments, by_layer[lay.name], n)
            for lay in layers
        }
    else:
        del moments  # as large as the curvature: not beside another pass
        eigenvalues, error = _corrected_eigenvalues(sweep, by_layer)
    blocks = {
        layer.name: _block(task, layer, by_layer[layer.name], eigenvalues[layer.name])
        for layer in layers
    }
    return blocks, error


def fit_ekfac(
    task: Task,
    data: Documents,
    *,
    fisher: Fisher | None = None,
    skip: tuple[str, ...] = (),
    draws: int = 1,
    seed: int = 0,
    documents: Int[Tensor, " m"] | None = None,
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Curvature:
    """Fit EK-FAC, the usual choice: :func:`fit_curvature` with ``kind="ekfac"``.

    Args:
        task: As there, like all that follows.
        data: Documents.
        fisher: Which second moment.
        skip: Module types or names to leave out.
        draws: Labels drawn per document.
        seed: Of the draws.
        documents: Fit on these only.
        batch_size: Documents held at once.
        on_batch: Called with the number of documents done, over both passes.

    Returns:
        The curvature as a value.

    Source:
        George et al. (2018), arXiv 1806.03884; see the module's formulas.
    """
    check_task(task, data)
    return fit_curvature(
        task,
        data,
        kind="ekfac",
        fisher=_fisher(task, fisher),
        skip=skip,
        draws=draws,
        seed=seed,
        documents=documents,
        batch_size=batch_size,
        on_batch=on_batch,
    )


def _fisher(task: Task, fisher: Fisher | None) -> Fisher:
    if fisher is None:
        fisher = "sampled" if task.likelihood is not None else "empirical"
        if task.likelihood is None:
            warnings.warn(
                "this task names no likelihood, so the empirical Fisher is fitted; set "
                "Task.likelihood for the true one",
                stacklevel=3,
            )
    check_fisher(task, fisher)
    return fisher


def _corrected_eigenvalues(
    sweep: Sweep, bases: dict[str, tuple[Tensor | None, Tensor | None]]
) -> tuple[Params, float | None]:
    """Mean over documents of squared rotated gradients, and its sampling error.

    Returns:
        ``Λ`` by layer, and the error relative to its norm.
    """
    sums: Params = {}
    spread = {
        "squares": torch.zeros((), dtype=torch.float64),
        "batches": torch.zeros(()),
    }
    waiting = Waiting() if len(sweep.documents) == len(sweep.data) else None
    for captured, directions in sweep:
        squares = _batch_squares(sweep, captured, directions, bases, waiting)
        for name, update in squares.items():
            add(sums, name, update)
            if waiting is None:
                size = update.double().square().sum().cpu()
                spread["squares"] += size / captured.size
        spread["batches"] += 1
    for name, sides in [] if waiting is None else waiting.rest():
        add(sums, name, squared_rotation([Factors(*sides)], *bases[name]))
    all_sum(sums)
    all_sum(spread)
    means = {name: value / len(sweep.documents) for name, value in sums.items()}
    return means, _sampling_error(sweep, means, spread)


def _batch_squares(
    sweep: Sweep,
    captured: Captured,
    directions: Iterator[Gradients],
    bases: dict[str, tuple[Tensor | None, Tensor | None]],
    waiting: Waiting | None,
) -> Params:
    """Sum squared rotated gradients over one batch and all directions."""
    result: Params = {}
    for gradients in directions:
        for layer in sweep.layers:
            name, sides = layer.name, captured.factors(layer, gradients)
            ready = [sides]
            if waiting is not None and len(sides) == 1:
                found = waiting.add(name, sides[0].rows, sides[0].columns)
                ready = [[Factors(*both)] for both in found]
            for part in ready:
                update = squared_rotation(part, *bases[name])
                result[name] = result[name] + update if name in result else update
    return result


def _sampling_error(sweep: Sweep, means: Params, spread: Params) -> float | None:
    """Estimate the relative error of ``Λ`` from the spread of its batches.

    With sums ``S_k`` over batches of ``b_k`` documents, ``Σ_k ‖S_k‖²/b_k − n‖Λ‖²`` over
    the batches less one estimates the variance of one document, so only norms are kept.
    Not visiting all documents makes it smaller by the share that was visited.

    Returns:
        None where there are too few batches to tell.
    """
    n, count = len(sweep.documents), float(spread["batches"])
    unseen = 1 - n / len(sweep.data)
    size = sum(float(value.square().sum()) for value in means.values())
    if unseen == 0:
        return 0.0
    if count < 2 or size == 0:
        return None
    variance = (float(spread["squares"]) / n - size) / (count - 1)
    return math.sqrt(max(variance, 0.0) * unseen / size)


def _ones(layer: Layer, task: Task) -> Tensor:
    like = task.model.get_parameter(layer.layout.names[0])
    return torch.ones(layer.layout.shape, dtype=like.dtype, device=like.device)


def _block(
    task: Task,
    layer: Layer,
    bases: tuple[Tensor | None, Tensor | None],
    eigenvalues: Tensor,
) -> Block:
    like = task.model.get_parameter(layer.layout.names[0])
    return Block(layer.layout, *bases, eigenvalues.to(like.dtype))
