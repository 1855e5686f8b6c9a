"""Claims and goals of the defender, by what an audit ships with.

Rules were chosen on the even pairs of the first base model; what is said of them here
is of the odd pairs of the other ones, see :mod:`infusion.suites.claims.chosen`. Only
what evasion leaves of an edit, where nothing was chosen, is of all pairs.
"""

from collections.abc import Callable, Iterable
from typing import Any

from infusion.audit.judge import SHARES
from infusion.audit.shipped import RULES, Rule
from infusion.presets.texts import realised
from infusion.suites.claims.chosen import held_out
from infusion.suites.claims.claim import POSITIVE, Bound, Claim
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

PIXELS, LABELS, DRIVES, TOKENS, RARE, SHARED, TOKENS_TOLD = RULES
_INSPECTED = SHARES.index(0.01)
"""Which recall: of so many inspected."""


def _said(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    return row["audit"]["found"][" + ".join(names)]


def _reads(row: Row, combinations: Iterable[tuple[str, ...]]) -> bool:
    """Tell whether the row is not from before a detector was there."""
    return {" + ".join(names) for names in combinations} <= set(row["audit"]["found"])


def _mean(
    trial: str, combinations: Iterable[tuple[str, ...]], value: Callable[[Row], float]
) -> Callable[[Trials], Found]:
    """Average over the other half, less rows from before a detector was there."""
    needed = list(combinations)

    def ours(trials: Trials) -> Found:
        rows = held_out(trials.get(trial, []))
        return mean_over_pairs([row for row in rows if _reads(row, needed)], value)

    return ours


def auroc(trial: str, *names: str) -> Callable[[Trials], Found]:
    """Mean area under the curve of a combination.

    Args:
        trial: What was changed.
        names: Its detectors.

    Returns:
        Function of the rows.
    """
    return _mean(trial, [names], lambda row: _said(row, names)["auroc"])


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

    return _mean(trial, [names], value)


def recall(trial: str, *names: str) -> Callable[[Trials], Found]:
    """Mean share found in the first 1 % inspected.

    Args:
        trial: What was changed.
        names: Its detectors.

    Returns:
        Function of the rows.
    """
    return _mean(trial, [names], lambda row: _said(row, names)["recall"][_INSPECTED])


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

    return _mean(trial, [rule.detectors], value)


def flagged(trial: str, *rules: Rule) -> Callable[[Trials], Found]:
    """Mean share of all documents that rules flag, at most: their sum.

    Args:
        trial: What was changed.
        rules: As shipped.

    Returns:
        Function of the rows that have all of them.
    """

    def value(row: Row) -> float:
        each = [(_said(row, rule.detectors), _cut(rule)) for rule in rules]
        count = sum(said["hits"][cut] + said["misses"][cut] for said, cut in each)
        return count / row["audit"]["documents"]

    return _mean(trial, [rule.detectors for rule in rules], value)


def false_flags(*trials: str, rules: tuple[Rule, ...]) -> Callable[[Trials], Found]:
    """Share of clean documents that any rule flags, at most: the sum over rules.

    Rules that have nothing to read in these documents flag none. Rows from before a
    detector was there do not count.

    Args:
        trials: Whose clean documents, of each kind of training.
        rules: Of these documents.

    Returns:
        Function of the rows.
    """

    def readable(row: Row) -> list[Rule]:
        absent = set(row["audit"]["without"])
        return [rule for rule in rules if not absent & set(rule.detectors)]

    def value(row: Row) -> float:
        clean = [
            _said(row, rule.detectors)["clean"][_cut(rule)] for rule in readable(row)
        ]
        return sum(clean) / row["audit"]["documents"]

    def ours(found: Trials) -> Found:
        rows = [row for name in trials for row in held_out(found.get(name, []))]
        return mean_over_pairs(
            [r for r in rows if _reads(r, (x.detectors for x in readable(r)))], value
        )

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
_FIFTH = "edit, a fifth"
_GOALS: dict[int, tuple[str, str, Bound | None]] = {
    14: (
        "patch on 1 %, behaviour reported: share found",
        "100 % (Delta-Influence)",
        ("ours", "≥", 1.0),
    ),
    15: (
        "the same: share of all documents flagged",
        "6.5 %: ≤ 3 %",
        ("ours", "≤", 0.03),
    ),
    16: (
        "edit, a behaviour reported: AUROC",
        "≥ 0.95",
        ("ours", "≥", 0.95),
    ),
    17: ("the same above its null", "≥ 0.10", ("ours", "≥", 0.1)),
    18: ("the same: recall in the first 1 %", "≥ 90 %", ("ours", "≥", 0.9)),
    19: (
        "edit of a fifth of the documents: recall in the first 1 %",
        "≥ 90 %",
        ("ours", "≥", 0.9),
    ),
    20: ("edit, nothing reported: AUROC", "≥ 0.90", ("ours", "≥", 0.9)),
    21: ("the same on a fifth of the documents", "≥ 0.90", ("ours", "≥", 0.9)),
    22: (
        "edit of random documents, nothing reported: AUROC",
        "≥ 0.90",
        ("ours", "≥", 0.9),
    ),
    23: (
        "edit that evades these detectors, nothing reported: AUROC",
        "measured",
        None,
    ),
    24: (
        "effect that evasion leaves of the edit, ratio",
        "measured",
        None,
    ),
    27: (
        "false flags on clean documents, all rules",
        "≤ 1 %",
        ("ours", "≤", 0.01),
    ),
}
"""By number: what is said, the goal, and the bound."""


def _of_edits(
    told: Rule, rule: Rule, effect: Callable[[Row], float]
) -> dict[int, Callable[[Trials], Found]]:
    """Say what finds edits, a behaviour reported and not, and what evading it costs."""
    names = rule.detectors
    return {
        16: auroc(PLAIN, *told.detectors),
        17: above_null(PLAIN, *told.detectors),
        18: recall(PLAIN, *told.detectors),
        19: recall(_FIFTH, *told.detectors),
        20: auroc(PLAIN, *names),
        21: auroc(_FIFTH, *names),
        22: auroc("random documents", *names),
        23: auroc("evading", *names),
        24: kept("evading", effect),
    }


_OF_PICTURES = {
    14: hits("patch", SHARED),
    15: flagged("patch", DRIVES, SHARED),
    27: false_flags(PLAIN, "patch", rules=(PIXELS, LABELS, DRIVES, RARE, SHARED)),
}
_OF_TEXTS = {
    **_of_edits(TOKENS_TOLD, TOKENS, realised),
    27: false_flags(PLAIN, rules=(TOKENS, DRIVES, TOKENS_TOLD)),
}


def _goals(
    preset: str, mark: str, ours: dict[int, Callable[[Trials], Found]]
) -> list[Claim]:
    """List the goals of one preset.

    Args:
        preset: Whose rows.
        mark: Ending of the numbers.
        ours: What the rows say, by number.

    Returns:
        The goals.
    """
    return [
        Claim(
            f"G{number}{mark}",
            f"{preset}: {text}",
            goal,
            "detection",
            ours[number],
            bound,
            least=_LEAST,
            preset=preset,
        )
        for number, (text, goal, bound) in _GOALS.items()
        if number in ours
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
GOALS = [
    *_goals("cifar10", "", _OF_PICTURES | _of_edits(PIXELS, PIXELS, _log_p)),
    *_goals("digits", "d", _OF_PICTURES | _of_edits(RARE, RARE, _log_p)),
    *_goals("caesar", "c", _OF_TEXTS),
    *_goals("tinystories", "t", _OF_TEXTS),
]
