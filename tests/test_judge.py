"""Rankings against the truth: by hand, by brute force over the orders of ties."""

import itertools

import pytest
import torch

from infusion.audit.judge import found_in, judged


def test_a_perfect_and_a_reversed_ranking():
    edited = torch.arange(10) >= 8
    best = judged(torch.arange(10.0), edited)
    assert (best["auroc"], best["average_precision"]) == (1, 1)
    assert best["recall"] == {"0.002": 0.5, "0.01": 0.5, "0.05": 0.5, "0.1": 0.5}
    worst = judged(-torch.arange(10.0), edited)
    assert worst["auroc"] == 0
    assert set(worst["recall"].values()) == {0}


@pytest.mark.parametrize("looked", [1, 2, 3, 4, 5, 6])
def test_recall_is_the_mean_over_the_orders_of_equal_scores(looked: int):
    scores = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    edited = torch.tensor([False, True, False, True, False, True])
    found = []
    for order in itertools.permutations(range(6)):
        ranked = sorted(order, key=lambda i: -float(scores[i]))
        found.append(sum(bool(edited[i]) for i in ranked[:looked]))
    wanted = sum(found) / len(found)
    assert found_in(scores, edited, looked / 6) == pytest.approx(wanted)
