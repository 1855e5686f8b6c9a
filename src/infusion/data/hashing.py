"""Content hashes of documents and datasets."""

import hashlib

from infusion.records import Dataset


def row_hashes(data: Dataset) -> list[str]:
    """Hash every document: dtype, shape, bytes and label.

    Args:
        data: Documents.

    Returns:
        One sha256 hex digest per row, in order.
    """
    inputs, labels = data.inputs.cpu().contiguous(), data.labels.cpu().contiguous()
    head = (
        f"{inputs.dtype}{tuple(inputs.shape[1:])}{data.levels}"
        f"{labels.dtype}{tuple(labels.shape[1:])}"
    ).encode()
    return [
        hashlib.sha256(head + row.tobytes() + label.tobytes()).hexdigest()
        for row, label in zip(inputs.numpy(), labels.numpy(), strict=True)
    ]


def dataset_hash(data: Dataset) -> str:
    """Hash a whole dataset, order included.

    Args:
        data: Documents.

    Returns:
        sha256 hex digest over the row hashes.
    """
    return hashlib.sha256("".join(row_hashes(data)).encode()).hexdigest()
