"""Means, shares and rank correlations over probes, against closed forms."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from infusion.intervals import bootstrap_mean, rank_correlation, share


def test_bootstrap_interval_is_that_of_the_normal_for_many_values():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    got = bootstrap_mean(values.tolist(), seed=0)
    half = 1.959964 * values.std() / math.sqrt(len(values))
    assert got.mean == pytest.approx(values.mean(), rel=1e-12)
    # 10,000 draws leave an end uncertain by about 0.01 / density = 2 % of the half.
    assert got.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert got.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_bootstrap_interval_covers_19_of_20_means():
    """Quality, not correctness: percentile intervals of 40 values cover about 94 %."""
    generator = np.random.default_rng(1)
    samples = generator.exponential(1.0, (300, 40))
    intervals = [bootstrap_mean(s.tolist(), seed=0, draws=500) for s in samples]
    covered = np.mean([i.low <= 1.0 <= i.high for i in intervals])  # pyright: ignore
    assert 0.88 <= covered <= 0.98


@pytest.mark.parametrize("values", [[0.25] * 2, [0.25] * 6, [0.0] * 24])
def test_equal_values_have_no_width(values: list[float]):
    got = bootstrap_mean(values, seed=3)
    assert (got.low, got.mean, got.high) == (values[0],) * 3


def test_one_value_has_no_interval():
    stored = json.dumps(asdict(bootstrap_mean([0.25], seed=3)))
    assert stored == '{"mean": 0.25, "low": null, "high": null}'


def test_paired_lists_share_their_resamples(generator: torch.Generator):
    edit, control = torch.randn(2, 12, generator=generator).double()
    shifted = bootstrap_mean((edit + 1).tolist(), seed=5)
    plain = bootstrap_mean(edit.tolist(), seed=5)
    assert shifted.low == pytest.approx(plain.low + 1.0, abs=1e-12)  # pyright: ignore
    assert shifted.high == pytest.approx(plain.high + 1.0, abs=1e-12)  # pyright: ignore
    mirrored = bootstrap_mean((control - edit).tolist(), seed=5)
    paired = bootstrap_mean((edit - control).tolist(), seed=5)
    assert mirrored.low == pytest.approx(-paired.high, abs=1e-12)  # pyright: ignore
    assert bootstrap_mean(edit.tolist(), seed=6) != plain


def test_rank_correlation():
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 21.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    # One swap of neighbours among four: 1 − 6·Σd² / (n(n² − 1)) = 1 − 12 / 60.
    assert rank_correlation([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == (
        pytest.approx(0.8)
    )


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([], []),
        ([1.0], [2.0]),
        ([1.0, 2.0], [2.0, 1.0]),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0]),
    ],
)
def test_rank_correlation_is_none_where_undefined(
    left: list[float], right: list[float]
):
    assert rank_correlation(left, right) is None


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_shares_have_the_ends_of_wilsons_interval(hits: tuple[int, int]):
    count, n = hits
    got = share(count, n)
    expected = binomtest(count, n).proportion_ci(method="wilson")
    assert got["mean"] == count / n
    assert [got["low"], got["high"]] == pytest.approx(list(expected), abs=1e-12)
