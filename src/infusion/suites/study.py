"""What differs between suites of one kind of documents and of another."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from infusion.audit.evidence import Report
from infusion.data.edits import Edits
from infusion.errors import check_choice
from infusion.params import Params
from infusion.presets import find_preset
from infusion.presets.context import Pair, Run
from infusion.records import Dataset, Measurement, Task
from infusion.suites.trial import Change, Retraining, Trial

Models = list[tuple[Task, Params]]
"""Tasks, and the IHVPs solved at them."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Desk:
    """What the changes of one pair share.

    Attributes:
        run: Settings and documents of the base model they are crafted on.
        pair: Probe and target.
        scores: Influence of every document.
        models: So many members of the ensemble, or the base model for 0.
        made: The stored edits of another change of the pair, see :attr:`Study.like`.
    """

    run: Run
    pair: Pair
    scores: Tensor
    models: Callable[[int], Models]
    made: Callable[[Change], Edits]


@dataclass(frozen=True)
class Study:
    """The suites of one kind of documents.

    Attributes:
        trials: Lists those of a suite.
        check: Refuses what would only fail after hours.
        pairs: Writes down probes and targets, in a drawn order.
        measurement: What should rise for a pair.
        view: Changes a run for a view of its base model.
        members: Clean retrainings that a change is crafted on.
        decides: What decides the edits of a change beside its settings.
        like: The change that one is to be as large as, made before it, if any.
        craft: Makes the edits of one change, for each of several pairs.
        facts: Says what they reached and what they are predicted to do.
        training: What a task needs to train on edits, and the documents.
        behaviour: What a model does with a pair.
        accuracy: What it does with everything else, as a share.
        portrait: What there is to say about the whole model, if anything.
        told: What kind of report an auditor gets about a change, "" for none.
        report: That report, at a model.
        success: What else a change did to a model, if anything.
    """

    trials: Callable[[str, Run], list[Trial]]
    check: Callable[[Run, list[Trial]], None]
    pairs: Callable[[Run, Task], list[Pair]]
    measurement: Callable[[Run, Task, Pair], Measurement]
    view: Callable[[Run, str], Run]
    members: Callable[[Any], list[Retraining]]
    decides: Callable[[Run, Any], Json]
    like: Callable[[Any], Any]
    craft: Callable[[list[Desk], Any], list[Edits]]
    facts: Callable[[Desk, Any, Edits], Json]
    training: Callable[[Run, Edits], tuple[Callable[[Task], Task], Dataset]]
    behaviour: Callable[[Run, Task, Pair], Json]
    accuracy: Callable[[Run, Task], float]
    portrait: Callable[[Run, Task], Json]
    told: Callable[[Any], str]
    report: Callable[[Run, Task, Any, Pair], Report]
    success: Callable[[Run, Task, Any, Pair], Json]


NAMES: dict[str, tuple[str, ...]] = {
    "pictures": (
        "main", "controls", "copies", "all-controls", "selection", "fresh",
        "hardening", "engines", "budget", "horizon", "transfer", "surrogates",
        "detection",
    ),
    "texts": ("main", "copies", "editors", "fresh", "confidence", "detection"),
}  # fmt: skip
"""Suites by kind of documents."""


def check_suite(preset: str, suite: str) -> None:
    """Refuse a suite that there is not, before documents are read.

    Args:
        preset: Name of the preset.
        suite: Name of the suite.

    Raises:
        InputError: There is no such preset, or no such suite for its documents.
    """
    check_choice("--suite", suite, NAMES[find_preset(preset).kind])


def study_of(run: Run) -> Study:
    """Find the study of a run's documents.

    Args:
        run: Gives the preset.

    Returns:
        The study.
    """
    return import_module(f"infusion.suites.{run.preset.kind}.study").STUDY
