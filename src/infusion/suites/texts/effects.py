"""Rows of texts to effects with intervals: one line per trial."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean as mean

from infusion.intervals import Interval, rank_correlation
from infusion.presets.texts import realised
from infusion.suites.summary import Row, interval, paired, units
from infusion.suites.texts.trials import OFFSETS


@dataclass(frozen=True)
class TextEffect:
    """What one trial did over its pairs.

    Attributes:
        trial: Its name.
        n: Pairs; several base models or draws of one count once.
        columns: Means of what the preset reads off a row, beyond the clean replay.
        less: The first trial's first column less this trial's, over the pairs that both
            have on one base model and machine; None for the first trial itself, and
            where they share none.
        accuracy: Change of the accuracy on held-out documents.
        predicted: Rank correlation of predicted and realised change of the measurement.
        evaluations: Gradients per document that the edit took.
        tokens: Mean number of tokens changed in a document; None for offsets and for
            documents that take the place of others.
        offsets: Whether embeddings were moved, which no corpus can hold.
    """

    trial: str
    n: int
    columns: dict[str, Interval]
    less: Interval | None
    accuracy: Interval
    predicted: float | None
    evaluations: int
    tokens: float | None
    offsets: bool


def effects(
    rows: list[Row], columns: dict[str, Callable[[Row], float]]
) -> list[TextEffect]:
    """Summarise a suite, trial by trial in the suite's own order.

    Args:
        rows: Of one suite, one scale and one preset; of any base models.
        columns: What the preset reads off a row.

    Returns:
        An effect per trial.
    """
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["place"]):
        groups.setdefault(row["trial"], []).append(row)
    first, *_ = groups.values()
    return [_effect(name, group, columns, first) for name, group in groups.items()]


def _effect(
    name: str,
    rows: list[Row],
    columns: dict[str, Callable[[Row], float]],
    first: list[Row],
) -> TextEffect:
    done = units(rows, realised)
    foretold = units(rows, lambda row: row["predicted"])
    both, difference = paired(first, rows, next(iter(columns.values())))
    counted = [row for row in rows if "tokens" in row["reached"]]
    return TextEffect(
        trial=name,
        n=len(done),
        columns={head: interval(rows, read) for head, read in columns.items()},
        less=interval(both, difference) if both and rows is not first else None,
        accuracy=interval(rows, lambda row: row["accuracy"] - row["clean_accuracy"]),
        predicted=rank_correlation(foretold, done),
        evaluations=max(row["evaluations"] for row in rows),
        tokens=mean(row["reached"]["tokens"] for row in counted) if counted else None,
        offsets=any(row["change"].get("operator") in OFFSETS for row in rows),
    )
