"""What the rows of a suite say: a value, its 95 % interval, and over how many pairs.

Every function here returns a function of the rows by trial, or is one.
"""

import math
from collections import defaultdict
from collections.abc import Callable

from infusion.measure import bootstrap_mean, rank_correlation
from infusion.suites.summary import Row, change, flips, share

Found = tuple[float | None, float | None, float | None, int]
"""Value, ends of its 95 % interval, pairs."""
Trials = dict[str, list[Row]]
PLAIN, CODED = "edit", "as coded"
_STRONG = 0.1
"""Δp that counts as an effect on a pair of classes."""


def _mean(values: list[float]) -> Found:
    if not values:
        return None, None, None, 0
    found = bootstrap_mean(values, seed=0)
    return found.mean, found.low, found.high, len(values)


def _shared(hits: list[bool]) -> Found:
    if not hits:
        return None, None, None, 0
    found = share(sum(hits), len(hits))
    return found["mean"], found["low"], found["high"], found["n"]


def shift(trial: str, name: str = "p") -> Callable[[Trials], Found]:
    """Mean change of a trial, beyond the clean replay.

    Args:
        trial: Its name.
        name: ``"p"``, ``"log_p"`` or ``"log_odds"``.

    Returns:
        Function of the rows.
    """
    return lambda trials: _mean([change(row, name) for row in trials.get(trial, [])])


def flipped(*prefixes: str) -> Callable[[Trials], Found]:
    """Share of pairs whose target became top-1, over trials.

    Args:
        prefixes: How their names begin.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        found = flips(_matching(trials, *prefixes))
        if found is None:
            return None, None, None, 0
        return found["mean"], found["low"], found["high"], found["n"]

    return ours


def _matching(trials: Trials, *prefixes: str) -> list[Row]:
    return [row for name in trials if name.startswith(prefixes) for row in trials[name]]


def _per_pair(rows: list[Row], name: str = "p") -> dict[tuple[int, int], float]:
    """Average a change over the draws of each pair of each base model."""
    groups: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        groups[row["seed"], row["pair"]].append(change(row, name))
    return {key: sum(values) / len(values) for key, values in groups.items()}


def over_draws(*prefixes: str) -> Callable[[Trials], Found]:
    """Mean Δp over pairs, each averaged over its draws.

    Args:
        prefixes: How the names of the trials begin.

    Returns:
        Function of the rows.
    """
    return lambda trials: _mean(list(_per_pair(_matching(trials, *prefixes)).values()))


def lead(one: str, other: str) -> Callable[[Trials], Found]:
    """Paired difference of two trials in Δp.

    Args:
        one: Name of a trial.
        other: Of another.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        mine, theirs = (_per_pair(trials.get(name, [])) for name in (one, other))
        return _mean([mine[key] - theirs[key] for key in mine if key in theirs])

    return ours


def rises(trials: Trials) -> Found:
    """Share of pairs, as coded, whose target became likelier."""
    return _shared([change(row, "p") > 0 for row in trials.get(CODED, [])])


def true_class(trials: Trials) -> Found:
    """Mean change of the true class' probability, as coded."""
    return _mean(
        [
            row["after"]["probabilities"][row["label"]]
            - row["clean"]["probabilities"][row["label"]]
            for row in trials.get(CODED, [])
        ]
    )


def worth(trials: Trials) -> Found:
    """Copies that an edit is worth: the most whose mean Δp it reaches, 0 if none."""
    mean, low, high, n = shift(PLAIN)(trials)
    counts = {
        int(name.split()[0]): shift(name)(trials)[0]
        for name in trials
        if name.endswith("copies")
    }

    def reached(end: float | None) -> float | None:
        if end is None:
            return None
        fewer = [m for m, p in counts.items() if p is not None and p <= end]
        return float(max(fewer, default=0))

    return reached(mean), reached(low), reached(high), n


def best_selection(trials: Trials) -> Found:
    """Lead of the most supporting documents over the next best choice."""
    others = [name for name in trials if name not in ("supporting", "gain")]
    means = {name: _mean([change(r, "p") for r in trials[name]])[0] for name in others}
    known = {name: value for name, value in means.items() if value is not None}
    if not known:
        return None, None, None, 0
    return lead("supporting", max(known, key=lambda name: known[name]))(trials)


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
        found = rank_correlation(
            [left(r) for r in rows], [change(r, name) for r in rows]
        )
        if found is None:
            return None, None, None, len(rows)
        low, high = _fisher(found, len(rows))
        return found, low, high, len(rows)

    return ours


def _fisher(correlation: float, n: int) -> tuple[float | None, float | None]:
    """Return Fisher's 95 % interval of a rank correlation, with Fieller's variance."""
    if n <= 3 or abs(correlation) >= 1:
        return None, None
    centre, width = math.atanh(correlation), 1.96 * math.sqrt(1.06 / (n - 3))
    return math.tanh(centre - width), math.tanh(centre + width)


def alike(trials: Trials) -> Found:
    """Mean structural similarity of the edited documents."""
    return _mean([row["reached"]["ssim"] for row in trials.get(PLAIN, [])])


def _cells(trials: Trials, *names: str) -> dict[tuple[str, int, int], float]:
    best: dict[tuple[str, int, int], float] = {}
    for name in names:
        for row in trials.get(name, []):
            key = name, row["label"], row["target"]
            best[key] = max(best.get(key, -1.0), change(row, "p"))
    return best


def largest_cell(trials: Trials) -> Found:
    """Largest Δp of a pair of classes under transfer."""
    cells = list(_cells(trials, "resnet → cnn", "cnn → resnet").values())
    if not cells:
        return None, None, None, 0
    return max(cells), None, None, len(cells)


def strong_cells(trials: Trials) -> Found:
    """Share of pairs of classes with an effect, same architecture."""
    cells = _cells(trials, "resnet → resnet")
    return _shared([value >= _STRONG for value in cells.values()])


def accuracy_lost(trials: Trials) -> Found:
    """Mean test accuracy lost, in points."""
    rows = trials.get(PLAIN, [])
    return _mean([100 * (row["clean_accuracy"] - row["accuracy"]) for row in rows])
