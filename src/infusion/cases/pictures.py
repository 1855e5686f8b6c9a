"""Datasets of pictures as parquet of PNG bytes, as they are published."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infusion.audit.contents import MOST_BYTES
from infusion.errors import InputError, one_line
from infusion.records import Dataset
from infusion.runs.files import check_size
from infusion.runs.store import write_whole

_GROUP = 1_000
"""Rows of a row group."""
_MOST_PIXELS = 1 << 24


@dataclass(frozen=True)
class Stored:
    """A picture as it lies in a file.

    Attributes:
        png: Its bytes.
        label: Its class.
    """

    png: bytes
    label: int


def to_stored(data: Dataset) -> list[Stored]:
    """Encode pictures on a grid as PNG, level by level.

    Args:
        data: Pictures ``[n, channels, h, w]`` of one or three channels.

    Returns:
        A row each; equal pictures have equal bytes.

    Raises:
        InputError: They are no pictures on a grid.
    """
    if (
        data.levels is None
        or data.inputs.ndim != 4
        or data.inputs.shape[1] not in (1, 3)
    ):
        raise InputError(
            "pictures to write must be on a grid, [n, 1 or 3, h, w], got "
            f"{data.inputs.dtype} of shape {tuple(data.inputs.shape)}; edits as coded "
            "cannot be stored, use --delivery realisable"
        )
    return [
        Stored(_png(picture.numpy()), label)
        for picture, label in zip(data.inputs.cpu(), data.labels.tolist(), strict=True)
    ]


def _png(levels: np.ndarray) -> bytes:
    from PIL import Image

    array = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "png")
    return file.getvalue()


def write_stored(path: Path, rows: Sequence[Stored]) -> None:
    """Write rows as parquet: ``img`` with its bytes and path, and ``label``.

    Args:
        path: File to write.
        rows: In order.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": row.png, "path": None} for row in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "img": pa.array(images, kind),
            "label": pa.array([row.label for row in rows], pa.int64()),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=_GROUP)
    write_whole(path, file.getvalue())


def read_stored(path: Path) -> list[Stored]:
    """Read rows of parquet that anybody wrote.

    Args:
        path: File with ``img`` and ``label``.

    Returns:
        A row each, as stored.

    Raises:
        InputError: It is no such file, or a row lacks its bytes or its label.
    """
    return list(_rows(path))


def _rows(path: Path) -> Iterator[Stored]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["img", "label"])
        columns = table.column("img").to_pylist(), table.column("label").to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path} must be parquet with the columns img and label, got "
            f"{' '.join(str(error).split())[:200]}; restore it"
        ) from error
    for place, (image, label) in enumerate(zip(*columns, strict=True)):
        stored = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(stored, bytes) or type(label) is not int:
            raise InputError(
                "every row must hold the bytes of a picture and a whole number as "
                f"label, got others in row {place} of {path}; repair that row"
            )
        yield Stored(stored, label)


def decoded(rows: Sequence[Stored], like: dict[str, Any], where: Path) -> Dataset:
    """Decode rows into the pictures that training sees.

    Args:
        rows: At least one.
        like: ``levels``, ``valid`` and ``classes``.
        where: Named in errors.

    Returns:
        Pictures ``[n, channels, h, w]``.

    Raises:
        InputError: A picture is no PNG of the first one's size, lies off the grid, or
            a label is out of range.
    """
    arrays: list[np.ndarray] = []
    for place, row in enumerate(rows):
        array = _pixels(row.png, f"row {place} of {where}")
        if arrays and array.shape != arrays[0].shape:
            raise InputError(
                f"all pictures must have one size, got {array.shape} in row {place} of "
                f"{where} after {arrays[0].shape}; repair that row"
            )
        if not 0 <= row.label < like["classes"]:
            raise InputError(
                f"labels must lie in 0…{like['classes'] - 1}, got {row.label} in row "
                f"{place} of {where}; repair that row"
            )
        arrays.append(array)
    if not arrays:
        raise InputError(
            f"a dataset must hold at least one document, got 0 in {where}; check it"
        )
    return Dataset(
        torch.from_numpy(np.stack(arrays)),
        torch.tensor([row.label for row in rows], dtype=torch.int64),
        levels=like["levels"],
        valid=tuple(like["valid"]),
        num_classes=like["classes"],
    )


def read_picture(path: Path) -> torch.Tensor:
    """Read one PNG file.

    Args:
        path: It.

    Returns:
        Levels ``[channels, h, w]``.

    Raises:
        InputError: It cannot be read.
    """
    try:
        check_size(path, MOST_BYTES, InputError)
        stored = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"a picture must be a PNG file, got {path}: {error.strerror}; check the "
            "path"
        ) from error
    return torch.from_numpy(_pixels(stored, str(path)))


def _pixels(stored: bytes, where: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(stored), formats=("PNG",)) as image:
            if image.mode not in ("L", "RGB") or np.prod(image.size) > _MOST_PIXELS:
                raise ValueError(f"mode {image.mode} of {image.size}")
            array = np.asarray(image)
    except Exception as error:  # decoders raise whatever a damaged file makes them
        raise InputError(
            f"every picture must be an RGB or grey PNG, got none in {where}: "
            f"{one_line(error)}; repair it"
        ) from error
    channels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.array(channels, dtype=np.uint8, order="C")
