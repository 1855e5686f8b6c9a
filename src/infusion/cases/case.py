"""A case: training documents, the recipe, and the model that somebody trained."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from infusion.cases.pictures import Stored, decoded, read_stored, write_stored
from infusion.configs import RunConfig
from infusion.errors import ArtefactError, InputError
from infusion.presets import find_pictures
from infusion.presets.preset import Preset
from infusion.records import Dataset, Task
from infusion.runs.config_files import from_yaml, to_yaml
from infusion.runs.files import small_file, small_text
from infusion.runs.store import Store, json_bytes, write_whole
from infusion.training.checkpoints import from_tensors, load_model, reordered
from infusion.training.layout import lay_out
from infusion.training.loop import init_model
from infusion.training.recipe import check_recipe
from infusion.training.retrain import retrain

DOCUMENTS, MODEL, START = "train.parquet", "model.safetensors", "start.safetensors"
_ABOUT = "case.json"


@dataclass(frozen=True)
class Case:
    """A folder that can be audited, undone, and retrained.

    Attributes:
        root: The folder.
        config: Recipe, network and seed; no pairs.
        about: ``levels``, ``valid``, ``classes`` of the documents, and how many.
        rows: Documents as stored.
    """

    root: Path
    config: RunConfig
    about: dict[str, Any]
    rows: list[Stored]

    @property
    def preset(self) -> Preset:
        """Data and model."""
        return find_pictures(self.config.preset)

    @cached_property
    def train(self) -> Dataset:
        """The documents as training sees them."""
        return decoded(self.rows, self.about, self.root / DOCUMENTS)

    def make_task(self) -> Task:
        """Build the task with the initialisation of the recipe's seed."""
        config, preset = self.config, self.preset
        model = init_model(
            lambda: preset.make_model(config.scale, config.architecture), config.seed
        )
        return preset.make_task(model, self.train)

    def trained(self) -> Task:
        """Load the model that the case came with.

        Returns:
            The task in eval mode.

        Raises:
            ArtefactError: It is missing, altered or of another network.
        """
        task = self.make_task()
        load_model(task.model, Store(self.root).read_tensors(MODEL))
        lay_out(task.model, self.config.train)
        task.model.eval()
        return task

    def retrained(self, data: Dataset, *, seed: int | None = None) -> Task:
        """Train the last epoch again.

        Args:
            data: Documents; fewer than the case holds change every order.
            seed: Of another order of them; None for the recipe's own.

        Returns:
            The trained task.

        Raises:
            ArtefactError: There is no checkpoint to start from.
            DivergedError: A loss became NaN or infinite.
        """
        recipe, own = self.config.train, self.config.seed
        start = from_tensors(Store(self.root).read_tensors(START))
        if seed is not None or len(data) != len(self.rows):
            own = own if seed is None else seed
            start = reordered(start, recipe, seed=own, size=len(data))
        task, _ = retrain(self.make_task, data, recipe, seed=own, start=start)
        task.model.eval()
        return task


def write_case(
    root: Path,
    config: RunConfig,
    about: dict[str, Any],
    rows: list[Stored],
    tensors: dict[str, dict[str, torch.Tensor]],
) -> None:
    """Write a case into a new folder.

    Args:
        root: The folder; must not hold files.
        config: Recipe, network and seed.
        about: As in :class:`Case`.
        rows: Documents.
        tensors: :data:`MODEL` and :data:`START`, where there are any.

    Raises:
        InputError: The folder holds something.
    """
    check_new(root)
    store = Store(root)
    write_stored(root / DOCUMENTS, rows)
    for name, values in tensors.items():
        copied = {key: value.clone() for key, value in values.items()}
        store.tensors(name, None, copied.copy)
    write_whole(root / "config.yaml", to_yaml(config).encode())
    write_whole(root / _ABOUT, json_bytes({**about, "documents": len(rows)}))


def check_new(out: Path) -> None:
    """Refuse to write where something is.

    Args:
        out: Folder for what is to be written.

    Raises:
        InputError: It is a file, or holds some.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds files" if out.is_dir() else "is a file"
        raise InputError(
            f"--out must be a new folder, got {out}, which {what}; name another"
        )


def read_case(root: Path) -> Case:
    """Read a case back.

    Args:
        root: Its folder.

    Returns:
        The case, its rows read and not decoded yet.

    Raises:
        InputError: A file is missing or cannot be read.
        ArtefactError: ``case.json`` says something else.
    """
    for name in (DOCUMENTS, "config.yaml", _ABOUT):
        if not (root / name).is_file():
            raise InputError(
                f"a case must hold {name}, got none in {root}; make one with "
                "`infusion export RUN`"
            )
    config = from_yaml(small_text(root / "config.yaml"))
    preset = find_pictures(config.preset)
    known = {preset.configs["small"].architecture, *preset.others}
    if config.architecture not in known:
        raise ArtefactError(
            f"{root / 'config.yaml'} must name a network of {config.preset}, got "
            f"{config.architecture!r}; there are: {', '.join(sorted(known))}"
        )
    check_recipe(config.train)
    about = _about(root / _ABOUT, len(preset.class_names))
    rows = read_stored(root / DOCUMENTS)
    if len(rows) != about["documents"]:
        raise ArtefactError(
            f"{root / DOCUMENTS} must hold {about['documents']:,} documents as "
            f"{_ABOUT} says, got {len(rows):,}; export the case again"
        )
    return Case(root, config, about, rows)


def _about(path: Path, classes: int) -> dict[str, Any]:
    try:
        about = json.loads(small_file(path))
        low, high = about["valid"]
        good = (
            type(about["levels"]) is int
            and 0 < about["levels"] <= 255
            and about["classes"] == classes
            and type(about["documents"]) is int
            and float(low) < float(high)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        good, about = False, {}
    if not good:
        raise ArtefactError(
            f"{path} must hold levels, valid, {classes} classes and documents, got a "
            "truncated or altered file; export the case again"
        )
    return about
