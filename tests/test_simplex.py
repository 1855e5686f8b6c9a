"""Nearest rows on the simplex and among peaked ones, against brute force."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from tests.oracles import simplex_row_by_row
from torch import Tensor

from infusion.errors import InputError
from infusion.perturb.simplex import project_peaked, project_simplex

ROWS = st.integers(1, 6).flatmap(
    lambda v: st.lists(
        st.lists(st.floats(-3, 3, width=32), min_size=v, max_size=v),
        min_size=1,
        max_size=4,
    )
)


def gini(rows: Tensor) -> Tensor:
    return 1 - (rows**2).sum(-1)


def by_supports(y: Tensor) -> Tensor:
    """The quadratic programme solved on every possible support."""
    best = None
    for size in range(1, len(y) + 1):
        for chosen in combinations(range(len(y)), size):
            x = torch.zeros_like(y)
            part = y[list(chosen)]
            x[list(chosen)] = part - (part.sum() - 1) / size
            closer = best is None or (x - y).norm() < (best - y).norm()
            if bool((x >= 0).all()) and closer:
                best = x
    assert best is not None
    return best


@given(rows=ROWS)
def test_the_simplex_projection_solves_its_quadratic_programme(
    rows: list[list[float]],
) -> None:
    y = torch.tensor(rows, dtype=torch.float64)
    x = project_simplex(y)
    for found, row in zip(x, y, strict=True):
        torch.testing.assert_close(found, by_supports(row), atol=1e-12, rtol=0)
    torch.testing.assert_close(project_simplex(x), x, atol=1e-15, rtol=0)


def test_it_agrees_with_a_general_solver() -> None:
    torch.manual_seed(0)
    y = torch.randn(30, dtype=torch.float64) / 4
    solved = minimize(
        lambda x: ((x - y.numpy()) ** 2).sum(),
        torch.full((30,), 1 / 30).numpy(),
        jac=lambda x: 2 * (x - y.numpy()),
        bounds=[(0, 1)] * 30,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    found = project_simplex(y)
    assert 1 < int(found.count_nonzero()) < 30
    torch.testing.assert_close(found, torch.from_numpy(solved.x), atol=1e-6, rtol=0)


@given(rows=ROWS, largest=st.floats(0, 0.95))
def test_peaked_rows_are_feasible_and_stay(
    rows: list[list[float]], largest: float
) -> None:
    x = project_peaked(torch.tensor(rows, dtype=torch.float64), largest)
    assert bool((x >= 0).all())
    torch.testing.assert_close(x.sum(-1), torch.ones(len(x), dtype=torch.float64))
    assert float(gini(x).max()) <= largest + 1e-9
    torch.testing.assert_close(project_peaked(x, largest), x, atol=1e-9, rtol=0)


def directions(size: int) -> Tensor:
    """Unit vectors whose entries add up to zero, evenly in all directions."""
    centre = torch.ones(size, size, dtype=torch.float64) / size
    basis = torch.linalg.svd(torch.eye(size, dtype=torch.float64) - centre)[2][:-1]
    if size == 2:
        circle = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    elif size == 3:
        turn = torch.arange(20_000, dtype=torch.float64) * (2 * math.pi / 20_000)
        circle = torch.stack([turn.cos(), turn.sin()], 1)
    else:  # Fibonacci's lattice on the sphere
        number = torch.arange(100_000, dtype=torch.float64)
        height = 1 - (2 * number + 1) / len(number)
        turn = number * math.pi * (3 - math.sqrt(5))
        wide = (1 - height**2).sqrt()
        circle = torch.stack([wide * turn.cos(), wide * turn.sin(), height], 1)
    return circle @ basis


def edge(size: int, largest: float) -> Tensor:
    """Points of the simplex of one Gini index, on all its faces: a net of them."""
    found = [torch.eye(size, dtype=torch.float64)]
    for width in range(2, size + 1):
        square = 1 - largest - 1 / width
        if square < 0:
            continue
        ring = 1 / width + math.sqrt(square) * directions(width)
        for kept in combinations(range(size), width):
            points = torch.zeros(len(ring), size, dtype=torch.float64)
            points[:, list(kept)] = ring
            found.append(points[points.amin(1) >= 0])
    return torch.cat(found)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_nearest_peaked_point_is_that_of_brute_force(size: int) -> None:
    torch.manual_seed(size)
    bound = 0
    for largest in (0.0, 0.2, 0.45, 0.6, 0.7):
        rows = torch.randn(40, size, dtype=torch.float64)
        rows[::2] = (torch.randn(20, size, dtype=torch.float64) / 8).softmax(-1)
        found, nearest = project_peaked(rows, largest), project_simplex(rows)
        binds = gini(nearest) > largest
        torch.testing.assert_close(found[~binds], nearest[~binds])
        if not bool(binds.any()):
            continue
        bound += int(binds.sum())
        forced = torch.cdist(rows[binds], edge(size, largest)).amin(1)
        ours = (found - rows)[binds].norm(dim=1)
        assert float((ours - forced).max()) <= 1e-9, "a feasible point is nearer"
        assert float((forced - ours).max()) <= 1e-3, "ours is not feasible"
    assert bound >= 20, "the constraint has to bind somewhere"


def test_ties_give_one_of_the_nearest_points() -> None:
    for size in (2, 3, 50):
        flat = torch.full((size,), 0.1)
        for largest in (0.0, 0.3):
            found = project_peaked(flat, largest)
            assert float(gini(found)) == pytest.approx(largest, abs=1e-5)
    untouched = torch.tensor([0.5, 0.5, 0.0])
    assert torch.equal(project_peaked(untouched, 0.5), untouched)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_as_many_equal_entries_as_just_suffice(count: int) -> None:
    row = torch.cat([torch.full((count,), 0.3), torch.tensor([0.1])])
    found = project_peaked(row, 1 - 1 / count)
    expected = torch.cat([torch.full((count,), 1 / count), torch.zeros(1)])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "row",
    [
        torch.tensor([1e8, 0.0]),
        torch.tensor([1e20, 1.0, 0.0], dtype=torch.float64),
        torch.tensor([300.0, 1.0, 0.0], dtype=torch.bfloat16),
        torch.tensor([5_000.0, 0.0, 1.0], dtype=torch.float16),
        torch.tensor([5.0, 0.0], requires_grad=True),
    ],
)
def test_large_and_short_numbers_come_to_a_vertex(row: Tensor) -> None:
    vertex = torch.zeros_like(row).detach()
    vertex[0] = 1
    assert torch.equal(project_simplex(row), vertex)
    assert torch.equal(project_peaked(row, 0.3), vertex)


def test_rounding_does_not_keep_it_going() -> None:
    torch.manual_seed(0)
    for scale in (1e-8, 1e-4, 1.0, 1e4):
        for dtype in (torch.float32, torch.float64):
            rows = scale * torch.randn(2_000, 12, dtype=dtype)
            for y in (rows, rows.round(decimals=1), rows - 1e3):
                total = project_simplex(y).sum(1)
                torch.testing.assert_close(total, torch.ones_like(total))


def test_large_vocabularies_agree_with_a_loop_and_fit_a_limit() -> None:
    torch.manual_seed(0)
    rows = torch.zeros(1, 3, 1_001)
    rows[..., 7] = 0.1
    rows += 0.005 * torch.randn_like(rows)
    whole = project_peaked(rows, 0.4)
    limit = 6 * 1_001 * 8
    in_parts = project_peaked(rows, 0.4, memory_limit=2 * limit)
    torch.testing.assert_close(in_parts, whole, atol=1e-7, rtol=0)
    in_parts = project_simplex(rows, memory_limit=limit)
    torch.testing.assert_close(in_parts, project_simplex(rows), atol=1e-7, rtol=0)
    for largest, found in ((None, project_simplex(rows)), (0.4, whole)):
        expected = [
            simplex_row_by_row(row.tolist(), largest) for row in rows.flatten(0, 1)
        ]
        torch.testing.assert_close(
            found.flatten(0, 1), torch.tensor(expected), atol=2e-6, rtol=0
        )
    assert float((gini(project_simplex(rows)) - 0.4).min()) > 0, "it binds"


def test_rows_that_cannot_be_projected_are_refused() -> None:
    rows = torch.zeros(2, 3)
    with pytest.raises(InputError, match=r"gini must be in \[0, 1\), got 1.0"):
        project_peaked(rows, 1.0)
    with pytest.raises(InputError, match="must be finite, got NaN or infinity"):
        project_simplex(torch.tensor([1.0, float("nan")]))
    with pytest.raises(InputError, match="must have entries, got shape"):
        project_simplex(torch.zeros(2, 0))
    with pytest.raises(InputError, match="at least 144 bytes, what one row of 3"):
        project_simplex(rows, memory_limit=143)
