"""Squared document gradients in an eigenbasis, against the plain formula."""

import pytest
import torch

from infusion.curvature import rotation
from infusion.curvature.capture import Factors


@pytest.mark.parametrize("documents_at_once", [1, 2, 100])
@pytest.mark.parametrize(
    ("r", "c", "t"),
    [(4, 6, 2), (4, 6, 30), (3, 513, 2), (3, 513, 600)],
    ids=["sides first", "gradient first", "odd and wide", "odd, wide, many"],
)
def test_every_order_of_products_gives_the_same_squares(
    r: int,
    c: int,
    t: int,
    documents_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    monkeypatch.setattr(rotation, "_CACHED", documents_at_once * r * c * 8)
    monkeypatch.setattr(rotation, "_TURNED", 3)
    draw = {"generator": generator, "dtype": torch.float64}
    rows, columns = torch.randn(5, r, t, **draw), torch.randn(5, t, c, **draw).mT
    left, right = torch.randn(r, r, **draw), torch.randn(c, c, **draw)
    weights = torch.rand(r, c, **draw)
    each = (left.T @ (rows @ columns.mT) @ right).square()
    sides = [Factors(rows, columns)]
    torch.testing.assert_close(
        rotation.squared_rotation(sides, left, right), each.sum(0), rtol=1e-9, atol=1e-9
    )
    vectors = torch.randn(3, r, c, **draw)
    products, squares = rotation.products_and_squares(
        sides, left, right, vectors=vectors, weights=weights[None]
    )
    rotated = left.T @ (rows @ columns.mT) @ right
    torch.testing.assert_close(
        products, torch.einsum("brc,mrc->mb", rotated, vectors), rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        squares[0], (each * weights).sum((1, 2)), rtol=1e-9, atol=1e-9
    )
