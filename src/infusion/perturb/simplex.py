"""Nearest rows on the probability simplex, and among those at least as peaked as asked.

A relaxed token is a row ``x`` with ``x ≥ 0`` and ``Σ x = 1``; a token is a vertex. How
far a row is from one is its Gini index ``1 − Σ x²``. Rows of index at most ``g`` are
those of the simplex outside an open ball around its centre, which is no convex set.

Sources: Held et al. (1974) and Michelot (1986) for the simplex; Geisler et al. (2024),
arXiv 2402.09154, for the second set, whose nearest point they approach in steps and
which is exact here.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.errors import InputError, check_whole

_COPIES = 6
"""Rows of floats that a projection holds beside its input and its result."""
_FEW = 512
"""Entries of a row among which the support is looked for first."""
_TIE = 1e-12
"""Distance put between equal entries of a row, so that one of them comes first."""


def project_simplex(
    rows: Float[Tensor, "*b v"], *, memory_limit: int | None = None
) -> Float[Tensor, "*b v"]:
    """Return the nearest point of the probability simplex to each row.

    ``max(0, y − μ)`` with the ``μ`` at which it adds up to one: by sorting the largest
    few entries, and where more stay above ``μ`` by Newton's method, which raises it
    from a lower bound and ends exactly: each step is the solution for the entries still
    above it.

    Args:
        rows: Any finite values.
        memory_limit: Bytes beside rows and result; rows are taken in parts.

    Returns:
        A new tensor without a graph.

    Raises:
        InputError: A row is empty or not finite, or the limit is below one row.

    >>> project_simplex(torch.tensor([0.5, 1.0, -2.0]))
    tensor([0.2500, 0.7500, 0.0000])
    """
    return _in_parts(_onto_simplex, rows, memory_limit)


def project_peaked(
    rows: Float[Tensor, "*b v"], gini: float, *, memory_limit: int | None = None
) -> Float[Tensor, "*b v"]:
    """Return a nearest point of the simplex with a Gini index of at most ``gini``.

    Where the nearest point of the simplex has a larger index, the constraint binds and
    ``x = max(0, y − μ) / Σ max(0, y − μ)``: the larger ``μ``, the more peaked, so one
    number is found, in closed form for the entries that stay. Between equal entries the
    nearest point is not unique; some of them come out larger.

    Args:
        rows: Any finite values.
        gini: Largest index ``1 − Σ x²``, in [0, 1); 0 asks for a vertex.
        memory_limit: Bytes beside rows and result; rows are taken in parts.

    Returns:
        A new tensor; rows that satisfy both already come back as they are, but for
        rounding.

    Raises:
        InputError: A row is empty or not finite, the index is out of range, or the
            limit is below one row.

    >>> project_peaked(torch.tensor([0.5, 0.3, 0.2]), 0.5)
    tensor([0.6483, 0.2703, 0.0814])
    """
    if not 0 <= gini < 1:
        raise InputError(
            f"gini must be in [0, 1), got {gini}; 0 asks for one token per position"
        )
    return _in_parts(partial(_onto_peaked, gini=gini), rows, memory_limit)


def _in_parts(
    project: Callable[[Tensor], Tensor], rows: Tensor, memory_limit: int | None
) -> Tensor:
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        raise InputError(
            f"rows to project must be a floating-point tensor, got "
            f"{getattr(rows, 'dtype', type(rows).__name__)}; use one-hot floats"
        )
    if rows.ndim == 0 or not rows.shape[-1]:
        raise InputError(
            f"rows to project must have entries, got shape {tuple(rows.shape)}"
        )
    flat = rows.detach().reshape(-1, rows.shape[-1])
    height = max(len(flat), 1)
    if memory_limit is not None:
        check_whole("memory_limit", memory_limit)
        row = _COPIES * flat.shape[1] * max(flat.element_size(), 8)
        if memory_limit < row:
            raise InputError(
                f"memory_limit must be at least {row:,} bytes, what one row of "
                f"{flat.shape[1]:,} needs, got {memory_limit:,}; raise it"
            )
        height = min(height, memory_limit // row)
    result = torch.empty_like(flat)
    for first in range(0, len(flat), height):
        part = flat[first : first + height]
        if not bool(torch.isfinite(part).all()):
            raise InputError(
                "rows to project must be finite, got NaN or infinity; lower the step"
            )
        exact = part if part.element_size() >= 4 else part.float()
        result[first : first + height] = project(exact).to(part)
    return result.reshape(rows.shape)


def _onto_simplex(rows: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """Project by the largest few entries, and by all where the support is larger."""
    rows = rows - rows.amax(1, keepdim=True)  # the same nearest point, no large numbers
    few = min(_FEW, rows.shape[1])
    top = rows.topk(few, dim=1).values.double()
    number = torch.arange(1, few + 1, dtype=torch.float64, device=rows.device)
    levels = (top.cumsum(1) - 1) / number
    size = (top > levels).sum(1, keepdim=True)  # of the support, if it is among them
    level = levels.gather(1, size - 1).to(rows)
    result = (rows - level).clamp_min_(0)
    larger = (size[:, 0] == few) & (few < rows.shape[1])
    if bool(larger.any()):
        result[larger] = _by_newton(rows[larger])
    return result


def _by_newton(rows: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    level = torch.full_like(rows[:, :1], -1.0)  # no entry exceeds 1
    above = (rows - level).clamp_min_(0)
    count = above.count_nonzero(1)
    while True:
        level += (above.sum(1, keepdim=True) - 1) / above.count_nonzero(1)[:, None]
        torch.sub(rows, level, out=above).clamp_min_(0)
        fewer = above.count_nonzero(1)
        if not bool((fewer < count).any()):  # rounding may bring one back, and again
            return above
        count = torch.minimum(fewer, count)


def _onto_peaked(rows: Float[Tensor, "b v"], *, gini: float) -> Float[Tensor, "b v"]:
    """Project onto the simplex; make more peaked what is not peaked enough."""
    result, least = _onto_simplex(rows), 1.0 - gini
    squares = (result * result).sum(1)
    flat = squares < least - _slack(rows)
    if bool(flat.any()):
        result[flat] = _more_peaked(rows[flat], result[flat], least)
    return result


def _more_peaked(
    rows: Float[Tensor, "b v"], nearest: Float[Tensor, "b v"], least: float
) -> Float[Tensor, "b v"]:
    """Find ``μ`` among the largest entries: those of the nearest point's support.

    With the entries ``y₁ ≥ y₂ ≥ …`` and ``e = y − μ`` of the first m, their mean ē and
    ``V = Σ (e − ē)²``: ``Σ e² = ρ (Σ e)²`` where ``ē² = V / (m (ρ m − 1))``.

    Returns:
        Rows with ``Σ x² = ρ``, the least.
    """
    width = int(nearest.count_nonzero(1).max())
    top, places = rows.topk(width, dim=1)
    steps = torch.arange(width, dtype=torch.float64, device=rows.device)
    below = (top - top[:, :1]).double() - _TIE * steps  # the largest is 0
    number = steps + 1.0
    mean = below.cumsum(1) / number
    spread = (below**2).cumsum(1) - number * mean**2
    # At μ = y_{m+1} the first m stay: is that peaked enough?
    gap = mean[:, :-1] - below[:, 1:]
    squares = spread[:, :-1] + number[:-1] * gap**2
    enough = squares >= least * (number[:-1] * gap) ** 2
    last = enough.long().cumprod(1).sum(1, keepdim=True)  # m − 1 of the entries kept
    m = last.double() + 1
    centre, spread = mean.gather(1, last), spread.gather(1, last)
    scarce = (least * m - 1).clamp_min(_TIE)  # 0 where m equal entries just suffice
    height = (spread.clamp_min(0) / (m * scarce)).sqrt()
    kept = (steps <= last) * (below - centre + height).clamp_min(0)
    return torch.zeros_like(rows).scatter_(
        1, places, (kept / kept.sum(1, keepdim=True)).to(rows)
    )


def _slack(rows: Tensor) -> float:
    return 8 * torch.finfo(rows.dtype).eps
