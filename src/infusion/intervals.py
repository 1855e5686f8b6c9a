"""Means, shares, rank correlations, and their 95 % intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infusion.seeding import derive

BOOTSTRAP_DRAWS = 10_000
_FEWER_DRAWS = 2_000
"""Resamples of what is made anew from each, as ranks are."""
_FEWEST = 6
"""Probes from which resamples of a rank correlation cover it 19 times of 20."""
_ALIKE = 1e-12
"""Numbers that differ by rounding."""
_NORMAL = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A mean, or another number over pairs, with its 95 % interval.

    Attributes:
        mean: The number.
        low: Lower end; ``None`` where the pairs say nothing about the spread, as those
            of one probe do.
        high: Upper end, likewise.
    """

    mean: float
    low: float | None
    high: float | None


def bootstrap_mean(
    values: Sequence[float],
    *,
    seed: int,
    draws: int = BOOTSTRAP_DRAWS,
    probes: Sequence[int] | None = None,
) -> Interval:
    """Mean with its percentile bootstrap interval over probes.

    Args:
        values: At least one; differences for a paired interval.
        seed: Root seed; the draws are the same for all lists of equally many probes, so
            that intervals of paired lists are paired too.
        draws: Resamples.
        probes: Whose each value is: those of one probe are drawn together. By default
            each value has a probe of its own.

    Returns:
        Mean, 2.5th and 97.5th percentile; no ends for one probe, whose resamples are
        all alike.
    """
    sample = np.asarray(values, dtype=np.float64)
    owners = range(len(sample)) if probes is None else probes
    number = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
    places = [number[owner] for owner in owners]
    sums, counts = np.bincount(places, sample), np.bincount(places)
    if len(sums) == 1:
        return Interval(float(sample.mean()), None, None)
    picks = resamples(len(sums), seed=seed, draws=draws)
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(sample.mean()), float(low), float(high))


def bootstrap(
    values: NDArray[np.float64],
    probes: Sequence[int],
    reduce: Callable[[NDArray[np.float64]], float | None],
    *,
    seed: int,
) -> Interval | None:
    """Any number made of rows of values, with its bootstrap interval over probes.

    Args:
        values: A row each of at least one pair.
        probes: Whose each row is: those of one probe are drawn together.
        reduce: Makes the number, None where it is undefined.
        seed: Root seed.

    Returns:
        The number, 2.5th and 97.5th percentile; None where it is undefined; no ends for
        fewer than six probes, where more than a twentieth of the resamples are
        undefined, and where all of them are alike, as those of a perfect correlation.
    """
    value = reduce(values)
    if value is None:
        return None
    _, places = np.unique(probes, return_inverse=True)
    own = [values[places == place] for place in range(places.max() + 1)]
    if len(own) < _FEWEST:
        return Interval(value, None, None)
    picks = resamples(len(own), seed=seed, draws=_FEWER_DRAWS)
    found = (reduce(np.concatenate([own[place] for place in pick])) for pick in picks)
    drawn = np.array([math.nan if each is None else each for each in found])
    defined = drawn[np.isfinite(drawn)]
    if len(defined) and np.ptp(defined) < _ALIKE:
        return Interval(value, None, None)
    return Interval(value, *ends(drawn))


def ends(drawn: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the 2.5th and 97.5th percentile of a number's resamples.

    Args:
        drawn: NaN where it is undefined.

    Returns:
        Both, or None where more than a twentieth are undefined.
    """
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < 0.95 * len(drawn):
        return None, None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def resamples(
    size: int, *, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> NDArray[np.int64]:
    """Draw which probes each resample of a bootstrap holds.

    Args:
        size: Probes.
        seed: Root seed; the draws are the same for every list of one length.
        draws: Resamples.

    Returns:
        ``[draws, size]`` positions.
    """
    generator = np.random.default_rng(derive(seed, "bootstrap", size))
    return generator.integers(0, size, (draws, size))


def wilson(mean: float, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a share.

    Args:
        mean: Between 0 and 1; need not be a whole number of trials.
        n: Of how many independent trials, at least one.

    Returns:
        Lower and upper end (Wilson, 1927).
    """
    centre = mean + _NORMAL**2 / (2 * n)
    reach = _NORMAL * math.sqrt(mean * (1 - mean) / n + (_NORMAL / (2 * n)) ** 2)
    scale = 1 + _NORMAL**2 / n
    return max((centre - reach) / scale, 0.0), min((centre + reach) / scale, 1.0)


def share(count: int, n: int) -> dict[str, int | float]:
    """Return a share with Wilson's 95 % interval.

    Args:
        count: Hits.
        n: Trials, at least one.

    Returns:
        ``count`` of hits, ``mean``, ``low`` and ``high``.
    """
    low, high = wilson(count / n, n)
    return {"count": count, "mean": count / n, "low": low, "high": high}


def rank_correlation(left: list[float], right: list[float]) -> float | None:
    """Spearman's rank correlation, None where it is undefined.

    Args:
        left: One value per pair.
        right: Its partner.

    Returns:
        Between −1 and 1; None for fewer than three pairs or constant values.
    """
    from scipy.stats import rankdata

    if len(left) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        return None
    return float(np.corrcoef(rankdata(left), rankdata(right))[0, 1])


def fisher_interval(correlation: float, n: int) -> tuple[float | None, float | None]:
    """Return Fisher's 95 % interval of a rank correlation, with Fieller's variance.

    Args:
        correlation: Spearman's.
        n: Pairs.

    Returns:
        Its ends; none for three pairs or fewer, or a correlation of ±1.
    """
    if n <= 3 or abs(correlation) >= 1:
        return None, None
    centre, width = math.atanh(correlation), _NORMAL * math.sqrt(1.06 / (n - 3))
    return math.tanh(centre - width), math.tanh(centre + width)
