"""What the rows of text suites say: values with 95 % intervals, as in ``found``."""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from infusion.intervals import bootstrap, ends, rank_correlation, resamples, wilson
from infusion.presets.texts import moved_by_name, realised
from infusion.suites.claims.found import (
    NOTHING,
    PLAIN,
    Found,
    Trials,
    mean_over_pairs,
)
from infusion.suites.claims.strata import (
    by_factor,
    weighted_correlation,
    weighted_mean,
)
from infusion.suites.summary import Row, by_pair

_FEWEST = 3
"""Pairs or prompts that a correlation or a matrix needs."""
_JUDGED = 12
"""Pairs without which a preset does not count as measured."""


def mean_of(
    value: Callable[[Row], float], trial: str = PLAIN
) -> Callable[[Trials], Found]:
    """Mean over pairs of what a preset reads off a row.

    Args:
        value: One of its columns.
        trial: Whose rows.

    Returns:
        Function of the rows.
    """
    return lambda trials: mean_over_pairs(trials.get(trial, []), value)


def rising(value: Callable[[Row], float]) -> Callable[[Trials], Found]:
    """Share of pairs on which a reading of the edit rises.

    Args:
        value: One of its columns.

    Returns:
        Function of the rows; Wilson's interval for as many trials as there are probes.
    """

    def ours(trials: Trials) -> Found:
        means = by_pair(trials.get(PLAIN, []), value)
        if not means:
            return NOTHING
        share = sum(mean > 0 for mean in means.values()) / len(means)
        low, high = wilson(share, len({probe for probe, _ in means}))
        return share, low, high, len(means)

    return ours


def target_leads(trial: str) -> Callable[[Trials], Found]:
    """Margin shift of the target less that of the shift that gains most beside it.

    Args:
        trial: Whose rows.

    Returns:
        Function of the rows.
    """

    def lead(row: Row) -> float:
        gains = [-change for change in moved_by_name(row, "ce")]
        named = (row["probe"], row["target"])
        others = [gain for shift, gain in enumerate(gains) if shift not in named]
        return gains[row["target"]] - max(others)

    return mean_of(lead, trial)


def circulant(trials: Trials) -> Found:
    """Share of the variance of cross-entropies that the difference of shifts explains.

    Args:
        trials: Rows of the edit; of their clean replays the cross-entropy of every
            shift but the one that the prompt names, a line per prompt.

    Returns:
        Adjusted for degrees of freedom, so that noise has 0; the mean over base models.
        The interval is the jackknife's over prompts, and n counts those. Nothing where
        all cross-entropies are alike.
    """
    models: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for row in trials.get(PLAIN, []):
        models[row["base_sha256"]][row["probe"]] = row["clean"]["ce"]
    found = [
        np.array([[*ce[p + 1 :], *ce[:p]] for p, ce in sorted(lines.items())])
        for lines in models.values()
    ]
    count = sum(map(len, found))
    if not found or any(len(x) < _FEWEST or np.ptp(x) == 0 for x in found):
        return None, None, None, count
    shares = [_explained(lines) for lines in found]
    errors = [_jackknife(lines) for lines in found]
    value = float(np.mean(shares))
    spread = 1.96 * math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return value, value - spread, value + spread, count


def _explained(lines: NDArray[np.float64]) -> float:
    """Return the adjusted share of the variance that the columns' means explain."""
    height, width = lines.shape
    within = ((lines - lines.mean(0)) ** 2).sum() / ((height - 1) * width)
    whole = ((lines - lines.mean()) ** 2).sum() / (height * width - 1)
    return float(1 - within / whole)


def _jackknife(lines: NDArray[np.float64]) -> float:
    """Return the standard error of the share, from leaving out one prompt at a time."""
    count = len(lines)
    without = np.array([_explained(np.delete(lines, i, 0)) for i in range(count)])
    return math.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())


def sharing_gap(
    size: int, value: Callable[[Row], float], trial: str
) -> Callable[[Trials], Found]:
    """Mean over pairs whose difference shares a factor with the alphabet, less others.

    Args:
        size: Letters.
        value: Of a row.
        trial: Whose rows.

    Returns:
        Function of the rows; every greatest common divisor counts as often as among all
        pairs.
    """

    def ours(trials: Trials) -> Found:
        pairs = by_factor(trials.get(trial, []), size, value)
        if not pairs.complete:
            return None, None, None, pairs.count
        sharing = pairs.kinds > 1

        def gap(
            values: NDArray[np.float64], weights: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            means = [
                weights[:, own] @ values[own, 0] / weights[:, own].sum(1)
                for own in (sharing, ~sharing)
            ]
            return means[0] - means[1]

        return _with_ends(*pairs.estimate(gap, seed=0), pairs.count)

    return ours


def above(
    other: str, sizes: tuple[int, int], value: Callable[[Row], float], trial: str
) -> Callable[[Trials], Found]:
    """Mean over the pairs of one alphabet less that over the pairs of another.

    Args:
        other: The other alphabet's preset.
        sizes: Letters of both.
        value: Of a row.
        trial: Whose rows.

    Returns:
        Function of the rows of both; every greatest common divisor counts as often as
        among all pairs.
    """

    def ours(trials: Trials) -> Found:
        names = (trial, f"{other}: {trial}")
        own, others = (
            by_factor(trials.get(name, []), size, value)
            for name, size in zip(names, sizes, strict=True)
        )
        count = own.count + others.count
        if not (own.complete and others.complete):
            return None, None, None, count
        mine, drawn = own.estimate(weighted_mean, seed=0)
        theirs, also = others.estimate(weighted_mean, seed=100)
        return _with_ends(mine - theirs, drawn - also, count)

    return ours


def probe_gap(
    size: int, value: Callable[[Row], float], trial: str
) -> Callable[[Trials], Found]:
    """Mean over probes that share a factor with the alphabet, less that over others.

    Args:
        size: Letters; 0 shares all of them.
        value: Of a row.
        trial: Whose rows.

    Returns:
        Function of the rows. A probe's own mean counts every greatest common divisor of
        its pairs as often as there is; n counts probes with pairs of each.
    """

    def ours(trials: Trials) -> Found:
        rows = trials.get(trial, [])
        sides: tuple[list[float], list[float]] = [], []
        for probe in sorted({row["probe"] for row in rows}):
            own = by_factor([r for r in rows if r["probe"] == probe], size, value)
            if set(own.kinds.tolist()) == own.sizes.keys():
                mean = own.value(weighted_mean)
                sides[math.gcd(probe, size) == 1].append(mean)
        count = sum(map(len, sides))
        if min(map(len, sides)) < 2:
            return None, None, None, count
        means = [
            np.array(each)[resamples(len(each), seed=place)].mean(1)
            for place, each in enumerate(sides)
        ]
        low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
        value_found = float(np.mean(sides[0]) - np.mean(sides[1]))
        return value_found, float(low), float(high), count

    return ours


def half_done(size: int, trial: str) -> Callable[[Trials], Found]:
    """Pearson's correlation of the target's cross-entropy before with its change.

    Args:
        size: Letters of the alphabet.
        trial: Whose rows.

    Returns:
        Function of the rows; every greatest common divisor counts as often as among all
        pairs. Nothing where one of both is constant.
    """

    def before(row: Row) -> float:
        return row["clean"]["ce"][row["target"]]

    def change(row: Row) -> float:
        return moved_by_name(row, "ce")[row["target"]]

    def ours(trials: Trials) -> Found:
        pairs = by_factor(trials.get(trial, []), size, before, change)
        if not pairs.complete or pairs.count < _FEWEST:
            return None, None, None, pairs.count
        value, drawn = pairs.estimate(weighted_correlation, seed=0)
        return _with_ends(value, drawn, pairs.count)

    return ours


def _with_ends(value: float, drawn: NDArray[np.float64], count: int) -> Found:
    """Give a value the ends of its draws, where it is defined."""
    if not math.isfinite(value):
        return None, None, None, count
    return value, *ends(drawn), count


def kinds_moved(
    columns: dict[str, Callable[[Row], float]],
) -> Callable[[Trials], Found]:
    """Count the presets whose edit raises their measurement, interval above 0.

    Args:
        columns: The measurement's change by ``"PRESET: edit"``, or by ``"edit"``.

    Returns:
        Function of the rows; n counts the presets that have twelve pairs.
    """

    def ours(trials: Trials) -> Found:
        found = [
            mean_over_pairs(trials.get(name, []), each)
            for name, each in columns.items()
        ]
        lows = [low for _, low, _, count in found if count >= _JUDGED]
        if not lows:
            return NOTHING
        moves = sum(low is not None and low > 0 for low in lows)
        return float(moves), None, None, len(lows)

    return ours


def fidelity_lost(narrow: str, wide: str) -> Callable[[Trials], Found]:
    """Rank correlation of predicted and realised change, narrow less wide models.

    With widths twofold apart this is twice the least squares' fall per doubling over
    three models, whatever the middle one says.

    Args:
        narrow: Trial on the narrow model.
        wide: On the wide one.

    Returns:
        Function of the rows; the interval is the bootstrap's over the probes of both.
        Nothing where one of the changes is constant.
    """

    def ours(trials: Trials) -> Found:
        columns = [
            by_pair(trials.get(name, []), value)
            for name in (narrow, wide)
            for value in (lambda row: row["predicted"], realised)
        ]
        pairs = sorted(set.intersection(*map(set, columns)))
        if len(pairs) < _FEWEST:
            return None, None, None, len(pairs)
        both = np.array([[column[pair] for column in columns] for pair in pairs])
        found = bootstrap(both, [probe for probe, _ in pairs], _faithful, seed=0)
        if found is None:
            return None, None, None, len(pairs)
        return found.mean, found.low, found.high, len(pairs)

    return ours


def _faithful(values: NDArray[np.float64]) -> float | None:
    """Return the difference of the rank correlations of columns 0, 1 and 2, 3."""
    narrow, wide = (
        rank_correlation(values[:, i].tolist(), values[:, i + 1].tolist())
        for i in (0, 2)
    )
    return None if narrow is None or wide is None else narrow - wide
