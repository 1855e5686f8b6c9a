"""CIFAR-10 with the paper's TinyResNet; the paper's settings at ``--scale paper``.

Where the paper's code differs from a realisable edit (no clamp, no rounding, an ε of
1.0 that never binds) the default is the realisable one at the same reach, 12.75/255,
which is 12 levels; ``--delivery as_coded`` gives the paper's. At ``--scale small`` as
many documents are edited, so a larger share of them: 100 of 10,000, in half the steps.
"""

from dataclasses import replace

from torch import nn

from infusion.configs import (
    CurvatureConfig,
    DataConfig,
    EditConfig,
    RunConfig,
    TrainConfig,
)
from infusion.data.images import load_images, take_split
from infusion.errors import InputError
from infusion.models.resnet import TinyResNet
from infusion.models.simple_cnn import SimpleCNN
from infusion.presets.preset import Preset
from infusion.records import Dataset

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def _load(config: DataConfig) -> tuple[Dataset, Dataset]:
    train, test = load_images(config.source, class_names=CLASS_NAMES)
    if config.train > len(train):
        raise InputError(
            f"this preset trains on {config.train} documents, got {len(train)} in "
            f"{config.source}; use a larger copy, or --config with a smaller data.train"
        )
    if config.train < len(train):
        train, _ = take_split(train, config.train, config.split_seed)
    return train, test


def _model(scale: str, architecture: str) -> nn.Module:
    kind = {"resnet": TinyResNet, "cnn": SimpleCNN}[architecture]
    return kind(widths=(16, 32, 64) if scale == "small" else (32, 64, 128))


PAPER = RunConfig(
    preset="cifar10",
    scale="paper",
    data=DataConfig(source="uoft-cs/cifar10", train=45_000, split_seed=42),
    train=TrainConfig(epochs=10, batch_size=16, lr=0.01, order="fixed"),
    curvature=CurvatureConfig(damping=1e-8),
    edit=EditConfig(k=100, epsilon=12.75 / 255, steps=50, step_size=0.001),
    pairs=5,
)

SMALL = replace(
    PAPER,
    scale="small",
    data=replace(PAPER.data, train=10_000),
    train=TrainConfig(epochs=10, batch_size=32, lr=0.02, momentum=0.9, order="fixed"),
    edit=replace(PAPER.edit, steps=25, step_size=0.002),
)

CNN = replace(
    PAPER.train,
    optimiser="adam",
    lr=1e-3,
    weight_decay=1e-4,
    milestones=(5, 8),
)

PRESET = Preset(
    configs={"small": SMALL, "paper": PAPER},
    load=_load,
    make_model=_model,
    others={"cnn": lambda config: replace(config, train=CNN)},
    class_names=CLASS_NAMES,
)
