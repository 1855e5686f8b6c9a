"""What a preset of texts says beside its model and its documents."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from jaxtyping import Int
from torch import Tensor

from infusion.configs import CurvatureConfig, DataConfig
from infusion.perturb.drafts import TokenLimits
from infusion.presets.context import Pair, Run
from infusion.records import Dataset, Measurement, Task

Json = dict[str, Any]
CODED = "as coded"
"""View of a base model as the paper's code has it."""


@dataclass(frozen=True)
class Texts:
    """What is measured, and what may be written.

    Attributes:
        pairs: Numbers of probes and targets among the preset's names, in a drawn order;
            any first part of it is balanced.
        measurement: What should rise for a pair; of the run's view.
        behaviour: What a model does with a pair, on texts that crafting never saw.
        accuracy: What it does with held-out documents, as a share.
        limits: What an edit of these rows may do.
        demonstrations: So many documents that show the wanted behaviour.
        coded: Curvature of the paper's code.
        coded_editor: Its editor.
        columns: What a row says about the effect, beyond a clean replay.
        read: Tokens as pieces of text.
    """

    pairs: Callable[[Run], list[tuple[int, int]]]
    measurement: Callable[[Run, Task, Pair], Measurement]
    behaviour: Callable[[Run, Task, Pair], Json]
    accuracy: Callable[[Run, Task], float]
    limits: Callable[[Run, Dataset], TokenLimits]
    demonstrations: Callable[[Run, Pair, int], Dataset]
    coded: CurvatureConfig
    coded_editor: str
    columns: dict[str, Callable[[Json], float]]
    read: Callable[[DataConfig, Int[Tensor, " t"]], list[str]]


def texts_of(preset: str) -> Texts:
    """Load what a preset of texts says.

    Args:
        preset: Its name.

    Returns:
        Its texts.
    """
    return import_module(f"infusion.presets.{preset}").TEXTS
