"""What the stages of a run share: settings, the run folder, documents, pairs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from infusion.configs import RunConfig
from infusion.data.hashing import dataset_hash
from infusion.presets.preset import Preset
from infusion.records import Dataset, Task
from infusion.runs.store import Store
from infusion.training import checkpoints
from infusion.training.loop import init_model


@dataclass(frozen=True)
class Pair:
    """A probe and the class it should be taken for.

    Attributes:
        index: Position in the list of pairs.
        probe: Position in the test set.
        label: True class.
        target: Wanted class; neither the true nor the predicted one.
    """

    index: int
    probe: int
    label: int
    target: int

    @property
    def row(self) -> torch.Tensor:
        """Position of the probe, as a dataset takes it."""
        return torch.tensor([self.probe])

    def file(self, folder: str, ending: str) -> str:
        """Name this pair's artefact in a folder of the run."""
        return f"{folder}/pair-{self.index:03d}{ending}"


@dataclass(frozen=True)
class Run:
    """What every stage needs: settings, the run folder and the documents.

    Attributes:
        config: Settings.
        preset: Data and model.
        store: Run folder.
        train: Training documents.
        test: Test documents.
        view: How the base model is seen, where not as the settings say: scores of a
            view have files of their own.
        fitted: The view whose curvature it has.
    """

    config: RunConfig
    preset: Preset
    store: Store
    train: Dataset
    test: Dataset
    view: str = ""
    fitted: str = ""

    @property
    def suffix(self) -> str:
        """Ending of the names of what belongs to the view."""
        return _ending(self.view)

    @property
    def curvature_suffix(self) -> str:
        """Ending of the name of its curvature."""
        return _ending(self.fitted)

    @property
    def is_recorded(self) -> bool:
        """Tell whether trainings are recorded: on a GPU, of pictures."""
        return self.config.device == "cuda" and self.preset.kind == "pictures"

    @cached_property
    def placed(self) -> Dataset:
        """The training documents where recorded trainings read them."""
        return self.train.to(self.config.device) if self.is_recorded else self.train

    def make_task(self) -> Task:
        """Build the task with the initialisation of this run's seed."""
        config = self.config

        def build() -> torch.nn.Module:
            return self.preset.make_model(config.scale, config.architecture)

        model = init_model(build, config.seed).to(config.device)
        return self.preset.make_task(model, self.train)

    @cached_property
    def data_sha256(self) -> dict[str, str]:
        """Content hashes of the training and test documents."""
        return {"train": dataset_hash(self.train), "test": dataset_hash(self.test)}

    @cached_property
    def drawn_from(self) -> dict[str, str]:
        """Content hash of what documents and measurements are drawn from, if more."""
        content = self.preset.content
        return {} if content is None else {"texts": content(self.config.data)}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add a block's wall time to ``times.json``, in seconds."""
        with self.store.timed(stage):
            yield


def _ending(view: str) -> str:
    return f"-{view.replace(' ', '-')}" if view else ""


def checkpoint_file(epoch: int) -> str:
    """Name a checkpoint inside the run folder.

    Args:
        epoch: Epochs done.

    Returns:
        Path relative to the run folder.
    """
    return f"checkpoints/{checkpoints.file_name(epoch)}"
