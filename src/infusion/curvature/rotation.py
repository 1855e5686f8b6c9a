"""Squares of document gradients in an eigenbasis, by the cheapest order of products.

For ``∇W = Σ_t r_t c_tᵀ`` and bases ``R``, ``C`` both functions read ``(Rᵀ ∇W C)²``:
one sums it over documents, the other over the entries of each document's, weighted.
Rotating the sides first costs ``t(r² + c²) + trc`` per document, forming ``∇W`` first
``trc + rc(r + c)``; without positions (``t = 1``) neither is needed.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from infusion.curvature.capture import Factors
from infusion.curvature.kinds import OneHot, Patches, Side, dense

Basis = Tensor | None
_CACHED = 2**22
"""Bytes of document gradients to work on at once."""
_TURNED = 32
"""Documents whose sides are turned at once."""
_ALIGNED, _WIDE = 16, 512
"""Products with as many columns as ``_WIDE``, but no multiple of ``_ALIGNED``, are slow
(measured on one core: 64 instead of 91 GFLOP/s at 1,025)."""


def squared_rotation(
    sides: list[Factors], row_basis: Basis, column_basis: Basis
) -> Float[Tensor, "r c"]:
    """Sum ``(Rᵀ ∇W C)²`` over documents, ``∇W`` a sum over uses.

    Args:
        sides: Of each use.
        row_basis: ``R``, None for the identity.
        column_basis: ``C``, likewise.

    Returns:
        Sum over the documents of the batch.
    """
    if not _has_one_hot(sides):
        rows, columns = _together(sides)
        if rows.shape[2] == 1:  # the gradient of a document has rank one
            left = _turn(row_basis, rows)[..., 0].square()
            return left.T @ _turn(column_basis, columns)[..., 0].square()
        parts = _rotated(rows, columns, row_basis, column_basis)
        result = rows.new_zeros(rows.shape[1], _width(columns))
        for part in parts:
            result += part.square_().sum(0)
        return result
    assert row_basis is None, "the side of a vocabulary has no basis"
    if len(sides) == 1:
        rows, sums, keys = _sums_by_id(sides[0], column_basis)
        result = sums.new_zeros(rows.size, sums.shape[1])
        return result.index_add_(0, keys % rows.size, sums.square_())
    total: Tensor | float = 0.0
    for gradient in _one_by_one(sides, column_basis):
        total = total + gradient.square_()
    assert isinstance(total, Tensor)
    return total


def products_and_squares(
    sides: list[Factors],
    row_basis: Basis,
    column_basis: Basis,
    *,
    vectors: Float[Tensor, "m r c"],
    weights: Float[Tensor, "w r c"],
) -> tuple[Float[Tensor, "m b"], Float[Tensor, "w b"]]:
    """Read each document's gradient in the eigenbasis, rotated once for all.

    Args:
        sides: Of each use.
        row_basis: ``R``, None for the identity.
        column_basis: ``C``, likewise.
        vectors: ``v``, in the eigenbasis too.
        weights: ``w``, filters of the eigenvalues say.

    Returns:
        Sums over the entries of ``v ∘ Rᵀ ∇W C`` and of ``w ∘ (Rᵀ ∇W C)²``.
    """
    if not _has_one_hot(sides):
        rows, columns = _together(sides)
        if rows.shape[2] == 1:
            left = _turn(row_basis, rows)[..., 0]
            right = _turn(column_basis, columns)[..., 0]
            return _rank_one(left, right, vectors), _rank_one(
                left.square(), right.square(), weights
            )
        parts = _rotated(rows, columns, row_basis, column_basis)
        return _all_read((part.flatten(1) for part in parts), vectors, weights)
    if len(sides) == 1:
        rows, sums, keys = _sums_by_id(sides[0], column_basis)
        at, documents = keys % rows.size, keys // rows.size
        return (
            _summed(sums, vectors, at, documents, len(rows.ids)),
            _summed(sums.square(), weights, at, documents, len(rows.ids)),
        )
    each = (g.flatten()[None] for g in _one_by_one(sides, column_basis))
    return _all_read(each, vectors, weights)


def _rank_one(
    left: Float[Tensor, "b r"],
    right: Float[Tensor, "b c"],
    read: Float[Tensor, "m r c"],
) -> Float[Tensor, "m b"]:
    found = [((left @ matrix) * right).sum(1) for matrix in read]
    return torch.stack(found) if found else left.new_zeros(0, len(left))


def _all_read(
    parts: Iterator[Float[Tensor, "p n"]],
    vectors: Float[Tensor, "m r c"],
    weights: Float[Tensor, "w r c"],
) -> tuple[Float[Tensor, "m b"], Float[Tensor, "w b"]]:
    products, squares = [], []
    for part in parts:
        products.append(vectors.flatten(1) @ part.T)
        squares.append(weights.flatten(1) @ part.square_().T)
    return torch.cat(products, 1), torch.cat(squares, 1)


def _summed(
    sums: Float[Tensor, "u c"],
    read: Float[Tensor, "m v c"],
    at: Int[Tensor, " u"],
    documents: Int[Tensor, " u"],
    size: int,
) -> Float[Tensor, "m b"]:
    result = sums.new_zeros(len(read), size)
    for total, matrix in zip(result, read, strict=True):
        total.index_add_(0, documents, (sums * matrix[at]).sum(1))
    return result


def _has_one_hot(sides: list[Factors]) -> bool:
    return any(isinstance(side.rows, OneHot) for side in sides)


def _together(sides: list[Factors]) -> tuple[Tensor, Tensor | Patches]:
    """Put the columns of all uses in a row: their gradients add up."""
    rows = [dense(side.rows) for side in sides]
    if len(sides) == 1:
        columns = sides[0].columns
        return rows[0], columns if isinstance(columns, Patches) else dense(columns)
    return torch.cat(rows, 2), torch.cat([dense(side.columns) for side in sides], 2)


def _turn(basis: Basis, side: Tensor | Patches) -> Float[Tensor, "b d t"]:
    if isinstance(side, Patches):
        return side.dense() if basis is None else side.turned(basis)
    if basis is None:
        return side
    if side.mT.is_contiguous():  # one large product instead of one per document
        width = basis.shape[1]
        if width % _ALIGNED and width >= _WIDE:  # would take half more time
            basis = F.pad(basis, (0, -width % _ALIGNED))
        product = side.mT.flatten(0, 1) @ basis
        return product[:, :width].unflatten(0, (len(side), -1)).mT
    return basis.T @ side


def use_matrices(rows: Tensor, columns: Side) -> Float[Tensor, "b r c"]:
    """Return ``Σ_t r_t c_tᵀ`` of every document.

    Args:
        rows: Written out.
        columns: Not one-hot.

    Returns:
        One use's part of the document gradients.
    """
    if isinstance(columns, Patches):
        return columns.gradients(rows)
    return rows @ dense(columns).transpose(1, 2)


def document_matrices(sides: list[Factors]) -> Float[Tensor, "b r c"]:
    """Return the gradient of every document: the sum over uses of ``Σ_t r_t c_tᵀ``.

    Args:
        sides: Of each use.

    Returns:
        Laid out as the layer's matrix.
    """
    parts = [
        side.rows.times(dense(side.columns))
        if isinstance(side.rows, OneHot)
        else use_matrices(dense(side.rows), side.columns)
        for side in sides
    ]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _width(columns: Tensor | Patches) -> int:
    return columns.width if isinstance(columns, Patches) else columns.shape[1]


def _rotated(
    rows: Float[Tensor, "b r t"],
    columns: Tensor | Patches,
    row_basis: Basis,
    column_basis: Basis,
) -> Iterator[Float[Tensor, "p r c"]]:
    """Yield ``Rᵀ ∇W C`` of as few documents at a time as a cache holds."""
    r, t = rows.shape[1:]
    width = _width(columns)
    few = max(_CACHED // (r * width * rows.element_size()), 1)
    c = 0 if column_basis is None else width
    turn_rows = 0 if row_basis is None else r * r
    if t * (turn_rows + c * c) < turn_rows * c + r * c * c:
        for own, other in zip(rows.split(_TURNED), columns.split(_TURNED), strict=True):
            left = _turn(row_basis, own)
            right = _turn(column_basis, other).transpose(1, 2)
            yield from map(torch.matmul, left.split(few), right.split(few))
        return
    for own, other in zip(rows.split(few), columns.split(few), strict=True):
        rotated = _turn(row_basis, use_matrices(own, other))
        yield rotated if column_basis is None else rotated @ column_basis


def _sums_by_id(
    side: Factors, column_basis: Basis
) -> tuple[OneHot, Float[Tensor, "u c"], Tensor]:
    """Sum each document's columns with equal ids, touching only ids that occur.

    Returns:
        The one-hot side, the sums, and ``document · size + id`` of each.
    """
    rows = side.rows
    assert isinstance(rows, OneHot)
    columns = _turn(column_basis, dense(side.columns))
    if rows.kept is not None:
        columns = columns * rows.kept[:, None]
    offsets = torch.arange(len(columns), device=columns.device)[:, None] * rows.size
    keys, places = (rows.ids + offsets).unique(return_inverse=True)
    sums = columns.new_zeros(len(keys), columns.shape[1])
    sums.index_add_(0, places.flatten(), columns.transpose(1, 2).flatten(0, 1))
    return rows, sums, keys


def _one_by_one(
    sides: list[Factors], column_basis: Basis
) -> Iterator[Float[Tensor, "r c"]]:
    """Yield each document's gradient, vocabulary × width: too large for a batch."""
    turned = [_turn(column_basis, dense(side.columns)) for side in sides]
    for i in range(len(turned[0])):
        total: Tensor | float = 0.0
        for side, columns in zip(sides, turned, strict=True):
            if isinstance(side.rows, OneHot):
                part = side.rows.one(i).times(columns[i][None])[0]
            else:
                part = dense(side.rows)[i] @ columns[i].T
            total = total + part
        assert isinstance(total, Tensor)
        yield total
