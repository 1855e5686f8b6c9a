"""What the rows of text suites say: values with 95 % intervals, as in ``found``."""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from infusion.measure import bootstrap_mean, rank_correlation, resamples
from infusion.presets.texts import moved
from infusion.suites.claims.found import (
    PLAIN,
    Found,
    Trials,
    fisher_interval,
    mean_over_pairs,
)
from infusion.suites.summary import Row, by_pair, units

NOTHING: Found = (None, None, None, 0)
_FEWEST = 3
"""Probes without which a matrix has no diagonals to speak of."""


def read(value: Callable[[Row], float]) -> Callable[[Trials], Found]:
    """Mean over pairs of what a preset reads off the edit's rows.

    Args:
        value: One of its columns.

    Returns:
        Function of the rows.
    """
    return lambda trials: mean_over_pairs(trials.get(PLAIN, []), value)


def target_leads(trials: Trials) -> Found:
    """Margin shift of the target less that of the shift that gains most beside it."""

    def lead(row: Row) -> float:
        gains = [-change for change in moved(row, "ce")]
        named = (row["probe"], row["target"])
        others = [gain for shift, gain in enumerate(gains) if shift not in named]
        return gains[row["target"]] - max(others)

    return mean_over_pairs(trials.get(PLAIN, []), lead)


def circulant(trials: Trials) -> Found:
    """Share of the variance of cross-entropies that the difference of shifts explains.

    Args:
        trials: Rows of the edit; of their clean replays the cross-entropy of every
            shift but the one that the prompt names, a line per prompt.

    Returns:
        Between 0 and 1, the mean over base models; the interval is the bootstrap's
        over prompts, and n counts those. Nothing where all are alike.
    """
    models: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for row in trials.get(PLAIN, []):
        models[row["base_sha256"]][row["probe"]] = row["clean"]["ce"]
    found = [
        np.array([[*ce[p + 1 :], *ce[:p]] for p, ce in sorted(lines.items())])
        for lines in models.values()
        if len(lines) >= _FEWEST
    ]
    if not found or any(np.ptp(lines) == 0 for lines in found):
        return NOTHING
    shares = [_explained(lines[None])[0] for lines in found]
    drawn = [_explained(lines[resamples(len(lines), seed=0)]) for lines in found]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return float(np.mean(shares)), float(low), float(high), sum(map(len, found))


def _explained(lines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the columns' means explain of ``[draws, lines, columns]``."""
    whole = lines.mean((1, 2), keepdims=True)
    left = ((lines - lines.mean(1, keepdims=True)) ** 2).sum((1, 2))
    return 1 - left / ((lines - whole) ** 2).sum((1, 2))


def shares_a_factor(size: int) -> Callable[[Row], bool]:
    """Say whether a pair's difference shares a factor with the alphabet.

    Args:
        size: Letters.

    Returns:
        Function of a row.
    """
    return lambda row: math.gcd(row["probe"] - row["target"], size) > 1


def probe_shares_a_factor(size: int) -> Callable[[Row], bool]:
    """Say whether a pair's probe shares a factor with the alphabet.

    Args:
        size: Letters.

    Returns:
        Function of a row; 0 does.
    """
    return lambda row: math.gcd(row["probe"], size) > 1


def gap(
    value: Callable[[Row], float], among: Callable[[Row], bool], *, of_probes: bool
) -> Callable[[Trials], Found]:
    """Mean over some pairs less the mean over the others.

    Args:
        value: Of a row of the edit.
        among: Whether a row is of the first kind.
        of_probes: Whether probes count once, rather than pairs.

    Returns:
        Function of the rows.
    """

    def ours(trials: Trials) -> Found:
        rows = trials.get(PLAIN, [])
        sides = ([r for r in rows if among(r)], [r for r in rows if not among(r)])
        values = [
            _of_probes(side, value) if of_probes else units(side, value)
            for side in sides
        ]
        return _difference(*values)

    return ours


def _of_probes(rows: list[Row], value: Callable[[Row], float]) -> list[float]:
    probes: dict[int, list[float]] = defaultdict(list)
    for (probe, _), mean in by_pair(rows, value).items():
        probes[probe].append(mean)
    return [sum(means) / len(means) for means in probes.values()]


def above(other: str, value: Callable[[Row], float]) -> Callable[[Trials], Found]:
    """Mean over the pairs of one preset less that over the pairs of another.

    Args:
        other: The other preset.
        value: Of a row of the edit.

    Returns:
        Function of the rows of both.
    """
    return lambda trials: _difference(
        units(trials.get(PLAIN, []), value),
        units(trials.get(f"{other}: {PLAIN}", []), value),
    )


def _difference(left: list[float], right: list[float]) -> Found:
    """Mean of one list less that of another, unpaired, with its bootstrap interval."""
    if min(len(left), len(right)) < 2:
        return NOTHING
    means = [
        np.asarray(values)[resamples(len(values), seed=seed)].mean(1)
        for seed, values in enumerate((left, right))
    ]
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    value = float(np.mean(left) - np.mean(right))
    return value, float(low), float(high), len(left) + len(right)


def half_done(trials: Trials) -> Found:
    """Rank correlation of the target's cross-entropy before with its change."""
    rows = trials.get(PLAIN, [])
    before = units(rows, lambda row: row["clean"]["ce"][row["target"]])
    change = units(rows, lambda row: moved(row, "ce")[row["target"]])
    found = rank_correlation(before, change)
    if found is None:
        return None, None, None, len(rows)
    return found, *fisher_interval(found, len(before)), len(before)


def kinds_moved(
    columns: dict[str, Callable[[Row], float]],
) -> Callable[[Trials], Found]:
    """Count the presets whose edit moves their measurement, interval above 0.

    Args:
        columns: What is read off a row, by ``"PRESET: edit"``, or by ``"edit"``.

    Returns:
        Function of the rows; n counts the presets that have rows.
    """

    def ours(trials: Trials) -> Found:
        found = [
            bootstrap_mean(units(trials[name], value), seed=0)
            for name, value in columns.items()
            if trials.get(name)
        ]
        if not found:
            return NOTHING
        moves = [each.low is not None and each.low > 0 for each in found]
        return float(sum(moves)), None, None, len(found)

    return ours


def fidelity_lost(narrow: str, wide: str) -> Callable[[Trials], Found]:
    """Rank correlation of predicted and realised change, narrow less wide models.

    Args:
        narrow: Trial on the narrow model.
        wide: On the wide one.

    Returns:
        Function of the rows; the interval is the bootstrap's over the pairs of both.
    """

    def ours(trials: Trials) -> Found:
        sides = [
            by_pair(
                trials.get(name, []),
                lambda row: row["after"]["value"] - row["clean"]["value"],
            )
            for name in (narrow, wide)
        ]
        guesses = [
            by_pair(trials.get(name, []), lambda row: row["predicted"])
            for name in (narrow, wide)
        ]
        pairs = sorted(set(sides[0]) & set(sides[1]))
        if len(pairs) < _FEWEST:
            return None, None, None, len(pairs)
        both = np.array(
            [
                [[g[pair], s[pair]] for g, s in zip(guesses, sides, strict=True)]
                for pair in pairs
            ]
        )
        drawn = _faithful(both[resamples(len(pairs), seed=0)])
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        value = float(_faithful(both[None])[0])
        return value, float(low), float(high), len(pairs)

    return ours


def _faithful(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the difference of rank correlations of ``[draws, pairs, models, 2]``."""
    from scipy.stats import rankdata

    ranks = rankdata(values, axis=1)
    centred = ranks - ranks.mean(1, keepdims=True)
    product = centred.prod(-1).sum(1)
    scale = np.sqrt((centred**2).sum(1).prod(-1))
    with np.errstate(invalid="ignore"):  # a draw of one pair alone has no ranks
        found = product / scale
    return found[:, 0] - found[:, 1]
