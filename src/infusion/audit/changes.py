"""Compare a dataset with its seal: rows that changed, came, went or were relabelled.

Which hashes are there is exact, whatever the order and the copies of a row. Which of
the rows that went an unknown one came from is read off its place: its file, or in a
table the gap between rows that are as they were.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

from infusion.audit.contents import Row

Kind = Literal["changed", "relabelled", "added", "removed", "re-encoded"]
EDITS = ("changed", "relabelled", "added", "removed")
"""Kinds of change that training notices."""


@dataclass(frozen=True)
class Change:
    """One row that is not as it was sealed.

    Attributes:
        kind: What happened. ``re-encoded``: other bytes in the file, of the same
            values, which no training notices.
        before: The row as sealed; None where it was added.
        after: The row as it is; None where it was removed.
    """

    kind: Kind
    before: Row | None
    after: Row | None


@dataclass(frozen=True)
class Comparison:
    """A dataset beside its seal.

    Attributes:
        changes: Rows that were there in the order of the seal, then those added.
        same: Rows as they were, re-encoded ones among them.
        moved: Of those, the ones at another place.
    """

    changes: tuple[Change, ...]
    same: int
    moved: int

    @property
    def edits(self) -> tuple[Change, ...]:
        """Changes that training notices."""
        return tuple(change for change in self.changes if change.kind in EDITS)


def compare(sealed: list[Row], found: list[Row]) -> Comparison:
    """Name every row that differs.

    Args:
        sealed: Rows of the seal.
        found: Rows of the dataset.

    Returns:
        The comparison. Rows of one hash are matched first, at their own place where
        they can be; then rows of one content, which were relabelled; then rows of one
        place, which were changed. Rows that are left were added or removed.
    """
    kept = _match(sealed, found, [_own_place, lambda row: row.hash])
    sealed_left, found_left = _left(sealed, found, kept)
    by_content = [lambda row: (row.file, row.row, row.content), lambda row: row.content]
    relabelled = _match(sealed_left, found_left, by_content)
    known = kept + relabelled
    gaps = _gaps(sealed, found, known)
    changed = _match(*_left(sealed, found, known), [lambda row: gaps[id(row)]])
    removed, added = _left(sealed, found, known + changed)
    place = {id(row): number for number, row in enumerate(sealed)}
    pairs: list[tuple[Kind, Row, Row | None]] = [
        *(("re-encoded", old, new) for old, new in kept if old.stored != new.stored),
        *(("relabelled", old, new) for old, new in relabelled),
        *(("changed", old, new) for old, new in changed),
        *(("removed", old, None) for old in removed),
    ]
    pairs.sort(key=lambda pair: place[id(pair[1])])
    changes = [Change(*pair) for pair in pairs]
    changes += [Change("added", None, new) for new in added]
    moved = sum(_at(old) != _at(new) for old, new in kept)
    return Comparison(tuple(changes), len(kept), moved)


_Pairs = list[tuple[Row, Row]]


def _at(row: Row) -> tuple[str, int | None]:
    return row.file, row.row


def _own_place(row: Row) -> Hashable:
    return row.file, row.row, row.hash


def _match(
    sealed: list[Row], found: list[Row], keys: Iterable[Callable[[Row], Hashable]]
) -> _Pairs:
    """Pair rows of one key in order, by the first key that has both."""
    pairs: _Pairs = []
    for key in keys:
        waiting: dict[Hashable, deque[Row]] = defaultdict(deque)
        for old in sealed:
            waiting[key(old)].append(old)
        own = [(waiting[key(new)].popleft(), new) for new in found if waiting[key(new)]]
        sealed, found = _left(sealed, found, own)
        pairs += own
    return pairs


def _left(
    sealed: list[Row], found: list[Row], pairs: _Pairs
) -> tuple[list[Row], list[Row]]:
    """Return the rows of both that are in no pair."""
    taken = {id(row) for pair in pairs for row in pair}
    return [r for r in sealed if id(r) not in taken], [
        r for r in found if id(r) not in taken
    ]


def _gaps(sealed: list[Row], found: list[Row], known: _Pairs) -> dict[int, Hashable]:
    """Say after which known row of the seal each row stands, in its file."""
    number = {id(row): place for place, row in enumerate(sealed)}
    same = {id(new): number[id(old)] for old, new in known}
    known_old = {id(old) for old, _ in known}
    gaps: dict[int, Hashable] = {}
    for rows, known_as in ((sealed, number), (found, same)):
        file, last = None, -1
        for row in rows:
            if row.file != file:
                file, last = row.file, -1
            gaps[id(row)] = (row.file, last)
            if id(row) in known_old or id(row) in same:
                last = known_as[id(row)]
    return gaps
