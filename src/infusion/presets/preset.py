"""What a preset is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from infusion.configs import DataConfig, RunConfig
from infusion.records import Dataset, Task
from infusion.tasks import classification

Settings = Callable[[RunConfig], RunConfig]
"""From settings to those of another base model."""


@dataclass(frozen=True)
class Preset:
    """An experiment on labelled pictures, or on texts.

    Attributes:
        configs: Settings by scale, ``"small"`` and ``"paper"``.
        load: Training and test documents.
        make_model: Builds the model of a scale and an architecture.
        others: Settings of other base models by name: architectures of pictures with
            recipes of their own; for texts also other recipes and documents.
        class_names: In label order; of texts what pairs are made of.
        kind: Of its documents.
        make_task: From a model and its training documents.
        earlier: Documents of the training that comes before, if there is one.
        content: Hash of all that documents, measurements and demonstrations are drawn
            from, where that is more than the documents.
    """

    configs: dict[str, RunConfig]
    load: Callable[[DataConfig], tuple[Dataset, Dataset]]
    make_model: Callable[[str, str], nn.Module]
    others: dict[str, Settings]
    class_names: tuple[str, ...]
    kind: Literal["pictures", "texts"] = "pictures"
    make_task: Callable[[nn.Module, Dataset], Task] = lambda model, _: classification(
        model
    )
    earlier: Callable[[DataConfig], Dataset] | None = None
    content: Callable[[DataConfig], str] | None = None
