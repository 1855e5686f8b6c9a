"""What a preset is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from infusion.configs import DataConfig, RunConfig, TrainConfig
from infusion.records import Dataset


@dataclass(frozen=True)
class Preset:
    """An experiment on labelled pictures.

    Attributes:
        configs: Settings by scale, ``"small"`` and ``"paper"``.
        load: Training and test documents.
        make_model: Builds the classifier of a scale and an architecture.
        recipes: How architectures other than the settings' own are trained.
        class_names: In label order.
    """

    configs: dict[str, RunConfig]
    load: Callable[[DataConfig], tuple[Dataset, Dataset]]
    make_model: Callable[[str, str], nn.Module]
    recipes: dict[str, TrainConfig]
    class_names: tuple[str, ...]
