"""Means, shares and rank correlations over probes, with their 95 % intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infusion.seeding import derive

BOOTSTRAP_DRAWS = 10_000
_NORMAL = 1.959963984540054
"""The 97.5th percentile of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: Over probes.
        low: Lower end; ``None`` for one probe, which says nothing about the spread.
        high: Upper end; ``None`` for one probe.
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
    reduce: Callable[[NDArray[np.float64]], float],
    *,
    seed: int,
    draws: int = 2_000,
) -> Interval | None:
    """Any number made of rows of values, with its bootstrap interval over probes.

    Args:
        values: A row each of at least one pair.
        probes: Whose each row is: those of one probe are drawn together.
        reduce: Makes the number, NaN where it is undefined.
        seed: Root seed.
        draws: Resamples.

    Returns:
        The number, 2.5th and 97.5th percentile; None where it is undefined; no ends for
        one probe, or where more than a twentieth of the resamples are undefined.
    """
    value = reduce(values)
    if not math.isfinite(value):
        return None
    _, places = np.unique(probes, return_inverse=True)
    own = [values[places == place] for place in range(places.max() + 1)]
    if len(own) == 1:
        return Interval(value, None, None)
    drawn = np.array(
        [
            reduce(np.concatenate([own[place] for place in pick]))
            for pick in resamples(len(own), seed=seed, draws=draws)
        ]
    )
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
        left: One value per probe.
        right: Its partner.

    Returns:
        Between −1 and 1; None for fewer than three probes or constant values.
    """
    from scipy.stats import spearmanr

    if len(left) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        return None
    return float(spearmanr(left, right).statistic)  # pyright: ignore[reportAttributeAccessIssue]
