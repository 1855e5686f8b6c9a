"""The base model: trained or taken over, an epoch per checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from infusion.configs import TrainConfig, as_plain
from infusion.data.hashing import dataset_hash
from infusion.errors import ArtefactError, InputError
from infusion.measure import accuracy
from infusion.params import Params
from infusion.presets.context import Run, checkpoint_file
from infusion.records import Task
from infusion.runs.files import check_size
from infusion.runs.progress import progress
from infusion.runs.store import Store
from infusion.seeding import derive
from infusion.training import checkpoints
from infusion.training.checkpoints import Checkpoint, check_start, load_model
from infusion.training.layout import lay_out
from infusion.training.loop import train_epochs


def base_model(run: Run) -> Task:
    """Train the base model, or take it from ``--base``; continue where it stopped.

    Args:
        run: Settings and documents.

    Returns:
        The trained task.

    Raises:
        InputError: ``--base`` lacks a checkpoint.
        ArtefactError: A checkpoint is of another architecture, order or run.
        DivergedError: A training loss became NaN or infinite.
    """
    config, store, task = run.config, run.store, run.make_task()
    epochs = config.train.epochs
    inputs = {
        "train": as_plain(config.train),
        "data": run.data_sha256["train"],
        "seed": config.seed,
        "base": config.base,
        **run.drawn_from,
    }
    if config.before is not None:
        inputs["before"] = as_plain(config.before)
    if config.base is not None and not store.has(checkpoint_file(epochs), inputs):
        for checkpoint in check_taken(run):
            _save(store, checkpoint, inputs)
    done = [e for e in range(1, epochs + 1) if store.has(checkpoint_file(e), inputs)]
    start = _read(store, done[-1]) if done else None
    left = epochs - (done[-1] if done else 0)
    steps = -(-len(run.train) // config.train.batch_size)
    if left:
        torch.set_num_threads(1)
        if start is None and config.before is not None:
            load_model(task.model, _earlier(run, config.before))
        with run.timed("train"), progress("train base model", left * steps) as advance:
            for checkpoint in train_epochs(
                task,
                run.train,
                config.train,
                seed=config.seed,
                start=start,
                record=run.is_recorded,
                on_step=lambda: advance(1),
            ):
                _save(store, checkpoint, inputs)
        torch.set_num_threads(config.threads)
    load_model(task.model, _read(store, epochs).model)
    lay_out(task.model, config.train)
    return task


def check_taken(run: Run) -> list[Checkpoint]:
    """Refuse a ``--base`` that the run cannot go on from.

    Args:
        run: Settings and documents.

    Returns:
        Its last two checkpoints, earlier first; none where the run trains its own.

    Raises:
        InputError: A checkpoint is missing, or beyond the recipe's end.
        ArtefactError: One was altered, or is of another architecture or order.
    """
    config = run.config
    if config.base is None:
        return []
    taken, task = _read_base(Path(config.base), config.train.epochs), run.make_task()
    for checkpoint in taken:
        check_start(checkpoint, config.train, seed=config.seed, size=len(run.train))
        load_model(task.model, checkpoint.model)
    return taken


def _earlier(run: Run, recipe: TrainConfig) -> Params:
    """Train on the earlier documents, an epoch per checkpoint, or read what that gave.

    Returns:
        Weights and buffers after them.

    Raises:
        InputError: The preset has no such documents, or the recipe trains nothing.
    """
    if run.preset.earlier is None or recipe.epochs < 1:
        raise InputError(
            "a recipe for earlier documents needs some, and an epoch, got "
            f"{recipe.epochs} epochs of the preset {run.config.preset}; leave it out"
        )
    documents = run.preset.earlier(run.config.data)
    inputs = {
        "train": as_plain(recipe),
        "data": dataset_hash(documents),
        "seed": run.config.seed,
    }
    epochs = range(1, recipe.epochs + 1)
    names = [f"checkpoints/before-{epoch:03d}.safetensors" for epoch in epochs]
    done = [name for name in names if run.store.has(name, inputs)]
    start = None
    if done:
        start = checkpoints.from_tensors(run.store.read_tensors(done[-1]))
    left = recipe.epochs - (start.epoch if start else 0)
    task = replace(run, train=documents).make_task()
    steps = left * -(-len(documents) // recipe.batch_size)
    with run.timed("train"), progress("train before", steps) as advance:
        for checkpoint in train_epochs(
            task,
            documents,
            recipe,
            seed=derive(run.config.seed, "earlier documents"),
            start=start,
            on_step=lambda: advance(1),
        ):
            made = checkpoints.to_tensors(checkpoint)
            run.store.tensors(names[checkpoint.epoch - 1], inputs, made.copy)
    last = checkpoints.from_tensors(run.store.read_tensors(names[-1]))
    return last.model


def _read_base(folder: Path, epochs: int) -> list[Checkpoint]:
    """Read the last two checkpoints of a base model, earlier first.

    They are checked by hash where their records lie beside them.

    Returns:
        The checkpoints after ``epochs − 1`` and ``epochs``.

    Raises:
        InputError: One of them is missing.
        ArtefactError: A file is truncated, altered or not a checkpoint.
    """
    found = []
    for epoch in (epochs - 1, epochs):
        path = folder / checkpoints.file_name(epoch)
        if not path.is_file():
            raise InputError(
                f"--base must hold the checkpoints of epochs {epochs - 1} and {epochs},"
                f" got no {path.name} in {folder}; check the path and the recipe"
            )
        store = Store(folder)
        if store.is_finished(path.name):
            found.append(checkpoints.from_tensors(store.read_tensors(path.name)))
            continue
        try:
            check_size(path)
            found.append(checkpoints.from_tensors(load(path.read_bytes())))
        except SafetensorError as error:
            raise ArtefactError(
                f"{path} must be a safetensors file, got a truncated or altered one "
                f"({error}); restore it"
            ) from error
    return found


def _save(store: Store, checkpoint: Checkpoint, inputs: dict[str, Any]) -> None:
    name = checkpoint_file(checkpoint.epoch)
    store.tensors(name, inputs, lambda: checkpoints.to_tensors(checkpoint))


def _read(store: Store, epoch: int) -> Checkpoint:
    return checkpoints.from_tensors(store.read_tensors(checkpoint_file(epoch)))


def epoch_accuracies(run: Run, task: Task) -> dict[str, float]:
    """Measure clean test accuracy after every epoch that is at hand.

    Args:
        run: Settings and documents.
        task: Its model is left at the final checkpoint.

    Returns:
        Epoch to share of test documents predicted right.
    """
    epochs = range(1, run.config.train.epochs + 1)
    there = [e for e in epochs if run.store.is_finished(checkpoint_file(e))]
    inputs = {checkpoint_file(e): run.store.sha256(checkpoint_file(e)) for e in there}
    inputs["test"] = run.data_sha256["test"]

    def make() -> dict[str, float]:
        result = {}
        with (
            run.timed("clean accuracy"),
            progress("clean accuracy", len(there)) as advance,
        ):
            for epoch in there:
                load_model(task.model, _read(run.store, epoch).model)
                result[str(epoch)] = accuracy(task, run.test)
                advance(1)
        return result

    return run.store.json("accuracy.json", inputs, make)
