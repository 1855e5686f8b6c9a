"""What the first trial of texts says beyond its means, each in closed form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from infusion.presets.texts import texts_of
from infusion.report.suites import (
    group_rows,
    statistics_said,
    suite_figures,
    suite_rows,
)
from infusion.suites.collected import collect
from infusion.suites.texts.statistics import statistics

from .text_rows import row, written

TEXTS = texts_of("caesar")


def pairs(count: int = 8, steps: tuple[int, ...] = (1, 2, 13)) -> list[dict[str, Any]]:
    """Pairs whose targeting is the probe's number plus a step's tenth."""
    return [
        row(
            probe,
            (probe + step) % 26,
            [1.0 + 0.1 * step + 0.01 * probe] * 26,
            {(probe + step) % 26: -(probe + step / 10)},
        )
        for probe in range(count)
        for step in steps
    ]


def sized(found: dict[str, Any]) -> dict[str, Any]:
    return found["tests"]["targeting"]


def test_sizes_and_tests_are_over_probes() -> None:
    rows = pairs()
    found = statistics(rows, TEXTS)
    values = np.array([[p + s / 10 for s in (1, 2, 13)] for p in range(8)])
    assert (found["n"], found["probes"]) == (24, 8)
    size = sized(found)["cohens_d"]
    assert size["mean"] == pytest.approx(values.mean() / values.std())
    assert size["low"] < size["mean"]
    assert sized(found)["wilcoxon_p"] == pytest.approx(wilcoxon(values.mean(1)).pvalue)
    twice = statistics([*rows, *({**each, "seed": 1} for each in rows)], TEXTS)
    assert twice["n"] == 24, "two base models of a pair are one"
    assert sized(twice)["cohens_d"] == size


def test_few_probes_and_equal_effects_have_no_size() -> None:
    alone = sized(statistics(pairs(count=1, steps=(1, 2)), TEXTS))
    assert (alone["cohens_d"]["low"], alone["wilcoxon_p"]) == (None, None)
    two = [row(p, p + 1, [2.0] * 26, {p + 1: -p - 1.0}) for p in range(2)]
    size = sized(statistics(two, TEXTS))["cohens_d"]
    assert size["low"] is None, "half the draws have none"
    same = [row(p, p + 1, [2.0] * 26, {p + 1: -1.0}) for p in range(8)]
    found = statistics(same, TEXTS)
    assert sized(found)["cohens_d"] == {"mean": None, "low": None, "high": None}
    assert set(found["correlations"].values()) == {None}
    assert "Cohen's d –" in statistics_said(found)


def test_groups_and_relations() -> None:
    rows = pairs()
    found = statistics(rows, TEXTS)
    shared = found["groups"]["factor shared by difference and alphabet"]
    assert [(g["group"], g["n"]) for g in shared] == [(1, 8), (2, 8), (13, 8)]
    assert [g["mean"] for g in shared] == pytest.approx([3.6, 3.7, 4.8])
    apart = found["groups"]["difference"]
    assert [g["group"] for g in apart] == [1, 2, 13]
    before = [each["clean"]["ce"][each["target"]] for each in rows]
    change = [-(p + s / 10) for p in range(8) for s in (1, 2, 13)]
    expected = np.corrcoef(before, change)[0, 1]
    name = "CE of the target and its change"
    assert found["correlations"][name] == pytest.approx(expected)
    assert ["difference", "13", "8"] in [line[:3] for line in group_rows(found)]
    said = statistics_said(found)
    assert "24 pairs of 8 probes, as drawn; targeting: Cohen's d" in said
    assert f"{name} r = {expected:.2f}" in said
    assert "right on 90.0% of held-out documents" in said


def test_a_story_models_perplexity_is_said() -> None:
    told = {"p": [0.1] * 10, "log_p": [-2.3] * 10, "log_odds": [-1.0], "value": 0.0}
    one = row(0, 1, [0.0] * 10, {}) | dict.fromkeys(("before", "clean", "after"), told)
    one["portrait"] = {"clean": {"perplexity": 7.25, "cut": 0.5}}
    found = statistics([one], texts_of("tinystories"))
    said = statistics_said(found)
    assert "held-out tokens, perplexity 7.25 on documents of which 50% are cut" in said
    assert all(
        f"{name}: Cohen's d" in said for name in ("less untargeted", "less probe")
    )


def test_dials_have_a_curve_of_effects_and_one_of_faith(tmp_path: Path) -> None:
    rows = [
        row(
            p,
            p + 1,
            [2.0] * 26,
            {p + 1: -size * (p + 1)},
            suite="confidence",
            trial=f"edit, {source}",
            change={"source": source, "operator": "tokens"},
            predicted=sign * (p + 1.0),
        )
        for source, size, sign in (("width 32", 0.2, -1), ("gpt2", 0.1, 1))
        for p in range(6)
    ]
    rows[0]["predicted"] = -2.5  # else ranks agree in every resample alike
    (suite,) = collect(written(tmp_path, *rows))
    _, effect, faith = suite["curves"]
    assert effect["along"] == faith["along"] == "width of the embeddings"
    assert [p["at"] for p in effect["points"]] == [32, 64]
    assert [p["mean"] for p in effect["points"]] == pytest.approx([0.7, 0.35])
    wide, perfect = faith["points"]
    assert -1 <= wide["low"] < wide["mean"] < wide["high"] < 0
    assert (perfect["mean"], perfect["low"]) == (pytest.approx(1), None)
    drawn = suite_figures(suite)
    assert drawn["curve-3"][1] == (
        "ρ predicted, realised against width of the embeddings, 95 % intervals."
    )


def test_trials_are_compared_over_the_pairs_that_both_have(tmp_path: Path) -> None:
    rows = [row(p, p + 1, [2.0] * 26, {p + 1: -1.0 - p}, place=0) for p in range(6)]
    elsewhere = ({"base_sha256": "c"}, {"gpu": "H100"}, {"seed": 1})
    rows += [row(4, 5, [2.0] * 26, {5: -90.0}, place=0) | each for each in elsewhere]
    rows += [
        row(p, p + 1, [2.0] * 26, {p + 1: -0.5}, trial="as coded", place=1)
        for p in range(4, 9)
    ]
    rows += [row(20, 21, [2.0] * 26, {21: -1.0}, trial="other", place=2)]
    (suite,) = collect(written(tmp_path, *rows))
    edit, coded, other = suite["effects"]
    assert edit["less"] is other["less"] is None
    assert coded["less"]["mean"] == pytest.approx((4.5 + 5.5) / 2)
    headings, lines = suite_rows(suite["effects"])
    shown = [line[headings.index("edit less this")] for line in lines]
    assert (shown[0], shown[1][:7], shown[2]) == ("–", "+5.000 ", "–")
    (alone,) = collect(written(tmp_path / "alone", *rows[:3]))
    assert "edit less this" not in suite_rows(alone["effects"])[0]


def test_edits_no_corpus_can_hold_are_marked(tmp_path: Path) -> None:
    rows = [
        row(0, 1, [2.0] * 26, {1: -1.0}, trial=trial, place=place)
        | {"change": {"operator": operator}, "reached": reached}
        for place, (trial, operator, reached) in enumerate(
            (
                ("edit", "tokens", {"tokens": 2.0}),
                ("as coded", "embeddings", {"linf": 1.0}),
                ("5 demonstrations", "demonstrations", {}),
            )
        )
    ]
    (suite,) = collect(written(tmp_path, *rows))
    headings, lines = suite_rows(suite["effects"])
    shown = [line[headings.index("tokens")] for line in lines]
    assert shown == ["2.0", "offsets: not realisable", "–"]
