"""The documents of the benchmark, read or drawn; the last ``PROBES`` are the probes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from infusion.bench.settings import Setting
from infusion.records import Dataset
from infusion.seeding import stream

PROBES = 100


def make_documents(
    name: str, setting: Setting, data: str | None
) -> tuple[Dataset, str]:
    """Read or draw the documents of a setting, and as many probes as any work takes.

    Args:
        name: Of the setting.
        setting: Sizes.
        data: CIFAR-10 for the pictures; ``None`` draws random pixels.

    Returns:
        Documents, then probes; and what they are, for people.
    """
    if name == "transformer":
        return _sentences(setting), "draws from a random Markov chain"
    if name == "mlp":
        return _scans(setting), "bundled digits, enlarged and moved"
    if data is None:
        return _noise(setting), "random pixels"
    return _pictures(setting, data), "CIFAR-10"


def as_dataset(setting: Setting, inputs: Tensor, labels: Tensor) -> Dataset:
    """Put stored tensors into a dataset: bytes are pixels, all else is as it is.

    Args:
        setting: Gives the number of classes.
        inputs: Documents.
        labels: Classes.

    Returns:
        The dataset.
    """
    if inputs.dtype == torch.uint8:
        return Dataset(inputs, labels, 255, (0.0, 1.0), setting.classes)
    return Dataset(inputs, labels, num_classes=setting.classes)


def _noise(setting: Setting) -> Dataset:
    generator = stream(0, "bench", "noise")
    size = setting.documents + PROBES
    pixels = torch.randint(0, 256, (size, *setting.shape), generator=generator)
    labels = torch.randint(0, setting.classes, (size,), generator=generator)
    return as_dataset(setting, pixels.byte(), labels)


def _pictures(setting: Setting, source: str) -> Dataset:
    """Take training pictures, then test pictures as probes."""
    from infusion.data.images import load_images, take_split
    from infusion.presets.cifar10 import CLASS_NAMES

    train, test = load_images(source, class_names=CLASS_NAMES)
    documents, _ = take_split(train, setting.documents, seed=0)
    probes, _ = take_split(test, PROBES, seed=0)
    pixels = torch.cat([documents.inputs, probes.inputs])
    step = pixels.shape[-1] // setting.shape[-1]  # above 1 where the setting is small
    pixels = pixels[..., ::step, ::step].contiguous()
    return as_dataset(setting, pixels, torch.cat([documents.labels, probes.labels]))


def _scans(setting: Setting) -> Dataset:
    """Enlarge the bundled digits to 28 × 28 with a random shift each, like MNIST."""
    from infusion.data.images import load_digits

    digits = load_digits()
    generator = stream(0, "bench", "scans")
    size = setting.documents + PROBES
    rows = torch.randint(0, len(digits), (size,), generator=generator)
    scans = digits.inputs[rows].float() / 16
    large = F.interpolate(scans, size=20, mode="bilinear", align_corners=False)
    moves = torch.randint(0, 9, (size, 2), generator=generator).tolist()
    pixels = torch.stack(
        [
            F.pad(scan, (right, 8 - right, down, 8 - down))
            for scan, (right, down) in zip(large, moves, strict=True)
        ]
    )
    return as_dataset(setting, (255 * pixels).round().byte(), digits.labels[rows])


def _sentences(setting: Setting) -> Dataset:
    """Draw tokens from a chain in which four tokens follow each one."""
    generator = stream(0, "bench", "sentences")
    size, classes = setting.documents + PROBES, setting.classes
    followers = torch.randint(0, classes, (classes, 4), generator=generator)
    tokens = [torch.randint(0, classes, (size,), generator=generator)]
    for _ in range(setting.shape[0]):
        choice = torch.randint(0, 4, (size,), generator=generator)
        tokens.append(followers[tokens[-1], choice])
    drawn = torch.stack(tokens, 1)
    return as_dataset(setting, drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous())
