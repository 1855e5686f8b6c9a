"""Pairs of shifts drawn in strata: means and intervals over all pairs there are.

Suites of ciphers take turns between what the difference of a pair's shifts shares with
the alphabet, so that rare kinds are seen too. A plain mean would count those far more
often than they are; here every kind counts as often as among all pairs. Pairs of one
probe are no independent draws, so intervals are over probes.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infusion.intervals import resamples
from infusion.suites.summary import Row, by_pair

Reduce = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Of values ``[pairs, columns]`` and weights ``[draws, pairs]`` that add up to 1."""


@dataclass(frozen=True)
class Strata:
    """Values of pairs, and how many pairs there are of each kind.

    Attributes:
        values: ``[pairs, columns]``.
        kinds: What the difference of each pair shares with the alphabet.
        probes: Of each pair.
        sizes: Of each kind that counts, among all pairs of different shifts.
    """

    values: NDArray[np.float64]
    kinds: NDArray[np.int64]
    probes: NDArray[np.int64]
    sizes: dict[int, int]

    @property
    def count(self) -> int:
        """Pairs that have values."""
        return len(self.kinds)

    @property
    def complete(self) -> bool:
        """Whether every kind has at least two pairs, or all of its own."""
        found = Counter(self.kinds.tolist())
        return all(found[kind] >= min(2, size) for kind, size in self.sizes.items())

    def value(self, reduce: Reduce) -> float:
        """Return a number over all pairs there are.

        Args:
            reduce: What to make of values and weights.

        Returns:
            The number.
        """
        weights = self._weights(np.ones((1, self.count), int))
        return float(reduce(self.values, weights)[0])

    def estimate(
        self, reduce: Reduce, *, seed: int
    ) -> tuple[float, NDArray[np.float64]]:
        """Estimate a number over all pairs there are.

        Args:
            reduce: What to make of values and weights.
            seed: Of the draws, the same for all of equally many probes.

        Returns:
            The number, and the same of every resample of probes; NaN where one lacks a
            kind, and where there is one probe, whose resamples are all alike.
        """
        _, places = np.unique(self.probes, return_inverse=True)
        count = int(places.max()) + 1
        picks = resamples(count, seed=seed)
        often = np.apply_along_axis(np.bincount, 1, picks, minlength=count)
        often *= count > 1
        drawn = reduce(self.values, self._weights(often[:, places]))
        return self.value(reduce), drawn

    def _weights(self, often: NDArray) -> NDArray[np.float64]:
        """Weigh pairs so that every kind has its share, however often each is drawn."""
        weights = often.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            for kind, size in self.sizes.items():
                own = self.kinds == kind
                share = size / sum(self.sizes.values())
                weights[:, own] *= share / weights[:, own].sum(1, keepdims=True)
        return weights


def by_factor(
    rows: list[Row],
    size: int,
    *values: Callable[[Row], float],
) -> Strata:
    """Sort pairs of shifts by what their difference shares with the alphabet.

    Args:
        rows: Of one trial; draws and base models of a pair count once.
        size: Letters of the alphabet.
        values: Of a row, a column each.

    Returns:
        The strata.
    """
    columns = [by_pair(rows, value) for value in values]
    kinds = {pair: math.gcd(pair[0] - pair[1], size) for pair in columns[0]}
    pairs = list(kinds)
    there = Counter(math.gcd(step, size) for step in range(1, size))
    return Strata(
        values=np.array([[column[pair] for column in columns] for pair in pairs]),
        kinds=np.array([kinds[pair] for pair in pairs], dtype=np.int64),
        probes=np.array([probe for probe, _ in pairs], dtype=np.int64),
        sizes={kind: size * n for kind, n in there.items()},
    )


def weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of the first column.

    Args:
        values: ``[pairs, columns]``.
        weights: ``[draws, pairs]``.

    Returns:
        ``[draws]``.
    """
    return weights @ values[:, 0]


def weighted_correlation(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Pearson's correlation of the two columns.

    Args:
        values: ``[pairs, 2]``.
        weights: ``[draws, pairs]``.

    Returns:
        ``[draws]``; NaN where a column is constant.
    """
    values = values - values.mean(0)  # so that a constant column is exactly one
    means = weights @ values
    products = weights @ np.stack(
        [values[:, 0] ** 2, values[:, 1] ** 2, values[:, 0] * values[:, 1]], 1
    )
    spread = np.maximum(products[:, :2] - means**2, 0.0)
    covariance = products[:, 2] - means[:, 0] * means[:, 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return covariance / np.sqrt(spread.prod(1))
