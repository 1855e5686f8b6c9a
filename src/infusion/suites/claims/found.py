"""What the rows of a suite say: a value, its 95 % interval, and over how many pairs.

Every function here returns a function of the rows by trial, or is one.
"""

from collections.abc import Callable

import numpy as np

from infusion.intervals import (
    bootstrap_mean,
    fisher_interval,
    rank_correlation,
    resamples,
    share,
)
from infusion.suites.summary import (
    Row,
    by_pair,
    flips,
    interval,
    moved,
    paired,
    units,
)

Found = tuple[float | None, float | None, float | None, int]
"""Value, ends of its 95 % interval, and of how many pairs, or prompts, or presets."""
NOTHING: Found = (None, None, None, 0)
Trials = dict[str, list[Row]]
PLAIN, CODED = "edit", "as coded"
RIVALS = ("opposing", "absolute", "random", "last")
"""The paper's other choices of documents."""
_STRONG = 0.1
"""Δp that counts as an effect on a pair of classes."""


def mean_over_pairs(rows: list[Row], value: Callable[[Row], float]) -> Found:
    """Mean over pairs of probe and target.

    Args:
        rows: Of one trial, or of several that differ in their draws.
        value: Of a row.

    Returns:
        The mean over pairs and its interval, the bootstrap's over probes.
    """
    if not rows:
        return NOTHING
    found = interval(rows, value)
    return found.mean, found.low, found.high, len(units(rows, value))


def share_of(hits: list[bool]) -> Found:
    """Share of hits with Wilson's interval.

    Args:
        hits: One per pair.

    Returns:
        The share; nothing without pairs.
    """
    if not hits:
        return NOTHING
    found = share(sum(hits), len(hits))
    return found["mean"], found["low"], found["high"], len(hits)


def shift(*prefixes: str) -> Callable[[Trials], Found]:
    """Mean Δp over pairs, beyond the clean replay.

    Args:
        prefixes: How the names of the trials begin; those of several draws average.

    Returns:
        Function of the rows.
    """
    return lambda trials: mean_over_pairs(_matching(trials, *prefixes), moved)


def flipped(*prefixes: str) -> Callable[[Trials], Found]:
    """Share of pairs whose target became top-1.

    Args:
        prefixes: How the names of the trials begin; those of several draws average.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        found = flips(_matching(trials, *prefixes))
        if found is None:
            return NOTHING
        return found["mean"], found["low"], found["high"], found["n"]

    return ours


def _matching(trials: Trials, *prefixes: str) -> list[Row]:
    return [row for name in trials if name.startswith(prefixes) for row in trials[name]]


def lead(one: str, other: str, *, across: bool = False) -> Callable[[Trials], Found]:
    """Paired difference of two trials in Δp: same base model, machine and pair.

    Args:
        one: Name of a trial.
        other: Of another.
        across: Whether the trials retrain different architectures, so that only the
            seed and the pair can be the same.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        rows = trials.get(one, []), trials.get(other, [])
        return mean_over_pairs(*paired(*rows, moved, across=across))

    return ours


def rises(trials: Trials) -> Found:
    """Share of pairs whose target became likelier, as coded, in all of their runs."""
    rows = trials.get(CODED, [])
    return share_of([least > 0 for least in by_pair(rows, moved, reduce=min).values()])


def true_class(trials: Trials) -> Found:
    """Mean change of the true class' probability, as coded."""

    def fall(row: Row) -> float:
        after, clean = row["after"]["probabilities"], row["clean"]["probabilities"]
        return after[row["label"]] - clean[row["label"]]

    return mean_over_pairs(trials.get(CODED, []), fall)


def worth(trials: Trials) -> Found:
    """Copies that an edit is worth: the most whose mean Δp it reaches, 0 if none.

    Args:
        trials: Rows; those pairs count that have one of the edit and of every number.

    Returns:
        The number, and those that the ends of the edit's interval reach.
    """
    counts = [name for name in trials if name.endswith("copies")]
    shared = _shared_pairs(trials, [PLAIN, *counts])
    if not counts or not len(shared):
        return NOTHING
    edits = bootstrap_mean(shared[:, 0].tolist(), seed=0)
    means = dict(
        zip(
            (int(name.split()[0]) for name in counts),
            shared[:, 1:].mean(0),
            strict=True,
        )
    )

    def reached(end: float | None) -> float | None:
        if end is None:
            return None
        return float(max((m for m, p in means.items() if p <= end), default=0))

    low, high = reached(edits.low), reached(edits.high)
    return reached(edits.mean), low, high, len(shared)


def best_selection(trials: Trials) -> Found:
    """Lead of the most supporting documents over the best other choice of the paper.

    Args:
        trials: Rows; those pairs count that have one of every choice.

    Returns:
        The lead; which other is best is found anew in every resample of the bootstrap.
    """
    shared = _shared_pairs(trials, ["supporting", *RIVALS])
    if not len(shared):
        return NOTHING

    def leads(means: np.ndarray) -> np.ndarray:
        return means[:, 0] - means[:, 1:].max(1)

    value = float(leads(shared.mean(0, keepdims=True))[0])
    if len(shared) == 1:
        return value, None, None, 1
    drawn = leads(shared[resamples(len(shared), seed=0)].mean(1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return value, float(low), float(high), len(shared)


def _shared_pairs(trials: Trials, names: list[str]) -> np.ndarray:
    """Return Δp ``[pairs, trials]`` of the pairs that have rows of all these trials."""
    each = [by_pair(trials.get(name, []), moved) for name in names]
    pairs = sorted(set.intersection(*(set(found) for found in each)))
    return np.array([[found[pair] for found in each] for pair in pairs])


def correlation(left: Callable[[Row], float], name: str) -> Callable[[Trials], Found]:
    """Rank correlation over pairs with the realised change.

    Args:
        left: Of a row.
        name: Of the change.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        rows = trials.get(PLAIN, [])
        lefts, rights = units(rows, left), units(rows, lambda row: moved(row, name))
        found = rank_correlation(lefts, rights)
        if found is None:
            return None, None, None, len(lefts)
        return found, *fisher_interval(found, len(lefts)), len(lefts)

    return ours


def alike(trials: Trials) -> Found:
    """Mean structural similarity of the edited documents."""
    return mean_over_pairs(trials.get(PLAIN, []), lambda row: row["reached"]["ssim"])


def _cells(trials: Trials, *names: str) -> dict[tuple[str, int, int], float]:
    """Largest Δp of every pair of classes, as the paper's heatmaps show it."""
    best: dict[tuple[str, int, int], float] = {}
    for name in names:
        for row in trials.get(name, []):
            key = name, row["label"], row["target"]
            best[key] = max(best.get(key, -1.0), moved(row))
    return best


def largest_cell(trials: Trials) -> Found:
    """Largest Δp of a pair of classes under transfer."""
    cells = list(_cells(trials, "resnet → cnn", "cnn → resnet").values())
    if not cells:
        return NOTHING
    return max(cells), None, None, len(cells)


def strong_cells(trials: Trials) -> Found:
    """Share of pairs of classes with an effect, same architecture."""
    cells = _cells(trials, "resnet → resnet")
    return share_of([value >= _STRONG for value in cells.values()])


def accuracy_lost(trials: Trials) -> Found:
    """Mean test accuracy lost, in points."""
    lost = lambda row: 100 * (row["clean_accuracy"] - row["accuracy"])  # noqa: E731
    return mean_over_pairs(trials.get(PLAIN, []), lost)


def times(one: str, other: str) -> Callable[[Trials], Found]:
    """Mean Δ log p of some trials over that of others, on the same pairs.

    Args:
        one: How the names of the trials begin; those of several draws average.
        other: Likewise.

    Returns:
        Function of the rows; the interval is the bootstrap's over pairs, and there is
        no value where the denominator's own interval reaches 0.
    """

    def ours(trials: Trials) -> Found:
        sides = [
            by_pair(_matching(trials, name), lambda row: moved(row, "log_p"))
            for name in (one, other)
        ]
        shared = sorted(set(sides[0]) & set(sides[1]))
        if not shared:
            return NOTHING
        pairs = np.array([[side[pair] for side in sides] for pair in shared])
        lowest = bootstrap_mean(pairs[:, 1].tolist(), seed=0).low
        if lowest is None or lowest <= 0:
            return None, None, None, len(shared)
        value = float(pairs[:, 0].mean() / pairs[:, 1].mean())
        means = pairs[resamples(len(shared), seed=0)].mean(1)
        low, high = np.percentile(means[:, 0] / means[:, 1], [2.5, 97.5])
        return value, float(low), float(high), len(shared)

    return ours
