"""Load labelled pictures: the bundled digits, or anything `datasets` can read."""

import json
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


def load_images(source: str, *, num_classes: int) -> tuple[Dataset, Dataset]:
    """Load the training and test pictures of one source through `datasets`.

    Args:
        source: A folder with ``train*.parquet`` and ``test*.parquet``, an image folder
            (``train/CLASS/*.png`` and ``test/CLASS/*.png``), or the name of a dataset
            on the hub.
        num_classes: Labels must lie below it.

    Returns:
        Training and test pictures ``[n, 3, h, w]`` on 256 levels.

    Raises:
        InputError: The source does not exist, lacks a split or a column, or its
            pictures differ in size.
    """
    splits = _open(source)
    train = _split(splits, TRAIN_NAMES, source)
    test = _split(splits, TEST_NAMES, source)
    return (
        _decode(train, f"{source} (train)", num_classes),
        _decode(test, f"{source} (test)", num_classes),
    )


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
                split: [str(f) for f in parquet if f.name.startswith(split)]
                for split in (*TRAIN_NAMES, *TEST_NAMES)
            }
            found = {split: paths for split, paths in files.items() if paths}
            if not found:
                raise InputError(
                    "a folder of parquet must hold train*.parquet and test*.parquet, "
                    f"got {[f.name for f in parquet]} in {source}; rename the files"
                )
            return datasets.load_dataset("parquet", data_files=found)
        return _load_by_name("imagefolder", data_dir=source)
    if source.startswith((".", "/", "~")):
        raise InputError(
            f"--data must name a folder or a hub dataset, got {source}, which is not a "
            "folder; check the path"
        )
    return _load_by_name(source)


def _load_by_name(name: str, **arguments: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, **arguments)
    except (OSError, ValueError) as error:  # what `datasets` raises for both kinds
        where = arguments.get("data_dir", name)
        raise InputError(
            "--data must name a folder of parquet, an image folder or a hub dataset, "
            f"got {where}: {str(error).splitlines()[0]}; check the path or the network"
        ) from error


def _split(splits: Any, names: tuple[str, ...], source: str) -> Any:
    for name in names:
        if name in splits:
            return splits[name]
    raise InputError(
        f"the data must have a split named {' or '.join(names)}, got {list(splits)} in "
        f"{source}; rename the files or folders"
    )


def _decode(split: Any, source: str, num_classes: int) -> Dataset:
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
    if not isinstance(split.features[pictures[0]], datasets.Image):
        split = split.cast_column(pictures[0], datasets.Image())
    arrays = [np.asarray(row.convert("RGB")) for row in split[pictures[0]]]
    sizes = {array.shape for array in arrays}
    if len(sizes) != 1:
        raise InputError(
            f"all pictures must have one size, got {sorted(sizes)[:3]} in {source}; "
            "resize them first"
        )
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return Dataset(
        inputs=pixels,
        labels=torch.tensor(split[labels[0]][:], dtype=torch.int64),
        levels=255,
        valid=(0.0, 1.0),
        num_classes=num_classes,
    )


def class_names(source: str) -> list[str] | None:
    """Read class names that a data folder states beside its files.

    Args:
        source: Folder that may hold ``classes.json``, a list of names.

    Returns:
        The names, or None where there is no such file.
    """
    file = Path(source) / "classes.json"
    return json.loads(file.read_text()) if file.is_file() else None
