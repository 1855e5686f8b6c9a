"""What is attributed: a preset's base model and probes, or a user's own question."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from infusion.attribution.influence import gradient
from infusion.configs import AttributeConfig, RunConfig
from infusion.curvature.layers import cover
from infusion.data.hashing import dataset_hash
from infusion.device import settle
from infusion.errors import DivergedError, InputError, check_whole
from infusion.measure import behaviours, log_prob
from infusion.params import Params, model_sha256, params_sha256
from infusion.presets import find_preset
from infusion.presets.base import base_model, epoch_accuracies
from infusion.presets.checks import check_base, check_damping
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.own import load_question
from infusion.presets.pairs import list_pairs
from infusion.records import Dataset, Measurement, Task
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import refuse_other_config, refuse_other_environment
from infusion.runs.store import Store
from infusion.tasks import first_parameter


@dataclass(frozen=True)
class Measured:
    """Values and gradients of all measurements at the model's parameters."""

    values: list[float]
    gradients: list[Params]


@dataclass(frozen=True)
class Subject:
    """A model, its training documents and what is measured.

    Attributes:
        task: Trained.
        train: Training documents.
        measurements: By name.
        hashes: Of the model and of each dataset.
        facts: What a page says about each measurement, in order.
        describe: Names a document.
        class_names: In label order.
        probes: Input of each measurement as stored, where it has one.
        accuracy: Clean test accuracy, where there is a test set.
        pairs: What decides the measurements; None where their gradients do.
    """

    task: Task
    train: Dataset
    measurements: dict[str, Measurement]
    hashes: dict[str, str]
    facts: list[dict[str, Any]]
    describe: Callable[[int], str] | None = None
    class_names: tuple[str, ...] | None = None
    probes: Tensor | None = None
    accuracy: float | None = None
    pairs: list[dict[str, int]] | None = None

    @cached_property
    def measured(self) -> Measured:
        """Evaluate every measurement once."""
        found = [_measure(self.task, *named) for named in self.measurements.items()]
        return Measured([value for value, _ in found], [pulled for _, pulled in found])

    def decided_by(self) -> list[Any]:
        """Return what stored scores must have been measured by."""
        if self.pairs is not None:
            return self.pairs
        shas = [params_sha256(pulled) for pulled in self.measured.gradients]
        return [list(pair) for pair in zip(self.measurements, shas, strict=True)]


def open_subject(config: AttributeConfig, store: Store) -> Subject:
    """Train, take over or import what is attributed; claim the run folder for it.

    Args:
        config: Everything that decides the results.
        store: Run folder; refused if it was started with other settings.

    Returns:
        The subject; its measurements have not been evaluated.

    Raises:
        InputError: Wrong settings, unusable data or a question that cannot be asked.
        InfusionError: An uncovered layer, an altered artefact, a training that
            diverged.
    """
    check_whole("threads", config.threads)
    check_damping(config.curvature.damping, config.curvature.damping_ratio)
    check_whole("batch_size", config.curvature.batch_size)
    if config.preset is None:
        return _own(config, store)
    return _of_preset(config, store)


def _claim(config: AttributeConfig, store: Store) -> None:
    refuse_other_config(store.root, to_yaml(config))
    refuse_other_environment(store.root)


def _own(config: AttributeConfig, store: Store) -> Subject:
    assert config.task is not None
    torch.set_num_threads(config.threads)
    question = load_question(config.task)
    if not question.measurements:
        raise InputError(
            "a question must hold at least one measurement, got none; add a function "
            "of the model that returns a scalar"
        )
    cover(question.task.model, config.curvature.skip)
    if question.describe is not None:
        description(question.describe, 0)
    subject = Subject(
        task=question.task,
        train=question.train,
        measurements=dict(question.measurements),
        hashes={
            "model": model_sha256(question.task.model),
            "train": dataset_hash(question.train),
        },
        facts=[{} for _ in question.measurements],
        describe=question.describe,
    )
    subject.decided_by()  # a wrong measurement is refused before anything is written
    _claim(config, store)
    return subject


def _of_preset(config: AttributeConfig, store: Store) -> Subject:
    settings = run_config(config)
    preset = find_preset(settings.preset)
    train, test = preset.load(settings.data)
    check_base(settings, test)
    if settings.probe is None and not settings.pairs:
        raise InputError(
            "at least one measurement must be asked for, got 0 pairs and no probe; "
            "give --pairs or --probe"
        )
    run = Run(settings, preset, store, train, test)
    cover(run.make_task().model, config.curvature.skip)
    _claim(config, store)
    settle(settings.device, config.threads)
    task = base_model(run)
    accuracies = epoch_accuracies(run, task)
    pairs = _pairs(run, task)
    names = preset.class_names
    like = first_parameter(task)
    probes = torch.tensor([pair.probe for pair in pairs])
    inputs = test.batch(probes, like=like).inputs
    befores = behaviours(task, test, [(pair.probe, pair.target) for pair in pairs])
    return Subject(
        task=task,
        train=train,
        measurements={
            f"log p({names[pair.target]} | test picture {pair.probe})": log_prob(
                probe, pair.target
            )
            for pair, probe in zip(pairs, inputs, strict=True)
        },
        hashes={
            "base checkpoint": store.sha256(checkpoint_file(settings.train.epochs)),
            **run.data_sha256,
        },
        facts=[
            {
                "probe": pair.probe,
                "label": pair.label,
                "target": pair.target,
                "predicted": before.top1,
                "p": before.p,
            }
            for pair, before in zip(pairs, befores, strict=True)
        ],
        class_names=names,
        probes=test.take(probes).inputs,
        accuracy=accuracies[str(settings.train.epochs)],
        pairs=[asdict(pair) for pair in pairs],
    )


def run_config(config: AttributeConfig) -> RunConfig:
    """Put the settings of a preset's base model and pairs in the form of a run.

    Args:
        config: Of a preset.

    Returns:
        A run that trains the same base model and lists the same pairs.

    Raises:
        InputError: A setting that a preset needs is not given.
    """
    assert config.preset is not None
    names = ("scale", "data", "train", "pairs", "pair_seed", "device")
    given = {name: getattr(config, name) for name in names}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise InputError(
            f"the settings of a preset must hold {', '.join(missing)}, got none; use "
            "the config.yaml of a run folder"
        )
    start = find_preset(config.preset).configs[given["scale"]]
    return replace(
        start,
        **given,
        curvature=replace(
            start.curvature,
            damping=config.curvature.damping,
            damping_ratio=config.curvature.damping_ratio,
            batch_size=config.curvature.batch_size,
        ),
        probe=config.probe,
        target=config.target,
        seed=config.seed,
        base=config.base,
        threads=config.threads,
    )


def _pairs(run: Run, task: Task) -> list[Pair]:
    """List the rule's pairs, or the one asked for: any class will do to attribute."""
    config = run.config
    if config.probe is None:
        return list_pairs(run, task)
    probe = config.probe
    target = config.target
    if target is None:
        target = behaviours(task, run.test, [(probe, 0)])[0].top1
    return [Pair(0, probe, int(run.test.labels[probe]), target)]


def _measure(task: Task, name: str, measurement: Measurement) -> tuple[float, Params]:
    """Evaluate a measurement and its gradient; what is wrong with it gets its name."""
    values: list[float] = []

    def scalar(model: nn.Module) -> Tensor:
        value = measurement(model)
        if not isinstance(value, Tensor):
            raise InputError(
                "a measurement must return a scalar tensor that depends on the model's "
                f"parameters, got {type(value).__name__}; do not call item()"
            )
        if value.ndim == 0:
            values.append(float(value.detach()))
        return value

    try:
        pulled = gradient(task, scalar)
    except (InputError, DivergedError) as error:
        raise type(error)(f"measurement {name!r}: {error}") from error
    return values[0], pulled


def description(describe: Callable[[int], str], document: int) -> str:
    """Name a document by the user's function.

    Args:
        describe: The function.
        document: Its position.

    Returns:
        The name.

    Raises:
        InputError: It is no text.
    """
    text = describe(document)
    if not isinstance(text, str):
        raise InputError(
            f"describe must return a text for every document, got "
            f"{type(text).__name__} for document {document}; convert it"
        )
    return text
