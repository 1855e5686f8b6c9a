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

from infusion.intervals import (
    bootstrap,
    bootstrap_mean,
    ends,
    rank_correlation,
    resamples,
    share,
    wilson,
)


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


def test_a_share_need_not_be_a_whole_number_of_hits():
    below, between, above = (wilson(hits / 10, 10) for hits in (3.0, 3.5, 4.0))
    assert below[0] < between[0] < above[0]
    assert below[1] < between[1] < above[1]


def test_any_number_is_drawn_probe_by_probe(generator: torch.Generator):
    values = torch.randn(24, generator=generator, dtype=torch.float64).numpy()
    probes = [place % 8 for place in range(24)]
    got = bootstrap(values[:, None], probes, lambda x: float(x.mean()), seed=0)
    assert got is not None
    own = np.stack([values[place::8].mean() for place in range(8)])
    expected = own[resamples(8, seed=0, draws=2_000)].mean(1)
    low, high = np.percentile(expected, [2.5, 97.5])
    assert (got.mean, got.low, got.high) == pytest.approx((values.mean(), low, high))
    again = np.concatenate([values, values])[:, None]
    twice = bootstrap(again, probes * 2, lambda x: float(x.mean()), seed=0)
    assert twice is not None
    assert twice.low == pytest.approx(got.low), "copies say nothing of the spread"


def test_a_number_without_spread_or_of_few_probes_has_no_ends():
    both = np.arange(12.0).reshape(6, 2)

    def ranked(x: np.ndarray) -> float | None:
        return rank_correlation(*x.T.tolist())

    perfect = bootstrap(both, range(6), ranked, seed=0)
    few = bootstrap(both[[0, 2, 1]], range(3), ranked, seed=0)
    for got in (perfect, few):
        assert got is not None
        assert (got.mean, got.low, got.high) == (pytest.approx(1), None, None)
    assert bootstrap(np.ones((6, 2)), range(6), ranked, seed=0) is None


def test_ends_are_of_what_is_defined_in_19_of_20_draws():
    drawn = np.arange(100.0)
    drawn[:5] = math.nan
    low, high = ends(drawn)
    assert (low, high) == tuple(np.percentile(drawn[5:], [2.5, 97.5]))
    drawn[5] = math.nan
    assert ends(drawn) == (None, None)
