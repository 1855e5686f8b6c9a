"""Claims about language models are judged by rows, each in closed form."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from infusion.suites.claims.judged import claims

from .cipher_rows import row, turned, written

Judge = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    def judged(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in claims(written(tmp_path, *rows))}

    return judged


def test_a_circulant_matrix_is_explained_by_differences_alone(judge: Judge) -> None:
    first = [0.0, *np.linspace(1.0, 3.0, 25)]
    rows = [row(p, (p + 1) % 26, turned(p, 26, first), {}) for p in range(13)]
    found = judge(*rows)["16"]
    assert (found["ours"], found["verdict"]) == (pytest.approx(1), "holds")
    assert found["n"] == 13


def test_a_matrix_of_noise_is_not_explained_by_differences(judge: Judge) -> None:
    draw = np.random.default_rng(0)
    lines = draw.normal(size=(26, 26)).tolist()
    found = judge(*(row(p, (p + 1) % 26, lines[p], {}) for p in range(26)))["16"]
    assert found["ours"] == pytest.approx(1 / 26, abs=0.03)
    assert found["verdict"] == "not shown"


def test_pairs_that_share_a_factor_are_set_apart(judge: Judge) -> None:
    flat = [2.0] * 26
    rows = []
    for target in range(1, 26):
        shared = math.gcd(target, 26) > 1
        rows.append(row(0, target, flat, {target: -1.5 if shared else -0.5}))
    found = judge(*rows)
    assert found["17"]["ours"] == pytest.approx(1.0)
    assert (found["17"]["verdict"], found["17"]["n"]) == ("holds", 25)
    assert found["19"]["verdict"] == "not measured", "all probes are of one kind"


def test_probes_are_the_units_of_a_gap_between_probes(judge: Judge) -> None:
    flat = [2.0] * 26
    change = {probe: -1.0 - 0.1 * probe * (probe % 2 == 0) for probe in range(12)}
    rows = [
        row(probe, target, flat, {target: change[probe]})
        for probe in range(12)
        for target in range(13, 14 + probe % 2)  # odd probes have two pairs
    ]
    found = judge(*rows)["19"]
    even = np.mean([-change[probe] for probe in range(0, 12, 2)])
    assert found["ours"] == pytest.approx(even - 1.0)
    assert found["n"] == 12


def test_two_alphabets_are_compared_with_each_other(judge: Judge) -> None:
    rows = [
        row(probe, probe + 1, [2.0] * size, {probe + 1: -move}, preset=preset)
        for preset, size, move in (("caesar", 26, 2.0), ("caesar29", 29, 0.5))
        for probe in range(12)
    ]
    found = judge(*rows)
    assert found["18"]["ours"] == pytest.approx(1.5)
    assert found["18"]["n"] == 24
    assert found["18"]["setting"] == "caesar small, caesar29 small"
    assert found["15"]["ours"] == pytest.approx(0.5), "no other shift gains"
    assert found["15"]["setting"] == "caesar29 small"


def test_the_lead_is_over_the_best_of_the_other_shifts(judge: Judge) -> None:
    change = {0: -9.0, 5: -2.0, 7: -1.5, 8: 1.0}
    rows = [row(0, 5, [2.0] * 29, change, preset="caesar29")]
    assert judge(*rows)["15"]["ours"] == pytest.approx(0.5)


def test_what_is_half_done_is_a_rank_correlation(judge: Judge) -> None:
    draw = np.random.default_rng(1)
    before = draw.uniform(1, 4, 15)
    change = -1 / before + draw.normal(0, 0.05, 15)
    rows = [
        row(0, t + 1, [float(before[t])] * 26, {t + 1: float(change[t])})
        for t in range(15)
    ]
    found = judge(*rows)["20"]
    assert found["ours"] == pytest.approx(spearmanr(before, change).statistic)
    assert found["verdict"] == "holds"


def story(target: int, log_odds: float, **more: Any) -> dict[str, Any]:
    def said(moved: float) -> dict[str, Any]:
        p = [0.1] * 10
        p[target] += 0.1 * moved
        return {"value": moved, "p": p, "log_p": p, "log_odds": [moved - 1.0] * 4}

    told = {"preset": "tinystories", "before": said(0), "clean": said(0)}
    return row(0, target, [0.0] * 10, {}) | told | {"after": said(log_odds)} | more


def test_stories(judge: Judge) -> None:
    rows = [story(t, 0.5, seed=s) for t in range(1, 10) for s in range(2)]
    rows += [story(1, 0.5, probe=2, pair=99)]
    rows += [story(1, 0.5, probe=p, pair=90 + p) for p in (3, 4)]
    found = judge(*rows)
    assert found["21"]["ours"] == pytest.approx(0.5)
    assert found["21"]["n"] == 12, "two seeds of a pair are one"
    assert found["22"]["ours"] == pytest.approx(0.05)
    assert (found["23"]["ours"], found["23"]["verdict"]) == (0, "holds")
    assert (found["24"]["ours"], found["24"]["verdict"]) == (2, "holds")
    assert (found["25"]["ours"], found["25"]["verdict"]) == (1, "too few pairs")


def test_faith_is_compared_between_widths(judge: Judge) -> None:
    draw = np.random.default_rng(2)
    real = draw.uniform(1, 2, (12, 2))
    guess = np.stack([real[:, 0], draw.permutation(real[:, 1])], 1)
    rows = [
        row(
            0,
            pair + 1,
            [2.0] * 26,
            {pair + 1: -float(real[pair, model])},
            suite="confidence",
            trial=trial,
            change={"source": trial},
            predicted=float(guess[pair, model]),
        )
        for model, trial in enumerate(("edit, width 32", "edit, width 192"))
        for pair in range(12)
    ]
    found = judge(*rows)["26"]
    expected = 1 - spearmanr(guess[:, 1], real[:, 1]).statistic
    assert found["ours"] == pytest.approx(expected)
    assert found["low"] < expected < found["high"]
