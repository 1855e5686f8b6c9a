"""Documents that are read when a stage asks for them, and never all at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.errors import InputError, check_whole
from infusion.records import Batch, Dataset, check_put


@dataclass(frozen=True)
class Stream:
    """A corpus larger than memory, by position.

    ``train``, ``fit_curvature``, ``influence`` and its relatives, ``craft`` and
    ``Edits.apply`` take one in place of a :class:`infusion.Dataset`, and hold a
    batch of it at a time.

    Attributes:
        size: Documents.
        read: ``read(positions) -> Dataset`` of those rows in that order: from files,
            a memory map, or made on the spot. The same position must always give the
            same row, in every process.

    Example:
        >>> rows = torch.arange(6, dtype=torch.float32).view(3, 2)
        >>> stream = Stream(3, lambda at: Dataset(rows[at], torch.zeros(len(at))))
        >>> stream.take(torch.tensor([2])).inputs
        tensor([[4., 5.]])
    """

    size: int
    read: Callable[[Int[Tensor, " b"]], Dataset]

    def __post_init__(self) -> None:
        """Refuse what cannot be read.

        Raises:
            InputError: It is empty, or its first row is not to be had.
        """
        check_whole("size of a stream", self.size)
        _ = self._first

    def __len__(self) -> int:
        """Count the documents."""
        return self.size

    @cached_property
    def _first(self) -> Dataset:
        return self._rows(torch.tensor([0]))

    @property
    def levels(self) -> int | None:
        """Storage grid of the documents."""
        return self._first.levels

    @property
    def valid(self) -> tuple[float, float] | None:
        """Range of their values."""
        return self._first.valid

    def take(self, documents: Int[Tensor, " k"]) -> Dataset:
        """Read the named rows.

        Args:
            documents: Positions.

        Returns:
            A dataset of ``k`` rows.

        Raises:
            InputError: There are no such positions, a row is refused, or what was
                read are not as many documents or stored otherwise than the first.
        """
        found = self._rows(documents)
        if not self._first.is_stored_like(found):
            raise InputError(
                "rows of a stream must be stored alike, got "
                f"{found.storage} where the first is {self._first.storage}; convert "
                "them in read"
            )
        return found

    def _rows(self, documents: Int[Tensor, " k"]) -> Dataset:
        low, high = documents.aminmax() if len(documents) else (0, 0)
        if not 0 <= low <= high < self.size:
            raise InputError(
                f"documents must be positions in 0…{self.size - 1}, got {int(low)} to "
                f"{int(high)}; draw them from the stream"
            )
        try:
            found = self.read(documents)
        except InputError:  # its rows are numbered from the first of these
            self._name_bad_row(documents)
            raise
        if not isinstance(found, Dataset) or len(found) != len(documents):
            got = len(found) if isinstance(found, Dataset) else type(found).__name__
            raise InputError(
                f"read must return an infusion.Dataset of the {len(documents)} rows "
                f"asked for, got {got}; return one row per position, in their order"
            )
        return found

    def _name_bad_row(self, documents: Int[Tensor, " k"]) -> None:
        """Raise what the first row that is refused alone raises, with its position."""
        for document in documents.tolist():
            try:
                self.read(torch.tensor([document]))
            except InputError as error:
                raise InputError(
                    f"document {document} of a stream, read by itself as row 0: {error}"
                ) from error

    def batch(
        self, documents: Int[Tensor, " b"], *, like: Tensor | None = None
    ) -> Batch:
        """Read documents as the model sees them.

        Args:
            documents: Positions.
            like: Give values the dtype and device of this tensor.

        Returns:
            Values in the model's units.
        """
        return self.take(documents).batch(torch.arange(len(documents)), like=like)

    def put(self, documents: Int[Tensor, " k"], rows: Dataset) -> "Stream":
        """Return the stream with other rows at some positions.

        Args:
            documents: Positions.
            rows: What is there from now on, stored as the stream is.

        Returns:
            A stream that keeps those rows in memory and reads the others.

        Raises:
            InputError: Positions and rows do not fit each other or the stream.
        """
        check_put(self._first, documents, rows, self.size)
        places = {int(at): place for place, at in enumerate(documents.tolist())}

        def read(wanted: Int[Tensor, " b"]) -> Dataset:
            found = self.read(wanted)
            here = [i for i, at in enumerate(wanted.tolist()) if at in places]
            if not here:
                return found
            there = torch.tensor([places[int(wanted[i])] for i in here])
            return found.put(torch.tensor(here), rows.take(there))

        return replace(self, read=read)
