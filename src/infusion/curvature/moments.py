"""Second moments of both sides of every layer, and the eigenbases they give.

    A = Σ r rᵀ = R S_R Rᵀ          B = Σ c cᵀ = C S_C Cᵀ

A weight with several uses ``u`` has ``A = Σ_u tr(B_u) A_u / positions_u`` and likewise
``B``, the marginals of ``Σ_u A_u ⊗ B_u``. The side of a vocabulary keeps ``R = I``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.curvature.capture import Captured, Gradients
from infusion.curvature.covariance import gram
from infusion.curvature.kinds import OneHot, Side, dense
from infusion.curvature.layers import Layer
from infusion.curvature.sweep import Sweep
from infusion.curvature.waiting import Waiting
from infusion.errors import DivergedError
from infusion.params import Params
from infusion.sharding import all_sum

LARGEST_FACTOR = 16_384
"""Rows of the largest dense factor: 2 GiB in float64. Longer sides stay diagonal."""


@dataclass
class Moments:
    """Second moments of both sides of every use, summed over documents and positions.

    Attributes:
        sums: ``"{use}/{axis}"`` to a matrix, or to its diagonal where the side has no
            dense factor.
        positions: Columns of the fixed side of each use.
    """

    sums: Params = field(default_factory=dict)
    positions: Params = field(default_factory=dict)


def add(sums: Params, name: str, update: Tensor) -> None:
    """Accumulate in float64, so that results do not depend on the batch size.

    Args:
        sums: Changed in place.
        name: Which sum.
        update: Added to it.
    """
    sums[name] = sums[name].add_(update) if name in sums else update.double()


def is_diagonal(layer: Layer, axis: str) -> bool:
    """Tell whether a side of a layer's matrix has no dense factor.

    Args:
        layer: Covered layer.
        axis: ``"rows"`` or ``"columns"``.

    Returns:
        True for a vocabulary and for sides longer than ``LARGEST_FACTOR``.
    """
    size = layer.layout.shape[0 if axis == "rows" else 1]
    return size > LARGEST_FACTOR or (axis == "rows" and layer.has_one_hot_rows)


def collect_moments(sweep: Sweep) -> Moments:
    """Sum the second moments over a pass.

    Args:
        sweep: Documents and output directions.

    Returns:
        Over the documents of all processes.
    """
    moments, waiting = Moments(), Waiting()
    for captured, directions in sweep:
        _add_batch(moments, waiting, sweep.layers, captured, directions)
    for name, (side,) in waiting.rest():
        add(moments.sums, name, gram(side))
    all_sum(moments.sums)
    all_sum(moments.positions)
    return moments


def _add_batch(
    moments: Moments,
    waiting: Waiting,
    layers: list[Layer],
    captured: Captured,
    directions: Iterator[Gradients],
) -> None:
    """Add one batch; nothing large of it is held when the next one runs."""
    for layer in layers:
        for use in layer.uses:
            name, axis = f"{use.name}/{layer.name}", use.kind.fixed_axis
            diagonal = is_diagonal(layer, axis)
            moment = None if diagonal else captured.correlated(layer, use)
            if moment is not None:
                add(moments.sums, f"{name}/{axis}", moment)
                continue
            side = captured.fixed(layer, use)
            _add_side(moments.sums, waiting, f"{name}/{axis}", side, diagonal=diagonal)
    for step, gradients in enumerate(directions):
        for layer in layers:
            for use in layer.uses:
                axis = "rows" if use.kind.fixed_axis == "columns" else "columns"
                name, diagonal = f"{use.name}/{layer.name}", is_diagonal(layer, axis)
                side = captured.moving(use, gradients)
                key = f"{name}/{axis}"
                _add_side(moments.sums, waiting, key, side, diagonal=diagonal)
                if step == 0:
                    count = captured.count(layer, use, side)
                    add(moments.positions, name, count)


def _add_side(
    sums: Params, waiting: Waiting, name: str, side: Side, *, diagonal: bool
) -> None:
    if isinstance(side, OneHot):
        add(sums, name, side.counts())
    elif diagonal:
        add(sums, name, dense(side).double().square().sum((0, 2)))
    else:
        for (ready,) in waiting.add(name, side):
            add(sums, name, gram(ready))


def bases(layer: Layer, moments: Moments) -> tuple[Tensor | None, Tensor | None]:
    """Return the eigenvectors of the marginals; None where a side stays diagonal.

    Args:
        layer: Covered layer.
        moments: Of the pass; empty where no basis is wanted.

    Returns:
        ``R`` and ``C``, in the parameters' dtype.

    Raises:
        DivergedError: A factor is not finite.
    """
    if not moments.sums:
        return None, None
    return _basis(layer, moments, "rows"), _basis(layer, moments, "columns")


def _basis(layer: Layer, moments: Moments, axis: str) -> Tensor | None:
    if is_diagonal(layer, axis):
        return None
    other = "columns" if axis == "rows" else "rows"
    keys = [f"{use.name}/{layer.name}" for use in layer.uses]
    parts = [moments.sums[f"{key}/{axis}"] for key in keys]
    total = parts[0]
    if len(parts) > 1:
        weights = [
            _trace(moments.sums[f"{key}/{other}"]) / moments.positions[key]
            for key in keys
        ]
        total = torch.stack([w * m for w, m in zip(weights, parts, strict=True)]).sum(0)
    if not bool(torch.isfinite(total).all()):
        raise DivergedError(
            f"Kronecker factors must be finite, got NaN or infinity at {layer.name}; "
            "check inputs and weights"
        )
    use = layer.uses[0]
    like = use.module.get_parameter(use.parameters[0])
    return torch.linalg.eigh(total)[1].to(like.dtype)


def _trace(moment: Tensor) -> Tensor:
    return moment.sum() if moment.ndim == 1 else moment.trace()


def kronecker_eigenvalues(
    layer: Layer, moments: Moments, bases: tuple[Tensor | None, Tensor | None], n: int
) -> Float[Tensor, "r c"]:
    """Return the diagonal of ``Σ_u A_u ⊗ B_u / (n · positions_u)`` in the bases.

    Args:
        layer: Covered layer.
        moments: Of the pass.
        bases: ``R`` and ``C``.
        n: Documents of the pass.

    Returns:
        ``Λ`` of KFAC.
    """
    total = torch.zeros(layer.layout.shape, dtype=torch.float64)
    for use in layer.uses:
        key = f"{use.name}/{layer.name}"
        rows, columns = (
            _diagonal(moments.sums[f"{key}/{axis}"], basis)
            for axis, basis in zip(("rows", "columns"), bases, strict=True)
        )
        outer = rows[:, None] * columns / moments.positions[key] / n
        total = total.to(outer.device) + outer
    return total


def _diagonal(moment: Tensor, basis: Tensor | None) -> Tensor:
    """Return the diagonal of ``Qᵀ M Q``."""
    if basis is None:
        return moment if moment.ndim == 1 else moment.diagonal()
    wide = basis.double()
    return ((moment @ wide) * wide).sum(0)
