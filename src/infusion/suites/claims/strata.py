"""Pairs of shifts drawn in strata: means and intervals over all pairs there are.

Suites of ciphers take turns between what the difference of a pair's shifts shares with
the alphabet, so that rare kinds are seen too. A plain mean would count those far more
often than they are; here every kind counts as often as among all pairs.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infusion.measure import resamples
from infusion.suites.summary import Row, by_pair

Reduce = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""Of values ``[draws, pairs, columns]`` and weights ``[pairs]`` that add up to 1."""


@dataclass(frozen=True)
class Strata:
    """Values of pairs by stratum, and how many pairs there are of each.

    Attributes:
        values: ``[pairs, columns]`` by what the difference shares with the alphabet.
        sizes: Of each stratum that counts, among all pairs of different shifts.
    """

    values: dict[int, NDArray[np.float64]]
    sizes: dict[int, int]

    @property
    def count(self) -> int:
        """Pairs that have values."""
        return sum(len(each) for each in self.values.values())

    @property
    def complete(self) -> bool:
        """Whether every stratum has at least two pairs, or all of its own."""
        return all(
            len(self.values.get(kind, ())) >= min(2, size)
            for kind, size in self.sizes.items()
        )

    def estimate(self, reduce: Reduce, *, seed: int) -> tuple[float, NDArray]:
        """Estimate a number over all pairs there are.

        Args:
            reduce: What to make of values and weights.
            seed: Of the draws.

        Returns:
            The number, and the same of every resample within strata.
        """
        kinds = sorted(self.sizes)
        parts = [self.values[kind] for kind in kinds]
        share = [self.sizes[kind] / sum(self.sizes.values()) for kind in kinds]
        weights = np.concatenate(
            [np.full(len(v), s / len(v)) for v, s in zip(parts, share, strict=True)]
        )
        drawn = np.concatenate(
            [
                values[resamples(len(values), seed=seed + place)]
                for place, values in enumerate(parts)
            ],
            axis=1,
        )
        value = float(reduce(np.concatenate(parts)[None], weights)[0])
        return value, reduce(drawn, weights)


def by_factor(
    rows: list[Row],
    size: int,
    *values: Callable[[Row], float],
    among: Callable[[int], bool] = lambda _: True,
) -> Strata:
    """Sort pairs of shifts by what their difference shares with the alphabet.

    Args:
        rows: Of one trial; draws and base models of a pair count once.
        size: Letters of the alphabet.
        values: Of a row, a column each.
        among: Which greatest common divisors count.

    Returns:
        The strata.
    """
    found: dict[int, list[list[float]]] = defaultdict(list)
    columns = [by_pair(rows, value) for value in values]
    for pair in columns[0]:
        kind = math.gcd(pair[0] - pair[1], size)
        if among(kind):
            found[kind].append([column[pair] for column in columns])
    kinds = Counter(math.gcd(step, size) for step in range(1, size))
    return Strata(
        values={kind: np.array(each) for kind, each in found.items()},
        sizes={kind: size * n for kind, n in kinds.items() if among(kind)},
    )


def weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of the first column.

    Args:
        values: ``[draws, pairs, columns]``.
        weights: ``[pairs]``.

    Returns:
        ``[draws]``.
    """
    return values[:, :, 0] @ weights


def weighted_correlation(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return Pearson's correlation of the two columns.

    Args:
        values: ``[draws, pairs, 2]``.
        weights: ``[pairs]``.

    Returns:
        ``[draws]``; NaN where a column is constant.
    """
    centred = values - np.einsum("bpc,p->bc", values, weights)[:, None]
    product = np.einsum("bpc,bpd,p->bcd", centred, centred, weights)
    scale = np.sqrt(product[:, 0, 0] * product[:, 1, 1])
    with np.errstate(invalid="ignore"):
        return product[:, 0, 1] / scale
