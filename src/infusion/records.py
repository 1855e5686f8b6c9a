"""The nouns: a task, a dataset with its storage grid, a batch of it.

Axes: ``n`` training documents, ``b`` batch, ``k`` edited documents, ``c`` classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from infusion.errors import InputError

Measurement = Callable[[nn.Module], Tensor]
"""A scalar function of the model whose increase is the goal."""

LabelSampler = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, uniforms of the same shape) -> labels``, drawn from the model."""

Likelihood = Literal["categorical", "gaussian"] | LabelSampler | None


class Batch(NamedTuple):
    """Documents as the model sees them: values, not stored levels."""

    inputs: Tensor
    labels: Tensor


def call_model(model: nn.Module, batch: Batch) -> Tensor:
    """Feed the inputs to the model, the usual way to turn a batch into outputs.

    Args:
        model: Called with the inputs alone.
        batch: Documents.

    Returns:
        Whatever the model returns, one row per document.
    """
    return model(batch.inputs)


@dataclass(frozen=True)
class Task:
    """A model, how it turns a batch into outputs, and the loss it was trained with.

    Attributes:
        model: Holds the parameters ``θ``; every stage here runs it in eval mode.
        outputs: ``outputs(model, batch) -> [b, …]``.
        loss: ``loss(outputs, batch) -> [b]``, one value per document, in nats for a
            likelihood. The training objective is its mean over documents.
        likelihood: What the loss is the negative log of, up to a constant:
            ``"categorical"`` over the last axis, ``"gaussian"`` with unit variance
            (loss ``½‖y − outputs‖²``), or a sampler. Needed for the true Fisher.
        scale: How many times that the loss is; of a loss over the tokens of a corpus
            one over their mean number per document. The Fisher is scaled alike, so that
            it stays the Gauss–Newton matrix of the loss.
        mask: ``mask(batch) -> bool [b, t]``: which positions of a sequence are data.
            Curvature leaves the others out of activations and of output gradients.
            None where there is no padding.
    """

    model: nn.Module
    outputs: Callable[[nn.Module, Batch], Tensor]
    loss: Callable[[Tensor, Batch], Tensor]
    likelihood: Likelihood = None
    mask: Callable[[Batch], Tensor] | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a scale that no loss has.

        Raises:
            InputError: It is not positive and finite.
        """
        if not 0 < self.scale < math.inf:
            raise InputError(
                f"scale must be > 0 and finite, got {self.scale}; of a plain negative "
                "log likelihood it is 1"
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Documents as stored, in a fixed order.

    Attributes:
        inputs: ``[n, …]``; ``uint8`` levels where ``levels`` is given, else values.
        labels: ``[n]`` class indices or ``[n, …]`` regression targets.
        levels: Stored level ``L`` stands for the value ``L / levels``: 255 for 8-bit
            pixels, 16 for the bundled digits. ``None``: values are stored as floats.
        valid: Smallest and largest allowed value, ``None`` for no limit.
        num_classes: Labels lie in ``[0, num_classes)``; ``None`` for regression.
    """

    inputs: Tensor
    labels: Tensor
    levels: int | None = None
    valid: tuple[float, float] | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no stage could use.

        Raises:
            InputError: Empty, of unequal lengths, off the grid, outside the valid
                range, which is reversed, not finite, or with a class label that is no
                int64 in range.
        """
        for name, value in (("inputs", self.inputs), ("labels", self.labels)):
            if not isinstance(value, Tensor) or value.ndim == 0:
                raise InputError(
                    f"{name} must be a tensor with the documents first, got "
                    f"{type(value).__name__}; use torch.as_tensor"
                )
        if len(self.inputs) == 0:
            raise InputError(
                "a dataset must hold at least one document, got 0; check the path"
            )
        if len(self.inputs) != len(self.labels):
            raise InputError(
                "inputs and labels must be equally many, got "
                f"{len(self.inputs)} and {len(self.labels)}; give one label each"
            )
        if self.valid is not None and not self.valid[0] < self.valid[1]:
            raise InputError(
                "valid must be the smallest and the largest value, got "
                f"{self.valid[0]:g} and {self.valid[1]:g}; turn them round"
            )
        _check_values(self)
        _check_labels(self)

    def __eq__(self, other: object) -> bool:
        """Compare row by row: same storage, same bits, same labels, same order."""
        if not isinstance(other, Dataset):
            return NotImplemented
        return self._frame() == other._frame() and all(
            torch.equal(mine, theirs)
            for mine, theirs in (
                (self.inputs, other.inputs),
                (self.labels, other.labels),
            )
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _frame(self) -> tuple[object, ...]:
        kinds = self.inputs.dtype, self.labels.dtype
        return *kinds, self.levels, self.valid, self.num_classes

    @property
    def storage(self) -> str:
        """Say how a document is stored."""
        grid = "" if self.levels is None else f" on {self.levels} levels"
        shape = tuple(self.inputs.shape[1:])
        return f"{self.inputs.dtype} {shape}{grid}, labels of {self.labels.dtype}"

    def is_stored_like(self, other: "Dataset") -> bool:
        """Tell whether a document of another dataset could stand in this one."""
        same = self.storage == other.storage
        return same and self.labels.shape[1:] == other.labels.shape[1:]

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.inputs)

    def batch(
        self, documents: Int[Tensor, " b"], *, like: Tensor | None = None
    ) -> Batch:
        """Read documents as the model sees them.

        Args:
            documents: Positions in this dataset.
            like: Give values the dtype and device of this tensor, a parameter say.

        Returns:
            Values in the model's units; class labels stay integers.
        """
        inputs, labels = self.inputs[documents], self.labels[documents]
        dtype = torch.get_default_dtype() if like is None else like.dtype
        device = inputs.device if like is None else like.device
        if self.levels is not None:
            inputs = inputs.to(device, dtype) / self.levels
        elif inputs.is_floating_point():
            inputs = inputs.to(device, dtype)
        if labels.is_floating_point():
            labels = labels.to(dtype)
        return Batch(inputs.to(device), labels.to(device))

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same documents on another device.

        Args:
            device: Where to keep them.

        Returns:
            The dataset itself where they are there already.
        """
        inputs, labels = self.inputs.to(device), self.labels.to(device)
        if inputs is self.inputs and labels is self.labels:
            return self
        return replace(self, inputs=inputs, labels=labels)

    def take(self, documents: Int[Tensor, " k"]) -> "Dataset":
        """Return the named rows as a dataset of their own.

        Args:
            documents: Positions in this dataset.

        Returns:
            A dataset of ``k`` rows on the same storage grid.
        """
        return replace(
            self, inputs=self.inputs[documents], labels=self.labels[documents]
        )

    def put(self, documents: Int[Tensor, " k"], rows: "Dataset") -> "Dataset":
        """Return the dataset with other rows at some positions.

        Args:
            documents: Positions in this dataset.
            rows: What is there from now on, stored as this is.

        Returns:
            A new dataset.

        Raises:
            InputError: Positions and rows do not fit each other or the dataset.
        """
        check_put(self, documents, rows, len(self))
        inputs, labels = self.inputs.clone(), self.labels.clone()
        inputs[documents] = rows.inputs.to(inputs.device)
        labels[documents] = rows.labels.to(labels.device)
        return replace(self, inputs=inputs, labels=labels)

    def values(self) -> "Dataset":
        """Return the same documents stored as float32 values, with no valid range.

        Returns:
            A dataset that can hold values off the storage grid.
        """
        if self.levels is None:
            return replace(self, valid=None)
        inputs = self.inputs.float() / self.levels
        return replace(self, inputs=inputs, levels=None, valid=None)


@runtime_checkable
class Documents(Protocol):
    """Training documents by position: a dataset, or a stream that reads them."""

    @property
    def levels(self) -> int | None:
        """Storage grid."""
        ...

    @property
    def valid(self) -> tuple[float, float] | None:
        """Range of values."""
        ...

    def __len__(self) -> int:
        """Count them."""
        ...

    def batch(
        self, documents: Int[Tensor, " b"], *, like: Tensor | None = None
    ) -> Batch:
        """Read some as the model sees them."""
        ...

    def take(self, documents: Int[Tensor, " k"]) -> Dataset:
        """Read some as they are stored."""
        ...


def check_put(
    like: Dataset, documents: Int[Tensor, " k"], rows: Dataset, size: int
) -> None:
    """Refuse rows that cannot take the place of others.

    Args:
        like: Documents stored as those that are replaced.
        documents: Positions.
        rows: To be put there.
        size: How many documents there are.

    Raises:
        InputError: Positions are not different ones of the documents, rows are not as
            many, or they are stored in another way.
    """
    good = documents.ndim == 1 and len(documents) == len(rows)
    good = good and len(documents.unique()) == len(documents)
    if not (good and int(documents.min()) >= 0 and int(documents.max()) < size):
        raise InputError(
            f"rows to put must have different positions in 0…{size - 1}, one each, got "
            f"{len(rows)} rows for {documents.tolist()[:5]}…; name each document once"
        )
    if not like.is_stored_like(rows):
        raise InputError(
            f"rows to put must be stored as the documents are, {like.storage}, got "
            f"{rows.storage}; make them of the same grid and shape"
        )


def _check_values(data: Dataset) -> None:
    inputs = data.inputs
    if data.levels is not None:
        if inputs.dtype != torch.uint8 or not 1 <= data.levels <= 255:
            raise InputError(
                "a storage grid needs uint8 levels and 1 ≤ levels ≤ 255, got "
                f"{inputs.dtype} and levels={data.levels}; pass levels=None for floats"
            )
        if int(inputs.max()) > data.levels:
            raise InputError(
                f"stored levels must be ≤ {data.levels}, got {int(inputs.max())}; "
                "pass the grid the data was stored on"
            )
        return
    if not inputs.is_floating_point():
        return
    finite = torch.isfinite(inputs)
    if not bool(finite.all()):
        row = int((~finite).flatten(1).any(1).nonzero()[0])
        raise InputError(
            "inputs must be finite, got NaN or infinity in "
            f"{int((~finite).sum())} entries, first in row {row}; drop or repair it"
        )
    if data.valid is not None:
        low, high = data.valid
        least, most = float(inputs.min()), float(inputs.max())
        if least < low or most > high:
            raise InputError(
                f"inputs must lie in [{low:g}, {high:g}], got "
                f"[{least:g}, {most:g}]; rescale them, for 8-bit pixels divide by 255"
            )


def _check_labels(data: Dataset) -> None:
    labels = data.labels
    if data.num_classes is None:
        if labels.is_floating_point() and not bool(torch.isfinite(labels).all()):
            raise InputError(
                "labels must be finite, got NaN or infinity; drop those documents"
            )
        return
    if labels.is_floating_point():
        raise InputError(
            f"class labels must be integers, got {labels.dtype}; cast them to int64"
        )
    if labels.dtype != torch.int64:
        raise InputError(
            f"class labels must be int64, which losses index with, got {labels.dtype}; "
            "pass labels.long()"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= data.num_classes:
        raise InputError(
            f"labels must lie in 0…{data.num_classes - 1}, got {low}…{high}; "
            "give the right number of classes or repair the labels"
        )
