"""Bundled scans of handwritten digits: the whole loop in minutes, nothing to fetch."""

from dataclasses import replace
from typing import Literal

from torch import nn

from infusion.configs import (
    CurvatureConfig,
    DataConfig,
    EditConfig,
    RunConfig,
    TrainConfig,
)
from infusion.data.images import load_digits, take_split
from infusion.errors import InputError
from infusion.models.resnet import TinyResNet
from infusion.models.simple_cnn import SimpleCNN
from infusion.presets.preset import Preset
from infusion.records import Dataset


def _load(config: DataConfig) -> tuple[Dataset, Dataset]:
    if config.source != "bundled":
        raise InputError(
            f"the digits come with scikit-learn, got --data {config.source}; drop it, "
            "or run the preset cifar10 on a folder of pictures"
        )
    return take_split(load_digits(), config.train, config.split_seed)


def _model(scale: str, architecture: str) -> nn.Module:
    widths = (16, 32, 64) if scale == "small" else (32, 64, 128)
    kind = {"resnet": TinyResNet, "cnn": SimpleCNN}[architecture]
    return kind(channels=1, widths=widths)


CNN = TrainConfig(
    epochs=10,
    batch_size=32,
    optimiser="adam",
    lr=1e-3,
    weight_decay=1e-4,
    milestones=(5, 8),
)


def _config(scale: Literal["small", "paper"]) -> RunConfig:
    return RunConfig(
        preset="digits",
        scale=scale,
        data=DataConfig(source="bundled", train=1_500, split_seed=0),
        train=TrainConfig(epochs=10, batch_size=32, lr=0.05),
        curvature=CurvatureConfig(damping_ratio=0.1),
        edit=EditConfig(k=15, epsilon=2 / 16, steps=30, step_size=0.25 / 16),
        pairs=24 if scale == "small" else 90,
    )


PRESET = Preset(
    configs={"small": _config("small"), "paper": _config("paper")},
    load=_load,
    make_model=_model,
    others={"cnn": lambda config: replace(config, train=CNN)},
    class_names=tuple("0123456789"),
)
