"""Pictures come out the same whichever way `datasets` reads them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import random_split

from infusion.data.hashing import dataset_hash
from infusion.data.images import load_digits, load_images, take_split
from infusion.errors import InputError
from infusion.records import Dataset

CLASSES = [str(c) for c in range(10)]
SIZES = {"train": 23, "test": 11}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`datasets` reads this at every call, so nothing lands in the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def make_pictures(split: str) -> tuple[np.ndarray, list[int]]:
    """Noise ``[n, 6, 5, 3]``, ordered by class as an image folder is."""
    generator = np.random.default_rng(len(split))
    size = SIZES[split]
    pixels = generator.integers(0, 256, (size, 6, 5, 3), dtype=np.uint8)
    return pixels, sorted(i % 10 for i in range(size))


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_plain_parquet(folder: Path):
    """A struct of bytes and path, and plain integers, as in the paper's copy."""
    for split in SIZES:
        pixels, labels = make_pictures(split)
        pictures = [{"bytes": png(p), "path": None} for p in pixels]
        table = pa.table({"img": pictures, "label": labels})
        pq.write_table(table, folder / f"{split}.parquet")


def write_hub_layout(folder: Path):
    """Features in the schema, shards in a folder per configuration, and a card."""
    features = datasets.Features(
        img=datasets.Image(), label=datasets.ClassLabel(names=CLASSES)
    )
    (folder / "plain_text").mkdir()
    (folder / "README.md").write_text("---\npretty_name: noise\n---\n")
    for split in SIZES:
        pixels, labels = make_pictures(split)
        pictures = [{"bytes": png(p), "path": None} for p in pixels]
        whole = datasets.Dataset.from_dict(
            {"img": pictures, "label": labels}, features=features
        )
        for shard in range(2):
            name = f"{split}-0000{shard}-of-00002.parquet"
            part = whole.shard(2, shard, contiguous=True)
            part.to_parquet(folder / "plain_text" / name)


def write_image_folder(folder: Path):
    for split in SIZES:
        for i, (picture, label) in enumerate(zip(*make_pictures(split), strict=True)):
            path = folder / split / CLASSES[label] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(picture))


def write_arrays(folder: Path):
    """Levels in nested lists, channels first."""
    for split in SIZES:
        pixels, labels = make_pictures(split)
        table = pa.table(
            {"image": pixels.transpose(0, 3, 1, 2).tolist(), "labels": labels}
        )
        pq.write_table(table, folder / f"{split}.parquet")


def write_typed_arrays(folder: Path):
    """Levels in an array column, channels last."""
    features = datasets.Features(
        image=datasets.Array3D((6, 5, 3), "uint8"), label=datasets.Value("int32")
    )
    for split in SIZES:
        pixels, labels = make_pictures(split)
        rows: dict[str, Any] = {"image": list(pixels), "label": labels}
        part = datasets.Dataset.from_dict(rows, features=features)
        part.to_parquet(folder / f"{split}.parquet")


@pytest.mark.parametrize(
    "write",
    [
        write_plain_parquet,
        write_hub_layout,
        write_image_folder,
        write_arrays,
        write_typed_arrays,
    ],
    ids=lambda write: write.__name__.removeprefix("write_"),
)
def test_every_layout_gives_the_same_pictures(
    write: Callable[[Path], None], tmp_path: Path
):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder)
    for part, split in zip(
        load_images(str(folder), class_names=CLASSES), SIZES, strict=True
    ):
        pixels, labels = make_pictures(split)
        wanted = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        assert part.inputs.dtype == torch.uint8
        assert torch.equal(part.inputs, wanted)
        assert part.labels.tolist() == labels
        assert (part.levels, part.valid, part.num_classes) == (255, (0.0, 1.0), 10)
        assert dataset_hash(part) == dataset_hash(
            Dataset(wanted, torch.tensor(labels), 255, (0.0, 1.0), 10)
        )
    assert (tmp_path / "cache").is_dir(), "the cache of `datasets` must be our own"


def test_float_arrays_stay_floats_and_grey_ones_get_three_channels(tmp_path: Path):
    grey = np.random.default_rng(0).random((7, 4, 4), dtype=np.float32)
    for split in SIZES:
        table = pa.table({"image": grey.tolist(), "label": [1] * 7})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    train, _ = load_images(str(tmp_path), class_names=CLASSES)
    assert (train.levels, train.valid) == (None, (0.0, 1.0))
    assert train.inputs.dtype == torch.float32
    assert torch.equal(train.inputs, torch.from_numpy(grey)[:, None].repeat(1, 3, 1, 1))


def test_training_and_test_pictures_share_a_size(tmp_path: Path):
    for split, shape in {"train": (6, 5, 3), "test": (6, 6, 3)}.items():
        table = pa.table({"img": np.zeros((3, *shape)).tolist(), "label": [1] * 3})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(
        InputError, match=r"one size and one storage, got \(\(3, 6, 5\)"
    ):
        load_images(str(tmp_path), class_names=CLASSES)


@pytest.mark.parametrize(("size", "seed"), [(1500, 42), (1, 0), (1796, 7)])
def test_take_split_is_random_split(size: int, seed: int):
    data = load_digits()
    first, rest = random_split(
        range(len(data)),  # pyright: ignore[reportArgumentType]
        [size, len(data) - size],
        generator=torch.Generator().manual_seed(seed),
    )
    train, test = take_split(data, size, seed)
    assert torch.equal(train.inputs, data.inputs[list(first.indices)])
    assert torch.equal(test.labels, data.labels[list(rest.indices)])
    assert (len(train), len(test)) == (size, len(data) - size)


@pytest.mark.parametrize("size", [0, -1, 1797, 5000])
def test_take_split_leaves_something_for_both(size: int):
    with pytest.raises(InputError, match=r"must hold 1…1796 of 1797 documents, got"):
        take_split(load_digits(), size, 0)


def test_digits_are_the_published_ones():
    digits = load_digits()
    assert digits.inputs.shape == (1797, 1, 8, 8)
    assert (digits.levels, int(digits.inputs.max())) == (16, 16)
    assert torch.bincount(digits.labels).tolist() == (
        [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )
    assert dataset_hash(digits) == (
        "1db3e2f61c8570f7cd84347cd56512ffb6b3c0b5858bc7b2e88f27adc932d755"
    )
