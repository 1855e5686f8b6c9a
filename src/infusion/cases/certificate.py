"""What a certificate says of a retrained model, next to models that saw no edit."""

import math
from dataclasses import dataclass

import numpy as np

from infusion.audit.findings import Finding, Outcome
from infusion.cases.truth import Truth
from infusion.cases.undo import Undone

_ROUNDING = 1e-7
"""Of a log probability in float32."""
COVERAGE = 0.95
"""Share of further clean seeds that a band is to hold."""
COST, LARGE = 0.003, 0.01
"""Accuracy that an undo may cost, and that is a failure."""


@dataclass(frozen=True)
class Reading:
    """What a model does.

    Attributes:
        log_p: Of the unwanted class on the affected input, in nats.
        predicted: Class of the affected input.
        accuracy: On clean test documents, a share.
    """

    log_p: float
    predicted: int
    accuracy: float

    @property
    def log_odds(self) -> float:
        """Of the unwanted class, in nats: unlike ``log_p`` it has no upper end."""
        return self.log_p - math.log(-math.expm1(min(self.log_p, -_ROUNDING)))


def band(values: list[float]) -> tuple[float, float]:
    """Interval that one more value of the same normal lies in: Student's t.

    Args:
        values: Three or more.

    Returns:
        Its ends.
    """
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf((1 + COVERAGE) / 2, count - 1)) * float(np.std(values, ddof=1))
    half *= (1 + 1 / count) ** 0.5
    return float(np.mean(values)) - half, float(np.mean(values)) + half


_NOBODY = "needs clean documents to train clean seeds on, got no --truth"


def on_manifest(truth: Truth | None) -> Finding:
    """C001: an edit manifest that was read has been checked.

    Args:
        truth: Manifest and originals, None where nobody has them.

    Returns:
        Passed, or not applicable.
    """
    title = "manifest agrees with the rows"
    if truth is None:
        return Finding("C001", title, "not applicable", "got no manifest")
    count = len(truth.manifest)
    return Finding(
        "C001", title, "pass", f"hashes, labels and distances of {count} rows derived"
    )


def on_rows(truth: Truth | None, found: Undone) -> Finding:
    """C002: whether the undo left an edited row.

    Args:
        truth: As for :func:`on_manifest`.
        found: What the undo did.

    Returns:
        Failed where one is left.
    """
    title = "no edited row is left"
    facts = found.facts
    said = ", ".join(f"{count} {name}" for name, count in facts.items())
    if truth is None:
        return Finding("C002", title, "not applicable", f"{said}; got no manifest")
    return Finding("C002", title, "fail" if found.missed else "pass", said)


def behaviour_band(replay: Reading | None, clean: list[Reading]) -> tuple[float, float]:
    """Interval of the log odds of the unwanted class that no edit explains.

    The last epoch in another order moves a model, and where every epoch had one order
    it moves all models to one side; so a replay in the same order is the middle, and
    clean seeds say how far from it another order leads.

    Args:
        replay: The clean rows in the same order; None where there are fewer rows now,
            in an order as new to the model as those of clean seeds.
        clean: Clean seeds, three or more.

    Returns:
        Its ends, in nats: of :func:`band`, moved to the replay where there is one.
    """
    low, high = band([each.log_odds for each in clean])
    moved = 0.0 if replay is None else replay.log_odds - (low + high) / 2
    return low + moved, high + moved


def on_behaviour(
    given: Reading, after: Reading, replay: Reading | None, clean: list[Reading]
) -> Finding:
    """C003: whether the unwanted class is as likely as in models that saw no edit.

    Args:
        given: The model as it was handed over.
        after: What was retrained.
        replay: As for :func:`behaviour_band`.
        clean: Clean seeds.

    Returns:
        Failed where it is likelier than their band, a warning where it is less likely:
        the unwanted behaviour is gone, and the model is still not a usual one.
    """
    title = "behaviour is back among clean models"
    if not clean:
        return Finding("C003", title, "not applicable", _NOBODY)
    low, high = behaviour_band(replay, clean)
    outcome: Outcome = "fail" if after.log_odds > high else "pass"
    if after.log_odds < low:
        outcome = "warn"
    seeds = f"{len(clean)} clean seeds"
    if replay is None:
        said = f"by {seeds} a further one lies in {low:+.2f} to {high:+.2f}, 95 of 100"
    else:
        said = (
            f"{replay.log_odds:+.2f} for the clean rows in the same order, and "
            f"{low:+.2f} to {high:+.2f} is no further from that than {seeds} differ"
        )
    return Finding(
        "C003",
        title,
        outcome,
        f"log odds of the unwanted class {after.log_odds:+.2f}, {given.log_odds:+.2f} "
        f"as given; {said}",
    )


def on_prediction(
    after: Reading, clean: list[Reading], target: int, names: tuple[str, ...]
) -> Finding:
    """C004: whether the affected input is still taken for the unwanted class.

    Args:
        after: What was retrained.
        clean: Clean seeds.
        target: The class.
        names: Of the classes.

    Returns:
        Failed where it is, a warning where a clean seed takes it for that too; without
        clean seeds never passed.
    """
    also = sum(each.predicted == target for each in clean)
    outcome: Outcome = "pass" if clean else "not applicable"
    if after.predicted == target:
        outcome = "warn" if also else "fail"
    return Finding(
        "C004",
        "affected input is not taken for the unwanted class",
        outcome,
        f"predicted {names[after.predicted]}; {also} of {len(clean)} clean seeds "
        f"predict {names[target]}",
    )


def on_cost(after: Reading, replay: Reading | None, clean: list[Reading]) -> Finding:
    """C005: what the undo cost of the clean accuracy.

    Args:
        after: What was retrained.
        replay: The clean rows in the same order; None where there are fewer rows now,
            so that there is no such order, and clean seeds are compared with.
        clean: Clean seeds.

    Returns:
        A warning beyond :data:`COST`, failed beyond :data:`LARGE`.
    """
    title, said = "clean accuracy", f"{after.accuracy:.2%}, "
    if not clean:
        return Finding("C005", title, "not applicable", said + _NOBODY)
    known = [each.accuracy for each in clean]
    low, high = band(known)
    reference = replay or Reading(0.0, 0, float(np.mean(known)))
    cost = round(reference.accuracy - after.accuracy, 9)  # of whole documents
    by_chance = replay is None and after.accuracy >= low
    outcome: Outcome = "pass" if cost <= COST or by_chance else "warn"
    if outcome == "warn" and cost > LARGE:
        outcome = "fail"
    against = "clean rows in the same order" if replay else "the mean of clean seeds"
    return Finding(
        "C005",
        title,
        outcome,
        f"{said}{100 * cost:+.2f} points below {against}; a further clean seed lies "
        f"in {low:.2%} to {high:.2%}",
    )
