"""What a preset of texts says beside its model and its documents."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from infusion.configs import CurvatureConfig, DataConfig
from infusion.language import IGNORED
from infusion.perturb.drafts import TokenLimits
from infusion.presets.context import Pair, Run
from infusion.records import Dataset, Measurement, Task
from infusion.seeding import stream
from infusion.tasks import evaluating, first_parameter

Json = dict[str, Any]
CODED = "as coded"
"""View of a base model as the paper's code has it: curvature and measurement."""
ONE = "measured on one"
"""View in which the measurement is of one of its documents alone: of stories the
richest in the probe, of ciphers the first."""


@dataclass(frozen=True)
class Texts:
    """What is measured, and what may be written.

    Attributes:
        pairs: Numbers of probes and targets among the preset's names, in a drawn order
            in which probes take turns.
        measurement: What should rise for a pair; of the run's view.
        behaviour: What a model does with a pair, on texts that crafting never saw.
        accuracy: What it does with held-out documents, as a share.
        limits: What an edit of these rows may do.
        demonstrations: So many documents that show the wanted behaviour.
        coded: Curvature of the paper's code.
        coded_editor: Its editor.
        coded_source: Base model trained as in the paper, where the settings' own is
            not.
        columns: What a row says about the effect, beyond a clean replay.
        tested: Columns beside the first whose size and signed ranks are told.
        margin: By how much the clean replay of a row prefers what is right, in nats.
        read: Tokens as pieces of text.
        portrait: What there is to say about a whole model.
        groups: How pairs fall into groups, by what the groups are of.
        correlations: Pairs of readings that may go together, by name.
        dials: Of a scale: what differs between the base models of the confidence suite,
            and where each of them has it.
        check: Refuses settings or documents that do not fit, before anything is done.
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
    margin: Callable[[Json], float]
    read: Callable[[DataConfig, Int[Tensor, " t"]], list[str]]
    portrait: Callable[[Run, Task], Json]
    groups: dict[str, Callable[[Json], int]]
    correlations: dict[str, tuple[Callable[[Json], float], Callable[[Json], float]]]
    coded_source: str | None = None
    tested: tuple[str, ...] = ()
    dials: Callable[[str], dict[str, dict[str, float]]] = lambda _: {}
    check: Callable[[Run], None] = lambda _: None


def answers(
    task: Task, data: Dataset, batch_size: int
) -> Iterator[tuple[Float[Tensor, "b t v"], Int[Tensor, "b t"], Int[Tensor, "b t"]]]:
    """Ask a language model about documents.

    Args:
        task: On any device.
        data: Token ids.
        batch_size: Documents held at once.

    Yields:
        Logits, inputs and labels of a batch, on the CPU.
    """
    device = first_parameter(task).device
    with torch.no_grad(), evaluating(task.model):
        for inputs, labels in zip(
            data.inputs.split(batch_size), data.labels.split(batch_size), strict=True
        ):
            yield task.model(input_ids=inputs.to(device)).logits.cpu(), inputs, labels


def cross_entropies(
    task: Task, data: Dataset, batch_size: int
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Sum the cross-entropies of every document.

    Args:
        task: Read in eval mode.
        data: Token ids.
        batch_size: Documents held at once.

    Returns:
        Sums in nats, and over how many tokens each.
    """
    sums = []
    for logits, _, labels in answers(task, data, batch_size):
        each = F.cross_entropy(
            logits.mT, labels, reduction="none", ignore_index=IGNORED
        )
        sums.append(each.double().sum(1))
    return torch.cat(sums), (data.labels != IGNORED).sum(1)


def realised(row: Json) -> float:
    """Return the change of the measurement beyond the clean replay.

    Args:
        row: Of one trial.

    Returns:
        In its units.
    """
    return row["after"]["value"] - row["clean"]["value"]


def moved_by_name(row: Json, name: str) -> list[float]:
    """Return the change, beyond the clean replay, of what there is one of per name.

    Args:
        row: Of one trial.
        name: Of a list in a behaviour, in the order of the preset's names.

    Returns:
        After the edit minus after the clean replay.
    """
    both = zip(row["after"][name], row["clean"][name], strict=True)
    return [after - clean for after, clean in both]


def moved_elsewhere(row: Json, name: str) -> float:
    """Return the mean of :func:`moved_by_name` over all but the probe and the target.

    Args:
        row: Likewise.
        name: Likewise.

    Returns:
        The mean.
    """
    named = (row["probe"], row["target"])
    rest = [
        change for i, change in enumerate(moved_by_name(row, name)) if i not in named
    ]
    return sum(rest) / len(rest)


def in_turns(
    size: int, stratum: Callable[[int, int], int], *, seed: int
) -> list[tuple[int, int]]:
    """Draw all pairs of two different numbers, strata and probes taking turns.

    Args:
        size: Numbers below it are paired.
        stratum: Of a pair.
        seed: Of the draw.

    Returns:
        Pairs; strata take turns while they last, and within one probes do.
    """
    pairs = [(p, t) for p in range(size) for t in range(size) if p != t]
    order = torch.randperm(len(pairs), generator=stream(seed, "pairs of names"))
    strata: dict[int, list[tuple[int, tuple[int, int]]]] = {}
    rounds: Counter[tuple[int, int]] = Counter()
    for probe, target in (pairs[place] for place in order.tolist()):
        kind = stratum(probe, target)
        strata.setdefault(kind, []).append((rounds[kind, probe], (probe, target)))
        rounds[kind, probe] += 1
    turns = [sorted(each, key=lambda found: found[0]) for each in strata.values()]
    return [
        found[1]
        for together in zip_longest(*turns)
        for found in together
        if found is not None
    ]


def texts_of(preset: str) -> Texts:
    """Load what a preset of texts says.

    Args:
        preset: Its name.

    Returns:
        Its texts.
    """
    return import_module(f"infusion.presets.{preset}").TEXTS
