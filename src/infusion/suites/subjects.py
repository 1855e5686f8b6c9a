"""The base models of a suite: one per architecture, each in a folder of its own."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from infusion.configs import DataConfig, RunConfig
from infusion.curvature.blocks import Curvature
from infusion.presets import find_preset
from infusion.presets.base import base_model
from infusion.presets.context import Run
from infusion.presets.infuse import curvature
from infusion.records import Dataset, Task
from infusion.runs.store import Store
from infusion.suites.study import study_of


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
        other = preset.others[architecture](replace(config, base=None))
        config = replace(other, architecture=architecture)
    return Run(config, preset, Store(folder), *_documents(config.preset, config.data))


@lru_cache(maxsize=2)
def _documents(preset: str, data: DataConfig) -> tuple[Dataset, Dataset]:
    return find_preset(preset).load(data)


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


def seen(home: Home, architecture: str, view: str) -> Run:
    """Open a run in a view of its base model.

    Args:
        home: Suite folder.
        architecture: Which.
        view: "" for how the settings see it.

    Returns:
        The run.
    """
    run = home.run(architecture)
    return study_of(run).view(run, view) if view else run


@lru_cache(maxsize=2)
def fitted(home: Home, architecture: str, view: str) -> Curvature:
    """Fit or read the curvature of a base model, once per process.

    Args:
        home: Suite folder.
        architecture: Which.
        view: See :func:`seen`.

    Returns:
        The curvature.
    """
    _, task = opened(home, architecture)
    return curvature(seen(home, architecture, view), task)
