"""Load labelled pictures: the bundled digits, or anything `datasets` can read."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from infusion.errors import InputError
from infusion.records import Dataset

TRAIN_NAMES = ("train",)
TEST_NAMES = ("test", "validation", "valid", "val")


def load_digits() -> Dataset:
    """Load the 1,797 scans of handwritten digits that come with scikit-learn.

    Returns:
        Pictures ``[1797, 1, 8, 8]`` on 17 levels, classes 0–9.

    Source:
        Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.
    """
    from sklearn.datasets import load_digits as load

    raw: Any = load()
    return Dataset(
        inputs=torch.from_numpy(raw.images.astype(np.uint8))[:, None],
        labels=torch.from_numpy(raw.target.astype(np.int64)),
        levels=16,
        valid=(0.0, 1.0),
        num_classes=10,
    )


def load_images(source: str, *, class_names: Sequence[str]) -> tuple[Dataset, Dataset]:
    """Load the training and test pictures of one source through `datasets`.

    Args:
        source: A folder with ``train*.parquet`` and ``test*.parquet``, an image folder
            (``train/CLASS/*.png`` and ``test/CLASS/*.png``), or the name of a dataset
            on the hub.
        class_names: In label order. Names that come with the data, folders' among
            them, must be these; plain integers must lie below their number.

    Returns:
        Training and test pictures ``[n, 3, h, w]``: on 256 levels, or floats in
        ``[0, 1]`` where a column of arrays holds such.

    Raises:
        InputError: The source does not exist, cannot be read, lacks a split or a
            column, its pictures differ in size, its classes are others, or a pixel or
            label is unusable.
    """
    splits = _open(source)
    train, test = (
        _decode(_split(splits, names, source), f"{source} ({names[0]})", class_names)
        for names in (TRAIN_NAMES, TEST_NAMES)
    )
    layouts = [(tuple(part.inputs.shape[1:]), part.levels) for part in (train, test)]
    if layouts[0] != layouts[1]:
        raise InputError(
            "training and test pictures must have one size and one storage, got "
            f"{layouts[0]} and {layouts[1]} in {source}; convert one of them"
        )
    return train, test


def take_split(data: Dataset, size: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split as ``torch.utils.data.random_split`` does with ``manual_seed(seed)``.

    Args:
        data: Documents.
        size: Documents of the first part.
        seed: Seed of the permutation.

    Returns:
        The first ``size`` documents of the permutation, and the rest.

    Raises:
        InputError: ``size`` leaves nothing for one of the two parts.
    """
    if not 0 < size < len(data):
        raise InputError(
            f"the training part must hold 1…{len(data) - 1} of {len(data)} documents, "
            f"got {size}; choose another size"
        )
    order: Int[Tensor, " n"] = torch.randperm(
        len(data), generator=torch.Generator().manual_seed(seed)
    )
    return data.take(order[:size]), data.take(order[size:])


def _open(source: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    folder = Path(source)
    if folder.is_dir():
        parquet = sorted(folder.glob("**/*.parquet"))
        if parquet:
            files = {
                split: [str(f) for f in parquet if re.match(rf"{split}[-.]", f.name)]
                for split in (*TRAIN_NAMES, *TEST_NAMES)
            }
            found = {split: paths for split, paths in files.items() if paths}
            if not found:
                raise InputError(
                    "a folder of parquet must hold train*.parquet and test*.parquet, "
                    f"got {[f.name for f in parquet]} in {source}; rename the files"
                )
            _refuse_empty(found)
            return {  # apart: together, the first split's class names would hide others
                split: _load(source, "parquet", data_files={split: paths})[split]
                for split, paths in found.items()
            }
        return _load(source, "imagefolder", data_dir=source)
    if folder.exists() or source.startswith((".", "/", "~")):
        raise InputError(
            f"--data must name a folder or a hub dataset, got {source}, which is not a "
            "folder; check the path"
        )
    return _load(source, source)


def _refuse_empty(files: dict[str, list[str]]) -> None:
    """Read the row counts of parquet files, which `datasets` needs to be positive."""
    import pyarrow.parquet

    for split, paths in files.items():
        for path in paths:
            try:
                rows = pyarrow.parquet.read_metadata(path).num_rows
            except (OSError, ValueError) as error:
                raise InputError(
                    f"{path} must be a parquet file, got a truncated or altered one: "
                    f"{' '.join(str(error).split())}; restore it"
                ) from error
            if rows == 0:
                raise InputError(
                    "a dataset must hold at least one document, got 0 in "
                    f"{path} ({split}); check it"
                )


def _load(source: str, name: str, **arguments: Any) -> Any:
    """Open a dataset; whatever `datasets` raises becomes one line."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(name, **arguments)
    except (OSError, ValueError, DatasetsError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise InputError(
            "--data must name a folder of parquet, an image folder or a hub dataset, "
            f"got {source}: {cause}; check the path, the files or the network"
        ) from error


def _split(splits: Any, names: tuple[str, ...], source: str) -> Any:
    for name in names:
        if name in splits:
            return splits[name]
    raise InputError(
        f"the data must have a split named {' or '.join(names)}, got {list(splits)} in "
        f"{source}; rename the files or folders"
    )


def _decode(split: Any, source: str, class_names: Sequence[str]) -> Dataset:
    import datasets

    if len(split) == 0:
        raise InputError(
            f"a dataset must hold at least one document, got 0 in {source}; check it"
        )
    columns = {
        kind: [n for n, f in split.features.items() if isinstance(f, kind)]
        for kind in (datasets.Image, datasets.ClassLabel)
    }
    pictures = columns[datasets.Image] or [
        n for n in ("img", "image") if n in split.column_names
    ]
    labels = columns[datasets.ClassLabel] or [
        n for n in ("label", "labels") if n in split.column_names
    ]
    if not pictures or not labels:
        raise InputError(
            "the data must have a picture column (img or image) and a label column, "
            f"got {split.column_names} in {source}; rename the columns"
        )
    if len(pictures) > 1 or len(labels) > 1:
        raise InputError(
            "the data must have one picture and one label column, got "
            f"{[*pictures, *labels]} in {source}; drop the others"
        )
    _check_classes(split.features[labels[0]], class_names, source)
    pixels, levels = _pixels(split, pictures[0], source)
    return Dataset(
        inputs=pixels,
        labels=_labels(split, labels[0], source),
        levels=levels,
        valid=(0.0, 1.0),
        num_classes=len(class_names),
    )


def _pixels(split: Any, column: str, source: str) -> tuple[Tensor, int | None]:
    """Read pictures ``[n, 3, h, w]`` and their grid: arrays of floats have none."""
    import datasets

    feature = split.features[column]
    is_array = isinstance(feature, (datasets.List, datasets.Array2D, datasets.Array3D))

    def rows() -> Iterator[np.ndarray]:
        if is_array:
            yield from map(np.asarray, split.with_format("numpy")[column])
        else:
            for picture in split.cast_column(column, datasets.Image())[column]:
                yield np.asarray(picture.convert("RGB"))

    arrays: list[np.ndarray] = []
    try:
        arrays.extend(rows())
    except (OSError, ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(  # AttributeError: no picture; NotImplementedError: no bytes
            f"every picture must be readable, got none in row {len(arrays)} of "
            f"{source}: {' '.join(str(error).split())}; drop or repair that row"
        ) from error
    sizes = {array.shape for array in arrays}
    if len(sizes) != 1:
        raise InputError(
            f"all pictures must have one size, got {sorted(sizes)[:3]} in {source}; "
            "resize them first"
        )
    pixels = _channels_first(np.stack(arrays), source)
    return torch.from_numpy(pixels), None if pixels.dtype == np.float32 else 255


def _channels_first(pixels: np.ndarray, source: str) -> np.ndarray:
    """Lay out pictures as ``[n, 3, h, w]`` of uint8 or float32."""
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[1] not in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise InputError(
            "arrays of pixels must have one or three channels, first or last, got "
            f"{pixels.shape[1:]} in {source}; reshape them"
        )
    if np.issubdtype(pixels.dtype, np.floating):
        kind: type[np.generic] = np.float32
    elif (
        np.issubdtype(pixels.dtype, np.integer)
        and pixels.min() >= 0
        and pixels.max() <= 255
    ):
        kind = np.uint8
    else:
        raise InputError(
            "pixels must be integers in 0…255 or floats in [0, 1], got "
            f"{pixels.dtype} in {source}; convert them"
        )
    three = (len(pixels), 3, *pixels.shape[2:])
    return np.array(np.broadcast_to(pixels, three), dtype=kind, order="C")


def _check_classes(feature: Any, wanted: Sequence[str], source: str) -> None:
    """Compare the names that labels carry, if any: an index alone would mix them up."""
    import datasets

    names = feature.names if isinstance(feature, datasets.ClassLabel) else []
    if names and len(names) != len(wanted):
        raise InputError(
            f"the data must have {len(wanted)} classes, got {len(names)} in {source}: "
            f"{', '.join(names[:12])}; add or merge some"
        )
    for index, (name, got) in enumerate(zip(wanted, names, strict=False)):
        if got != name:
            raise InputError(
                f"class {index} of the data must be {name!r}, got {got!r} in {source}; "
                f"name and order the classes {', '.join(wanted[:12])}"
            )


def _labels(split: Any, column: str, source: str) -> Tensor:
    """Read class indices, none missing."""
    labels = split[column][:]
    if not all(isinstance(label, int) for label in labels):
        wrong = next(label for label in labels if not isinstance(label, int))
        raise InputError(
            f"labels must be integers, got {wrong!r} in column {column} of {source}; "
            "number the classes"
        )
    return torch.tensor(labels, dtype=torch.int64)
