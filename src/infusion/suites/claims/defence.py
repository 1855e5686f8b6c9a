"""Claims and goals of the defender, by what an audit ships with.

Rules were chosen on the even pairs of the first base model; everything said here is of
the odd pairs of the other ones, see :mod:`infusion.suites.claims.chosen`.
"""

from collections.abc import Callable
from typing import Any

from infusion.audit.shipped import RULES, Rule
from infusion.suites.claims.chosen import held_out
from infusion.suites.claims.claim import POSITIVE, Claim
from infusion.suites.claims.found import (
    NOTHING,
    PLAIN,
    Found,
    Trials,
    mean_over_pairs,
    shift,
)
from infusion.suites.detection import CUTS
from infusion.suites.summary import Row

PIXELS, LABELS, DRIVES = RULES
_INSPECTED = 1
"""Which recall: of the first 1 % inspected."""
_INSPECTED_TEN = 3


def _said(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    return row["audit"]["found"][" + ".join(names)]


def _mean(
    trial: str, names: tuple[str, ...], value: Callable[[Row], float]
) -> Callable[[Trials], Found]:
    """Average over the other half, less rows from before a detector was there."""

    def ours(trials: Trials) -> Found:
        rows = held_out(trials.get(trial, []))
        known = [r for r in rows if " + ".join(names) in r["audit"]["found"]]
        return mean_over_pairs(known, value)

    return ours


def auroc(trial: str, *names: str) -> Callable[[Trials], Found]:
    """Mean area under the curve of a combination.

    Args:
        trial: What was changed.
        names: Its detectors.

    Returns:
        Function of the rows.
    """
    return _mean(trial, names, lambda row: _said(row, names)["auroc"])


def above_null(trial: str, *names: str) -> Callable[[Trials], Found]:
    """The same less that on documents nobody changed.

    Args:
        trial: What was changed.
        names: Its detectors.

    Returns:
        Function of the rows.
    """

    def value(row: Row) -> float:
        said = _said(row, names)
        return said["auroc"] - said["null"]

    return _mean(trial, names, value)


def recall(trial: str, *names: str) -> Callable[[Trials], Found]:
    """Mean share found in the first 1 % inspected.

    Args:
        trial: What was changed.
        names: Its detectors.

    Returns:
        Function of the rows.
    """
    return _mean(trial, names, lambda row: _said(row, names)["recall"][_INSPECTED])


def beyond(trial: str, names: tuple[str, ...], other: str) -> Callable[[Trials], Found]:
    """Mean share found in the first 10 % inspected, less another detector's.

    Args:
        trial: What was changed.
        names: Detectors of a combination.
        other: Another one.

    Returns:
        Function of the rows.
    """

    def value(row: Row) -> float:
        ours, theirs = _said(row, names), _said(row, (other,))
        return ours["recall"][_INSPECTED_TEN] - theirs["recall"][_INSPECTED_TEN]

    return _mean(trial, names, value)


def _cut(rule: Rule) -> int:
    return CUTS.index(rule.threshold)


def hits(trial: str, rule: Rule) -> Callable[[Trials], Found]:
    """Mean share of the changed documents that a rule flags.

    Args:
        trial: What was changed.
        rule: As shipped.

    Returns:
        Function of the rows.
    """

    def value(row: Row) -> float:
        found = _said(row, rule.detectors)["hits"][_cut(rule)]
        return found / row["audit"]["edited"]

    return _mean(trial, rule.detectors, value)


def flagged(trial: str, rule: Rule) -> Callable[[Trials], Found]:
    """Mean share of all documents that a rule flags.

    Args:
        trial: What was changed.
        rule: As shipped.

    Returns:
        Function of the rows.
    """

    def value(row: Row) -> float:
        said = _said(row, rule.detectors)
        count = said["hits"][_cut(rule)] + said["misses"][_cut(rule)]
        return count / row["audit"]["documents"]

    return _mean(trial, rule.detectors, value)


def false_flags(*trials: str) -> Callable[[Trials], Found]:
    """Share of clean documents that any rule flags, at most: the sum over rules.

    Args:
        trials: Whose clean documents, of each kind of training.

    Returns:
        Function of the rows.
    """

    def value(row: Row) -> float:
        clean = [_said(row, rule.detectors)["clean"][_cut(rule)] for rule in RULES]
        return sum(clean) / row["audit"]["documents"]

    def ours(found: Trials) -> Found:
        rows = [row for name in trials for row in held_out(found.get(name, []))]
        asked = {" + ".join(rule.detectors) for rule in RULES}
        known = [row for row in rows if asked <= set(row["audit"]["found"])]
        return mean_over_pairs(known, value)

    return ours


def kept(trial: str, by: Callable[[Row], float]) -> Callable[[Trials], Found]:
    """What is left of the plain edit's effect, a ratio of means over the same pairs.

    Args:
        trial: An adaptive edit.
        by: Effect of a row.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        rows = trials.get(trial, []), trials.get(PLAIN, [])
        there = [{(r["seed"], r["pair"]) for r in each} for each in rows]
        both = there[0] & there[1]
        means = [
            mean_over_pairs([r for r in each if (r["seed"], r["pair"]) in both], by)
            for each in rows
        ]
        if means[0][0] is None or not means[1][0]:
            return NOTHING
        return means[0][0] / means[1][0], None, None, means[0][3]

    return ours


def _log_p(row: Row) -> float:
    return row["after"]["log_p"] - row["clean"]["log_p"]


_LEAST = 5
"""Pairs of probe and target; each has two base models."""


def _claims(preset: str, mark: str) -> list[Claim]:
    """List the goals of one preset.

    Args:
        preset: Whose rows.
        mark: Ending of the numbers.

    Returns:
        The goals.
    """

    def goal(
        number: int,
        text: str,
        paper: str,
        ours: Callable[[Trials], Found],
        bound: tuple,
    ) -> Claim:
        return Claim(
            f"G{number}{mark}",
            f"{preset}: {text}",
            paper,
            "detection",
            ours,
            bound,  # pyright: ignore[reportArgumentType]
            least=_LEAST,
            preset=preset,
        )

    fifth = "edit, a fifth"
    return [
        goal(
            14,
            "patch on 1 %, behaviour reported: share found",
            "100 % (Delta-Influence)",
            hits("patch", DRIVES),
            ("ours", "≥", 1.0),
        ),
        goal(
            15,
            "the same: share of all documents flagged",
            "6.5 %: ≤ 3 %",
            flagged("patch", DRIVES),
            ("ours", "≤", 0.03),
        ),
        goal(
            16,
            "edit of 1 %, a behaviour reported or not: AUROC",
            "≥ 0.95",
            auroc(PLAIN, *PIXELS.detectors),
            ("ours", "≥", 0.95),
        ),
        goal(
            17,
            "the same above its null",
            "≥ 0.10",
            above_null(PLAIN, *PIXELS.detectors),
            ("ours", "≥", 0.1),
        ),
        goal(
            18,
            "the same: recall in the first 1 %",
            "≥ 90 %",
            recall(PLAIN, *PIXELS.detectors),
            ("ours", "≥", 0.9),
        ),
        goal(
            19,
            "edit of 0.2 %: recall in the first 1 %",
            "≥ 90 %",
            recall(fifth, *PIXELS.detectors),
            ("ours", "≥", 0.9),
        ),
        goal(
            20,
            "edit of 1 %, nothing reported: AUROC",
            "≥ 0.90",
            auroc(PLAIN, *PIXELS.detectors),
            ("ours", "≥", 0.9),
        ),
        goal(
            21,
            "the same on a fifth of the documents",
            "≥ 0.90",
            auroc(fifth, *PIXELS.detectors),
            ("ours", "≥", 0.9),
        ),
        goal(
            22,
            "edit of random documents, nothing reported: AUROC",
            "≥ 0.90",
            auroc("random documents", *PIXELS.detectors),
            ("ours", "≥", 0.9),
        ),
        goal(
            23,
            "edit that evades these detectors, nothing reported: AUROC",
            "≥ 0.90",
            auroc("evading", *PIXELS.detectors),
            ("ours", "≥", 0.9),
        ),
        goal(
            24,
            "Δ log p that evasion leaves of the edit, ratio",
            "measured",
            kept("evading", _log_p),
            ("ours", "≤", 1.0),
        ),
        goal(
            25,
            "flips of 10 %: recall in the first 10 %, less self-confidence's",
            "cleanlab: ≥ 0",
            beyond("label flips", LABELS.detectors, "loss"),
            ("ours", "≥", 0.0),
        ),
        goal(
            26,
            "the same, less self-influence's",
            "kronfluence: ≥ 0",
            beyond("label flips", LABELS.detectors, "self-influence"),
            ("ours", "≥", 0.0),
        ),
        goal(
            27,
            "false flags on clean documents, all rules",
            "≤ 1 %",
            false_flags(PLAIN, "patch"),
            ("ours", "≤", 0.01),
        ),
    ]


CLAIMS = [
    Claim(
        "27",
        "edits are hard to detect: AUROC where nothing is reported",
        "untested",
        "detection",
        auroc(PLAIN, *PIXELS.detectors),
        ("high", "<", 0.9),
        least=_LEAST,
    ),
    Claim(
        "28",
        "outlying influence gives edits away: AUROC above its null",
        "untested",
        "detection",
        above_null(PLAIN, "influence on the behaviour"),
        POSITIVE,
        least=_LEAST,
    ),
    Claim(
        "29",
        "edits survive further training: five clean epochs, Δp",
        "untested",
        "horizon",
        shift("5 clean epochs after"),
        POSITIVE,
    ),
]
GOALS = [*_claims("cifar10", ""), *_claims("digits", "d")]
