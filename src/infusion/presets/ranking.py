"""Ranked documents: a table of all, and the ends of it to show."""

import io
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.presets.subjects import Subject, description
from infusion.records import Dataset

SHOWN = 8
"""Documents shown per measurement and sign."""

_MOST_SHOWN_ENTRIES = 48
_MOST_CHARACTERS = 600


def ranked(scores: Float[Tensor, "m n"]) -> Int[Tensor, "m n"]:
    """Order documents by influence, largest first, ties by position.

    Args:
        scores: Of every document, a row per measurement.

    Returns:
        Positions of documents, a row per measurement.
    """
    return torch.sort(scores, dim=1, descending=True, stable=True).indices


def tables(
    subject: Subject, scores: Float[Tensor, "m n"], own: Float[Tensor, " n"] | None
) -> dict[str, bytes]:
    """Write all documents in order of influence, for every measurement.

    Args:
        subject: Names of measurements and labels.
        scores: Influence.
        own: Self-influence, where it was asked for.

    Returns:
        File name to content, as CSV and as parquet.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    order = ranked(scores)
    flat = order.flatten()
    count, size = order.shape
    columns: dict[str, Any] = {
        "measurement": np.repeat(np.array(list(subject.measurements)), size),
        "rank": np.tile(np.arange(1, size + 1), count),
        "document": flat.numpy(),
        "influence": scores.gather(1, order).flatten().numpy(),
    }
    labels = subject.train.labels
    if labels.ndim == 1:
        columns["label"] = _named(subject, labels.cpu())[flat.numpy()]
    if own is not None:
        columns["self_influence"] = own[flat].numpy()
    table = pa.table(columns)
    comma, parquet = io.BytesIO(), io.BytesIO()
    pyarrow.csv.write_csv(table, comma)
    pyarrow.parquet.write_table(table, parquet)
    return {
        "attribution.csv": comma.getvalue(),
        "attribution.parquet": parquet.getvalue(),
    }


def _named(subject: Subject, labels: Tensor) -> np.ndarray:
    values = labels.numpy()
    names = subject.class_names
    return values if names is None else np.array(names)[values]


def ends(
    subject: Subject,
    row: int,
    order: Int[Tensor, " n"],
    *,
    scores: Float[Tensor, " n"],
    own: Float[Tensor, " n"] | None,
) -> dict[str, Any]:
    """List the most supporting and the most opposing documents of a measurement.

    Args:
        subject: What is attributed.
        row: Position of the measurement.
        order: Its documents by rank.
        scores: Their influence, by position.
        own: Self-influence, where it was asked for.

    Returns:
        JSON value: the measurement, and up to ``SHOWN`` documents of each sign.
    """
    positive, negative = int((scores > 0).sum()), int((scores < 0).sum())
    size = len(order)

    def shown(rank: int) -> dict[str, Any]:
        document = int(order[rank])
        return {
            "rank": rank + 1,
            "document": document,
            "influence": float(scores[document]),
            "label": _label(subject, document),
            "self_influence": None if own is None else float(own[document]),
            "text": _text(subject, document),
        }

    return {
        "name": list(subject.measurements)[row],
        **subject.facts[row],
        "supporters": positive,
        "opponents": negative,
        "supporting": [shown(rank) for rank in range(min(SHOWN, positive))],
        "opposing": [shown(size - 1 - place) for place in range(min(SHOWN, negative))],
    }


def _label(subject: Subject, document: int) -> str | int | float | None:
    labels = subject.train.labels
    if labels.ndim != 1:
        return None
    label = labels[document].item()
    return label if subject.class_names is None else subject.class_names[int(label)]


def form(data: Dataset) -> str:
    """Tell how documents are to be shown.

    Args:
        data: Documents.

    Returns:
        ``"picture"``, ``"ids"`` for sequences of token ids, or ``"values"``.
    """
    inputs, is_pictorial = (
        data.inputs,
        data.levels is not None or data.valid is not None,
    )
    if inputs.ndim == 4 or (inputs.ndim == 3 and is_pictorial):
        return "picture"
    is_sequence = inputs.ndim == 2 and not inputs.is_floating_point()
    return "ids" if is_sequence and data.levels is None else "values"


def _text(subject: Subject, document: int) -> str | None:
    """Name a document, or write out what is stored; pictures speak for themselves."""
    if subject.describe is not None:
        text = description(subject.describe, document)
    elif (kind := form(subject.train)) == "picture":
        return None
    else:
        stored = subject.train.inputs[document].flatten()
        pattern = "{}" if kind == "ids" else "{:.4g}"
        text = " ".join(map(pattern.format, stored[:_MOST_SHOWN_ENTRIES].tolist()))
        if len(stored) > _MOST_SHOWN_ENTRIES:
            return f"{text} … ({len(stored):,} in all)"
    if len(text) > _MOST_CHARACTERS:
        return f"{text[:_MOST_CHARACTERS]} … ({len(text):,} characters)"
    return text
