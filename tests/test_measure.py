"""Measurements of one probe, and intervals over probes, against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from infusion.measure import (
    accuracy,
    behaviour,
    bootstrap_mean,
    log_prob,
    predictions,
    rank_correlation,
)
from infusion.records import Dataset
from infusion.tasks import classification


class Logits(nn.Module):
    """Returns its input as logits; dropout would show a forgotten eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x) * self.weight


def test_behaviour_in_closed_form():
    logits, target = torch.tensor([1.0, -0.5, 0.25]), 2
    model = Logits().train()
    got = behaviour(model, logits, target)
    weights = [math.exp(z) for z in logits.tolist()]
    p = [w / sum(weights) for w in weights]
    assert got.probabilities == pytest.approx(p, rel=1e-12)
    assert got.p == pytest.approx(p[target], rel=1e-12)
    assert got.log_p == pytest.approx(math.log(p[target]), rel=1e-12)
    odds = p[target] / (1 - p[target])
    assert got.log_odds == pytest.approx(math.log(odds), rel=1e-12)
    assert got.top1 == 0
    assert model.training, "the mode must be put back"


def test_log_odds_survive_a_probability_of_one():
    got = behaviour(Logits(), torch.tensor([100.0, 0.0]), 0)
    assert got.p == 1.0
    assert got.log_odds == pytest.approx(100.0)
    assert behaviour(Logits(), torch.tensor([100.0, 0.0]), 1).log_odds == -100.0


def test_log_prob_is_what_behaviour_reports():
    logits = torch.tensor([0.3, 2.0, -1.0, 0.0])
    model = Logits().eval()
    value = log_prob(logits, 3)(model)
    assert value.shape == ()
    assert value.requires_grad
    assert float(value.detach()) == pytest.approx(behaviour(model, logits, 3).log_p)


@pytest.mark.parametrize("size", [1, 7, 1203])
def test_accuracy_counts_every_document_once(size: int, generator: torch.Generator):
    logits = torch.randn(size, 5, generator=generator)
    labels = torch.randint(0, 5, (size,), generator=generator)
    task, data = classification(Logits()), Dataset(logits, labels, num_classes=5)
    assert torch.equal(predictions(task, data, batch_size=4), logits.argmax(1))
    right = sum(int(z.argmax()) == int(y) for z, y in zip(logits, labels, strict=True))
    assert accuracy(task, data) == pytest.approx(right / size, rel=1e-15)


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
    covered = sum(i.low <= 1.0 <= i.high for i in intervals) / len(intervals)
    assert 0.88 <= covered <= 0.98


@pytest.mark.parametrize("values", [[0.25], [0.25] * 6, [0.0] * 24])
def test_equal_values_have_no_width(values: list[float]):
    got = bootstrap_mean(values, seed=3)
    assert (got.low, got.mean, got.high) == (values[0],) * 3


def test_paired_lists_share_their_resamples(generator: torch.Generator):
    edit, control = torch.randn(2, 12, generator=generator).double()
    shifted = bootstrap_mean((edit + 1).tolist(), seed=5)
    plain = bootstrap_mean(edit.tolist(), seed=5)
    assert shifted.low - plain.low == pytest.approx(1.0, abs=1e-12)
    assert shifted.high - plain.high == pytest.approx(1.0, abs=1e-12)
    mirrored = bootstrap_mean((control - edit).tolist(), seed=5)
    paired = bootstrap_mean((edit - control).tolist(), seed=5)
    assert mirrored.low == pytest.approx(-paired.high, abs=1e-12)
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
