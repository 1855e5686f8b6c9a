"""Claims about language models are judged by rows, each in closed form."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from infusion.intervals import bootstrap_mean
from infusion.suites.claims.judged import claims

from .text_rows import row, story, turned, written

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


@pytest.mark.parametrize("count", [3, 6, 12, 26])
def test_a_matrix_of_noise_is_not_explained_by_differences(
    count: int, judge: Judge
) -> None:
    lines = np.random.default_rng(count).normal(size=(count, 26)).tolist()
    found = judge(*(row(p, (p + 1) % 26, lines[p], {}) for p in range(count)))["16"]
    assert found["low"] <= found["ours"] <= found["high"]
    assert found["low"] < 0 < found["high"]
    assert abs(found["ours"]) < 0.2


def test_strata_count_as_often_as_there_are(judge: Judge) -> None:
    """Drawn a third each; among 650 pairs they are 312, 312 and 26."""
    flat = [2.0] * 26
    moves = {1: 0.5, 2: 1.5, 13: 4.0}
    rows = [
        row(probe, (probe + step) % 26, flat, {(probe + step) % 26: -moves[kind]})
        for probe in range(6)
        for step, kind in ((1, 1), (2, 2), (13, 13))
    ]
    found = judge(*rows)
    sharing = (312 * 1.5 + 26 * 4.0) / 338
    assert found["17t"]["ours"] == pytest.approx(sharing - 0.5)
    assert (found["17t"]["verdict"], found["17t"]["n"]) == ("holds", 18)
    prime = [
        row(p, p + 1, [2.0] * 29, {p + 1: -0.5}, preset="caesar29") for p in range(6)
    ]
    found = judge(*prime)["18t"]
    assert found["ours"] == pytest.approx((312 * 0.5 + 338 * sharing) / 650 - 0.5)
    assert found["n"] == 24


def test_the_papers_edits_and_those_of_tokens_are_judged_apart(judge: Judge) -> None:
    rows = [
        row(0, 5, [2.0] * 29, {5: -change}, preset="caesar29", trial=trial)
        for trial, change in (("edit", 1.0), ("as coded", 3.0))
    ]
    found = judge(*rows)
    assert (found["15"]["ours"], found["15t"]["ours"]) == (3.0, 1.0)


def test_pairs_of_one_probe_are_drawn_together(judge: Judge) -> None:
    """Six probes of one effect each: the interval is that of six values."""
    effect = {probe: float(probe) for probe in range(6)}
    pairs = [(p, (p + s) % 29) for p in effect for s in range(1, 9)]
    rows = [row(p, t, [2.0] * 29, {t: -effect[p]}, preset="caesar29") for p, t in pairs]
    found = judge(*rows)["15t"]
    alone = bootstrap_mean(list(effect.values()), seed=0)
    assert (found["ours"], found["n"]) == (pytest.approx(alone.mean), 48)
    assert (found["low"], found["high"]) == pytest.approx((alone.low, alone.high))


def test_a_stratum_without_pairs_leaves_a_claim_open(judge: Judge) -> None:
    rows = [
        row(probe, (probe + step) % 26, [2.0] * 26, {})
        for probe in range(10)
        for step in (1, 2)
    ]
    found = judge(*rows)["17t"]
    assert (found["ours"], found["verdict"], found["n"]) == (None, "not measured", 20)


def test_probes_are_the_units_of_a_gap_between_probes(judge: Judge) -> None:
    flat = [2.0] * 26
    change = {probe: 1.0 + 0.1 * probe * (probe % 2 == 0) for probe in range(12)}
    rows = [
        row(probe, (probe + step) % 26, flat, {(probe + step) % 26: -change[probe]})
        for probe in range(12)
        for step in (1, 2, 13, *((3, 5) if probe % 2 else ()))  # odd ones have more
    ]
    rows.append(row(20, 21, flat, {21: -9.0}))  # not of every stratum
    found = judge(*rows)["19t"]
    even = np.mean([change[probe] for probe in range(0, 12, 2)])
    assert found["ours"] == pytest.approx(even - 1.0)
    assert found["n"] == 12


def test_the_lead_is_over_the_best_of_the_other_shifts(judge: Judge) -> None:
    change = {0: -9.0, 5: -2.0, 7: -1.5, 8: 1.0}
    rows = [row(0, 5, [2.0] * 29, change, preset="caesar29")]
    found = judge(*rows)
    assert found["15t"]["ours"] == pytest.approx(0.5)
    assert found["15ct"]["ours"] == pytest.approx(-9.0), "the probe is shift 0"


@pytest.mark.parametrize(("lost", "verdict"), [(0.05, "holds"), (0.2, "not shown")])
def test_a_model_is_confident_while_it_loses_little(
    lost: float, verdict: str, judge: Judge
) -> None:
    rows = [row(p, p + 1, [2.0] * 29, {p: lost}, preset="caesar29") for p in range(12)]
    assert judge(*rows)["15ct"]["verdict"] == verdict


def test_what_is_half_done_is_a_weighted_correlation(judge: Judge) -> None:
    draw = np.random.default_rng(1)
    pairs = [(p, (p + step) % 26) for p in range(5) for step in (1, 2, 13)]
    before = draw.uniform(1, 4, 15)
    change = -1 / before + draw.normal(0, 0.05, 15)
    rows = [
        row(p, t, [float(b)] * 26, {t: float(c)})
        for (p, t), b, c in zip(pairs, before, change, strict=True)
    ]
    found = judge(*rows)["20t"]
    often = np.tile([312, 312, 26], 5)
    both = np.cov(before, change, aweights=often)
    expected = both[0, 1] / np.sqrt(both[0, 0] * both[1, 1])
    assert found["ours"] == pytest.approx(expected)
    assert found["low"] < expected < found["high"]
    assert found["verdict"] == "holds"


def test_stories(judge: Judge) -> None:
    rows = [story(t, 0.5, seed=s) for t in range(1, 10) for s in range(2)]
    rows += [story(1, 0.5, probe=2, pair=99)]
    rows += [story(1, 0.5, probe=p, pair=90 + p) for p in (3, 4)]
    found = judge(*rows)
    assert (found["21"]["ours"], found["21"]["verdict"]) == (1, "holds")
    assert found["21"]["n"] == 12, "two seeds of a pair are one"
    assert found["22"]["ours"] == pytest.approx(0.05)
    assert found["22p"]["ours"] == pytest.approx(0.05 - 0.01)
    assert (found["23"]["ours"], found["23"]["verdict"]) == (0, "holds")
    assert found["24"]["verdict"] == "not measured", "the edit is bound to few tokens"
    assert (found["25"]["ours"], found["25"]["verdict"]) == (1, "too few pairs")
    coded = [story(t, 0.5, trial="as coded", probe=p) for t in (1, 2) for p in range(6)]
    found = judge(*(each | {"reached": {"share": 0.2}} for each in coded))["24"]
    assert (found["ours"], found["verdict"]) == (pytest.approx(0.2), "not shown")


def test_faith_is_compared_between_widths(judge: Judge) -> None:
    draw = np.random.default_rng(2)
    real = draw.uniform(1, 2, (12, 2))
    guess = np.stack([real[:, 0], draw.permutation(real[:, 1])], 1)
    rows = [
        row(
            pair,
            pair + 1,
            [2.0] * 26,
            {pair + 1: -float(real[pair, model])},
            suite="confidence",
            trial=trial,
            change={"source": trial},
            predicted=float(guess[pair, model]),
        )
        for model, trial in enumerate(("edit, width 32", "edit, width 128"))
        for pair in range(12)
    ]
    found = judge(*rows)["26"]
    expected = 1 - spearmanr(guess[:, 1], real[:, 1]).statistic
    assert found["ours"] == pytest.approx(expected)
    assert found["low"] < expected < found["high"]


def test_constant_predictions_have_no_correlation(judge: Judge) -> None:
    rows = [
        row(0, t, [2.0] * 26, {t: -float(t)}, suite="confidence", trial=trial)
        | {"change": {"source": trial}}
        for trial in ("edit, width 32", "edit, width 128")
        for t in range(1, 13)
    ]
    found = judge(*rows)["26"]
    assert (found["ours"], found["verdict"], found["n"]) == (None, "not measured", 12)


def test_three_presets_of_few_pairs_are_no_measurement(judge: Judge) -> None:
    rows = [row(t - 1, t, [2.0] * 26, {t: -1.0}) for t in range(1, 12)]
    assert judge(*rows)["25"]["verdict"] == "not measured"
    found = judge(row(11, 12, [2.0] * 26, {12: -1.0}))["25"]
    assert (found["ours"], found["verdict"]) == (1, "too few pairs")
