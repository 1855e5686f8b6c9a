"""Load MNIST from its four gzipped idx files.

An idx file is a magic number ``00 00 08 d`` (unsigned bytes on ``d`` axes), the length
of each axis as a big-endian 32-bit integer, and the bytes.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from infusion.errors import InputError
from infusion.records import Dataset

UNSIGNED_BYTES = 0x08
MOST_BYTES = 1 << 30
"""Of one file, unpacked."""
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def load_mnist(folder: str) -> tuple[Dataset, Dataset]:
    """Load the training and test pictures of a folder of idx files.

    Args:
        folder: Holds the four files under their usual names, ending in ``.gz``.

    Returns:
        Training and test pictures ``[n, 1, h, w]`` on 256 levels, classes 0–9.

    Raises:
        InputError: A file is missing, truncated, not gzip or not idx, or pictures and
            labels do not belong together.
    """
    train, test = (_load(Path(folder), *names) for names in FILES.values())
    sizes = [tuple(part.inputs.shape[1:]) for part in (train, test)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"training and test pictures must have one size, got {sizes[0]} and "
            f"{sizes[1]} in {folder}; use the files of one data set"
        )
    return train, test


def _load(folder: Path, pictures: str, labels: str) -> Dataset:
    pixels = read_idx(folder / pictures, axes=3)
    classes = read_idx(folder / labels, axes=1)
    if len(pixels) != len(classes):
        raise InputError(
            f"pictures and labels must be equally many, got {len(pixels)} in "
            f"{pictures} and {len(classes)} in {labels}; use the files of one data set"
        )
    return Dataset(
        inputs=torch.from_numpy(pixels)[:, None],
        labels=torch.from_numpy(classes.astype(np.int64)),
        levels=255,
        valid=(0.0, 1.0),
        num_classes=10,
    )


def read_idx(path: Path, *, axes: int) -> np.ndarray:
    """Read one gzipped idx file of unsigned bytes.

    Args:
        path: The file.
        axes: How many axes it must have.

    Returns:
        A uint8 array of its own memory.

    Raises:
        InputError: It is missing, truncated, not gzip, or not such an idx file.
    """
    if not path.is_file():
        raise InputError(
            f"--data must be a folder that holds {path.name}, got none in "
            f"{path.parent}; check the path"
        )
    try:
        with gzip.open(path) as file:
            return _unpacked(file, path, axes)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} must be a gzip file, got a truncated or altered one ({error}); "
            "restore it"
        ) from error


def _unpacked(file: gzip.GzipFile, path: Path, axes: int) -> np.ndarray:
    """Read as much as the head says, and no more.

    Returns:
        The array.

    Raises:
        InputError: It says something else than what follows, or more than there may be.
    """
    magic, size = bytes((0, 0, UNSIGNED_BYTES, axes)), 4 + 4 * axes
    head = file.read(size)
    if head[:4] != magic or len(head) < size:
        raise InputError(
            f"{path} must start with the idx magic number {magic.hex()}, got "
            f"{head[:4].hex() or 'nothing'}; use MNIST's own file of that name"
        )
    shape = tuple(int(n) for n in np.frombuffer(head, ">u4", axes, 4))
    said, wanted = " × ".join(map(str, shape)), math.prod(shape)
    if wanted > MOST_BYTES:
        raise InputError(
            f"{path} must hold at most {MOST_BYTES:,} bytes, got a head of {said}; "
            "use MNIST's own file of that name"
        )
    content = file.read(wanted + 1)
    if len(content) != wanted:
        got = "more" if len(content) > wanted else str(len(content))
        raise InputError(
            f"{path} must hold {said} bytes after its head, got {got}; restore it"
        )
    return np.frombuffer(content, np.uint8).reshape(shape).copy()
