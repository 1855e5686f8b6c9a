"""Edits: changed documents with their originals, applied, undone and listed."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.data.hashing import row_hashes
from infusion.data.streams import Stream
from infusion.errors import InputError
from infusion.records import Dataset, Documents

AnyDocuments = TypeVar("AnyDocuments", Dataset, Stream)


@dataclass(frozen=True)
class Edits:
    """A few documents before and after, at their positions in a dataset.

    Attributes:
        documents: Positions, no two equal.
        before: The original rows, as stored.
        after: The edited rows; on another storage (floats) only for ``as_coded``.
        operator: What made them, e.g. ``"ascent"``.
        asked: Budget asked for, e.g. ``{"norm": "linf", "epsilon": 0.125}``.
        seed: Seed of a random operator.
        config_hash: Hash of the run's configuration, where there is one.
    """

    documents: Int[Tensor, " k"]
    before: Dataset
    after: Dataset
    operator: str
    asked: dict[str, Any]
    seed: int | None = None
    config_hash: str | None = None

    def __len__(self) -> int:
        """Count the edited documents."""
        return len(self.documents)

    @property
    def storage_differs(self) -> bool:
        """Tell whether the edited rows are off the original's grid or range."""
        before, after = self.before, self.after
        return (after.levels, after.valid) != (before.levels, before.valid)

    @property
    def are_offsets(self) -> bool:
        """Tell whether the edits are of embeddings, which no document can store."""
        return self.after.inputs.ndim > self.before.inputs.ndim

    @property
    def delta(self) -> Tensor:
        """Change of each document, in values."""
        return self.after.values().inputs - self.before.values().inputs

    @property
    def reached(self) -> list[dict[str, Any]]:
        """How far each document went: the norms of its change, or tokens changed."""
        if self.are_offsets:
            delta = self.after.inputs.flatten(1)
            return [
                {"linf": float(row.abs().max()), "l2": float(row.double().norm())}
                for row in delta
            ]
        if self.before.levels is None and not self.before.inputs.is_floating_point():
            changed = (self.before.inputs != self.after.inputs).flatten(1).sum(1)
            return [{"tokens": count} for count in changed.tolist()]
        delta = self.delta.flatten(1)
        norms = zip(
            delta.abs().amax(1).tolist(),
            delta.double().norm(dim=1).tolist(),
            strict=True,
        )
        return [{"linf": linf, "l2": l2} for linf, l2 in norms]

    @property
    def manifest(self) -> list[dict[str, Any]]:
        """One record per edited document: hashes, labels, budget asked and reached."""
        rows = zip(
            self.documents.tolist(),
            row_hashes(self.before),
            row_hashes(self.after),
            self.before.labels.tolist(),
            self.after.labels.tolist(),
            self.reached,
            strict=True,
        )
        return [
            {
                "index": index,
                "hash_before": hash_before,
                "hash_after": hash_after,
                "label_before": label_before,
                "label": label,
                "operator": self.operator,
                "asked": self.asked,
                "reached": reached,
                "seed": self.seed,
                "config_hash": self.config_hash,
            }
            for index, hash_before, hash_after, label_before, label, reached in rows
        ]

    def apply(self, data: AnyDocuments) -> AnyDocuments:
        """Return the documents with the edited rows in place.

        Args:
            data: Must hold the original rows at their positions.

        Returns:
            A new dataset; stored as float values if the edits are.

        Raises:
            InputError: A row to replace is not the original, or cannot be stored.
        """
        if self.are_offsets:
            raise InputError(
                "edits to apply must be of stored documents, got offsets of "
                "embeddings; train on them with offset_training"
            )
        self._expect(data, self.before, "apply")
        if self.storage_differs:
            if not isinstance(data, Dataset):
                raise InputError(
                    "edits of a stream must be stored as it is, got values off its "
                    "grid; craft them realisable"
                )
            data = data.values()
        return data.put(self.documents, self.after)

    def undo(self, data: AnyDocuments) -> AnyDocuments:
        """Return the documents with the original rows back, on their storage grid.

        Args:
            data: Must hold the edited rows at their positions.

        Returns:
            What the edits were applied to, row for row.

        Raises:
            InputError: A row to restore is not the edited one.
        """
        self._expect(data, self.after, "undo")
        if isinstance(data, Stream):
            return data.put(self.documents, self.before)
        levels = self.before.levels
        if levels is not None and data.levels is None:
            # Values of unedited rows are level / levels in float32, exact to invert;
            # the edited rows are about to be replaced.
            inputs = (data.inputs * levels).round().clamp(0, levels).to(torch.uint8)
            data = replace(data, inputs=inputs, levels=levels)
        return replace(data.put(self.documents, self.before), valid=self.before.valid)

    def check(self, data: Documents) -> None:
        """Refuse a dataset that the edits were not made for.

        Args:
            data: Must hold the original rows at their positions.

        Raises:
            InputError: A row to replace is not the original.
        """
        self._expect(data, self.before, "apply")

    def _expect(self, data: Documents, rows: Dataset, verb: str) -> None:
        highest = int(self.documents.max())
        if highest >= len(data):
            raise InputError(
                f"to {verb} edits the dataset must hold document {highest}, got "
                f"{len(data)} documents; use the dataset the edits were made for"
            )
        have, want = row_hashes(data.take(self.documents)), row_hashes(rows)
        wrong = [
            int(d) for d, h, w in zip(self.documents, have, want, strict=True) if h != w
        ]
        if wrong:
            raise InputError(
                f"to {verb} edits every row must hash as listed in the manifest, got "
                f"{len(wrong)} others, first document {wrong[0]}; use the dataset the "
                "edits were made for"
            )
