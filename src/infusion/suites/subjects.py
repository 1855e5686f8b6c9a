"""The base models of a suite: one per architecture, each in a folder of its own."""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from infusion.configs import RunConfig
from infusion.curvature.blocks import Curvature
from infusion.measure import predictions
from infusion.presets import find_preset
from infusion.presets.base import base_model
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.infuse import curvature
from infusion.records import Dataset, Task
from infusion.seeding import stream
from infusion.store import Store


@dataclass(frozen=True)
class Home:
    """A suite folder and the settings it was started with.

    Attributes:
        root: The folder; holds the base model of the settings' own architecture, and
            those of others in folders named after them.
        config: Settings, without a number of pairs.
    """

    root: Path
    config: RunConfig

    def run(self, architecture: str) -> Run:
        """Open the run of one architecture, trained by its own recipe."""
        return _run(self, architecture)


@lru_cache(maxsize=4)
def _run(home: Home, architecture: str) -> Run:
    config, folder = home.config, home.root
    preset = find_preset(config.preset)
    if architecture != config.architecture:
        folder = folder / architecture
        recipe = preset.recipes[architecture]
        config = replace(config, architecture=architecture, train=recipe, base=None)
    return Run(config, preset, Store(folder), *_documents(home))


@lru_cache(maxsize=1)
def _documents(home: Home) -> tuple[Dataset, Dataset]:
    return find_preset(home.config.preset).load(home.config.data)


@lru_cache(maxsize=2)
def opened(home: Home, architecture: str) -> tuple[Run, Task]:
    """Open a run and its trained base model, once per process.

    Args:
        home: Suite folder.
        architecture: Which.

    Returns:
        The run, and the task at its base model.
    """
    run = home.run(architecture)
    return run, base_model(run)


@lru_cache(maxsize=2)
def fitted(home: Home, architecture: str) -> Curvature:
    """Fit or read the curvature of a base model, once per process.

    Args:
        home: Suite folder.
        architecture: Which.

    Returns:
        The curvature.
    """
    return curvature(*opened(home, architecture))


def class_pairs(run: Run, task: Task) -> list[Pair]:
    """Write down a pair for every two different classes, in a drawn order.

    The rule: visit the test documents in the order of ``pair_seed``; each ordered pair
    of classes takes the first one not yet taken whose label is the first class and
    whose prediction is not the second, which is the target.

    Args:
        run: Settings and documents.
        task: Base model.

    Returns:
        The pairs; fewer where a class has too few such documents.
    """
    inputs = {
        "base": run.store.sha256(checkpoint_file(run.config.train.epochs)),
        "test": run.data_sha256["test"],
        "pair_seed": run.config.pair_seed,
    }
    rows = run.store.json("class-pairs.json", inputs, lambda: _class_pairs(run, task))
    return [Pair(**row) for row in rows]


def _class_pairs(run: Run, task: Task) -> list[dict[str, int]]:
    labels = run.test.labels.tolist()
    predicted = predictions(task, run.test).tolist()
    generator = stream(run.config.pair_seed, "class pairs")
    order = torch.randperm(len(labels), generator=generator).tolist()
    classes = range(len(run.preset.class_names))
    wanted = [(c, t) for c in classes for t in classes if c != t]
    drawn = torch.randperm(len(wanted), generator=generator).tolist()
    taken: set[int] = set()
    kept: list[Pair] = []
    for label, target in (wanted[i] for i in drawn):
        fits = (
            i
            for i in order
            if labels[i] == label and predicted[i] != target and i not in taken
        )
        probe = next(fits, None)
        if probe is not None:
            taken.add(probe)
            kept.append(Pair(len(kept), probe, label, target))
    return [asdict(pair) for pair in kept]
