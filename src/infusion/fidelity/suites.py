"""What can be trained again and again: documents, network and recipe by name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

import torch
from torch import nn

from infusion.configs import DataConfig, SuiteConfig, TrainConfig
from infusion.data.hashing import dataset_hash
from infusion.errors import check_choice, check_whole
from infusion.presets import cifar10, digits, mnist
from infusion.presets.preset import Preset
from infusion.records import Dataset, Task
from infusion.tasks import classification
from infusion.training.layout import lay_out
from infusion.training.loop import init_model, train


@dataclass(frozen=True)
class Source:
    """Documents, network and recipe.

    Attributes:
        data: Where the documents come from.
        train: Recipe.
        skip: Module types left out of every score.
        load: Training and test documents.
        make_model: Builds the network.
    """

    data: DataConfig
    train: TrainConfig
    skip: tuple[str, ...]
    load: Callable[[DataConfig], tuple[Dataset, Dataset]]
    make_model: Callable[[], nn.Module]


def _from_preset(preset: Preset) -> Source:
    small = preset.configs["small"]
    model = partial(preset.make_model, "small", "resnet")
    return Source(small.data, small.train, small.curvature.skip, preset.load, model)


def _perceptron() -> nn.Module:
    """2,410 parameters: few enough to write their Gauss–Newton matrix out."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


SUITES = {
    "digits": _from_preset(digits.PRESET),
    "digits-mlp": Source(
        digits.PRESET.configs["small"].data,
        TrainConfig(epochs=30, batch_size=32, lr=0.1),
        (),
        digits.PRESET.load,
        _perceptron,
    ),
    "mnist": Source(mnist.DATA, mnist.TRAIN, (), mnist.load, mnist.make_model),
    "cifar10": _from_preset(cifar10.PRESET),
}


def suite_config(name: str, source: str | None) -> SuiteConfig:
    """Return a suite's settings.

    Args:
        name: One of ``SUITES``.
        source: Folder of the data; ``None`` is the suite's own.

    Returns:
        What is trained.

    Raises:
        InputError: There is no such suite.
    """
    check_choice("suite", name, tuple(SUITES))
    ready = SUITES[name]
    data = ready.data if source is None else replace(ready.data, source=source)
    return SuiteConfig(name=name, data=data, train=ready.train, skip=ready.skip)


@dataclass(frozen=True)
class Suite:
    """A suite with its documents at hand."""

    config: SuiteConfig
    train: Dataset
    test: Dataset

    def make_task(self, seed: int) -> Task:
        """Build the task with the initialisation of a seed."""
        model = init_model(SUITES[self.config.name].make_model, seed)
        lay_out(model, self.config.train)
        return classification(model)

    @cached_property
    def parameters(self) -> int:
        """Trainable parameters of the network."""
        return sum(p.numel() for p in self.make_task(0).model.parameters())

    def fit(self, documents: Dataset, seed: int) -> Task:
        """Train from scratch on any documents: initialisation and orders of a seed."""
        task = self.make_task(seed)
        train(task, documents, self.config.train, seed=seed)
        task.model.eval()
        return task

    def hashes(self) -> dict[str, str]:
        """Content hashes of the training and test documents."""
        return {"train": dataset_hash(self.train), "test": dataset_hash(self.test)}


@lru_cache(maxsize=1)
def open_suite(config: SuiteConfig) -> Suite:
    """Load a suite's documents, once per process, which then runs on one thread.

    Args:
        config: What is trained.

    Returns:
        The suite.

    Raises:
        InputError: There is no such suite, or its data cannot be read.
    """
    check_choice("suite", config.name, tuple(SUITES))
    check_whole("epochs", config.train.epochs)
    torch.set_num_threads(1)
    return Suite(config, *SUITES[config.name].load(config.data))
