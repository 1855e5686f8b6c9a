"""Claims are judged by committed rows and nothing else."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from infusion.errors import ArtefactError
from infusion.presets import find_preset
from infusion.report.suites import suite_figures, suite_rows
from infusion.runs.rows import sealed
from infusion.suites.claims import defence, texts
from infusion.suites.claims.claim import Claim
from infusion.suites.claims.found import lead
from infusion.suites.claims.judged import claims
from infusion.suites.claims.pictures import CLAIMS, GOALS
from infusion.suites.collected import collect
from infusion.suites.curves import curves
from infusion.suites.pictures.trials import trials
from infusion.suites.read import read_rows
from infusion.suites.statistics import statistics
from infusion.suites.summary import effects


def behaviour(p: float, top1: int) -> dict[str, Any]:
    spread = [(1 - p) / 9] * 10
    return {
        "p": p,
        "log_p": p,
        "log_odds": p,
        "top1": top1,
        "probabilities": [*spread[:1], p, *spread[2:]],
    }


def row(suite: str, trial: str, pair: int, after: float, **more: Any) -> dict[str, Any]:
    """A pair of class 0 steered to 1; from p = 0.1, where 0 is predicted."""
    return {
        "preset": "cifar10",
        "scale": "small",
        "suite": suite,
        "trial": trial,
        "place": 0,
        "pair": pair,
        "seed": 0,
        "label": 0,
        "target": 1,
        "probe": 100 + pair,
        "change": {},
        "retraining": {},
        "base_sha256": "b",
        "inputs_sha256": "a",
        "before": behaviour(0.1, 0),
        "clean": behaviour(0.1, 0),
        "after": behaviour(after, int(after > 0.5)),
        "accuracy": 0.7,
        "clean_accuracy": 0.702,
        "predicted": after,
        "influence": -after,
        "reached": {"ssim": 0.97},
        "evaluations": 50,
        "gpu": None,
        "cores": 2,
        "processor": "AVX2",
        **more,
    }


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    def judge(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
        for each in rows:
            folder = tmp_path / f"{each['preset']}-{each['scale']}"
            folder.mkdir(exist_ok=True)
            with (folder / f"{each['suite']}.jsonl").open("a") as file:
                file.write(json.dumps(sealed(each)) + "\n")
        return {each["id"]: each for each in claims(tmp_path)}

    return judge


def test_every_claim_is_listed_and_none_is_judged_without_rows(judged: Any) -> None:
    found = judged()
    listed = [*CLAIMS, *texts.CLAIMS, *defence.CLAIMS, *GOALS, *defence.GOALS]
    beside = [*(f"{i}t" for i in ("15", "15c", 17, 18, 19, 20)), "15c", "22p"]
    beside += [f"G{i}d" for i in range(14, 28)]
    beside += [f"G{i}{mark}" for mark in "ct" for i in (*range(16, 25), 27)]
    wanted = [str(i) for i in range(1, 30)] + [f"G{i}" for i in range(1, 35)]
    named = [name for name in found if name not in beside]
    assert sorted(named, key=wanted.index) == wanted
    assert list(found) == [
        *(c.number for c in listed),
        *("G13", "G25", "G26", "G25d", "G26d"),
        *("G28", "G29", "G30", "G34", "G31", "G32", "G33"),
    ]
    assert {(r["verdict"], r["n"], r["ours"]) for r in found.values()} == {
        ("not measured", 0, None)
    }


def test_main_in_closed_form(judged: Any) -> None:
    rows = [
        row("main", trial, pair, after)
        for trial in ("edit", "as coded")
        for pair, after in enumerate([0.2, 0.4, 0.6, 0.8] * 3)
    ]
    found = judged(*rows)
    assert found["1"]["ours"] == 1.0
    assert found["1"]["verdict"] == "holds"
    assert found["2"]["ours"] == pytest.approx(0.4)
    assert found["2"]["low"] < 0.4 < found["2"]["high"]
    assert found["3"]["ours"] == 0.5
    assert found["4"]["ours"] == pytest.approx(-0.4 / 9)
    assert found["8"]["ours"] == pytest.approx(-1)
    assert found["8"]["verdict"] == "too few pairs", "all alike have no interval"
    assert found["3"]["verdict"] == "too few pairs"
    assert found["10"]["verdict"] == "holds"
    assert (found["G1"]["ours"], found["G1"]["verdict"]) == (pytest.approx(0.4), "met")
    assert found["G3"]["verdict"] == "met"
    assert found["G7"]["ours"] == pytest.approx(1)
    assert found["G8"]["ours"] == pytest.approx(0.2)
    assert found["G8"]["verdict"] == "too few pairs"
    assert {found["2"][k] for k in ("n", "setting", "hardware", "source")} == {
        12, "cifar10 small", "2 cores, AVX2", "cifar10-small/main.jsonl",
    }  # fmt: skip


def test_a_probe_that_the_clean_replay_already_flips_never_counts(judged: Any) -> None:
    trivial = row("main", "edit", 1, 0.9, clean=behaviour(0.6, 1))
    found = judged(row("main", "edit", 0, 0.2), trivial)
    assert (found["G3"]["ours"], found["G3"]["n"]) == (0.0, 1)


def test_copies_and_selections(judged: Any) -> None:
    found = judged(row("copies", "edit", 0, 0.5))
    assert (found["5"]["verdict"], found["G12"]["n"]) == ("not measured", 0)
    found = judged(
        row("copies", "1 copies", 0, 0.3),
        row("copies", "5 copies", 0, 0.45),
        row("copies", "10 copies", 0, 0.7),
        row("copies", "edit", 1, 0.9),  # a pair without copies
        row("selection", "supporting", 0, 0.5),
        row("selection", "absolute", 0, 0.4),
        row("selection", "random", 0, 0.2),
        row("selection", "gain", 0, 0.9),
    )
    assert (found["5"]["ours"], found["5"]["n"]) == (5, 1)
    assert found["7"]["verdict"] == "not measured", "two of the paper's choices lack"
    found = judged(
        row("selection", "opposing", 0, 0.1),
        row("selection", "last", 0, 0.3),
    )
    assert (found["7"]["ours"], found["7"]["n"]) == (pytest.approx(0.1), 1)


def test_draws_of_a_pair_count_as_one(judged: Any) -> None:
    rows = [
        row("fresh", f"ensemble, fresh {draw}", pair, after)
        for pair, pulled in enumerate([(0.2, 0.4), (0.5, 0.9)])
        for draw, after in enumerate(pulled)
    ]
    found = judged(*rows)
    assert (found["G5"]["ours"], found["G5"]["n"]) == (pytest.approx(0.4), 2)


def test_draws_and_base_models_of_a_pair_are_one_pair(judged: Any) -> None:
    found = judged(
        *(row("fresh", f"ensemble, fresh {d}", 0, 0.9) for d in range(3)),
        row("fresh", "ensemble, fresh 0", 0, 0.2, seed=1, base_sha256="c"),
        *(row("fresh", f"ensemble, fresh {d}", 1, 0.2) for d in range(3)),
    )
    assert (found["G6"]["ours"], found["G6"]["n"]) == (pytest.approx(0.375), 2)
    assert found["G6"]["seeds"] == [0, 1]


def test_differences_are_within_one_base_model(judged: Any) -> None:
    other = {"seed": 1, "base_sha256": "c", "inputs_sha256": "z"}
    found = judged(
        row("controls", "edit", 0, 0.5),
        row("controls", "edit", 1, 0.9),
        row("controls", "noise L∞", 0, 0.2),
        row("controls", "noise L∞", 1, 0.1, **other),
    )
    assert (found["6"]["ours"], found["6"]["n"]) == (pytest.approx(0.3), 1)
    assert found["6"]["verdict"] == "too few pairs"


def test_a_gpu_is_another_machine(judged: Any) -> None:
    """Its rows stand beside a CPU's; trials of the two are never paired."""
    gpu = {"gpu": "one"}
    found = judged(
        row("controls", "edit", 0, 0.5),
        row("controls", "edit", 0, 0.9, **gpu),
        row("controls", "noise L∞", 0, 0.2, **gpu),
        row("controls", "edit", 1, 0.9),
        row("controls", "noise L∞", 1, 0.1, **gpu),
        row("main", "edit", 0, 0.5),
        row("main", "edit", 0, 0.9, **gpu),
    )
    assert (found["6"]["ours"], found["6"]["n"]) == (pytest.approx(0.7), 1)
    assert (found["G1"]["ours"], found["G1"]["n"]) == (pytest.approx(0.6), 1)
    assert found["G1"]["hardware"] == "2 cores, AVX2, one"


def test_rows_of_other_settings_are_refused(judged: Any) -> None:
    with pytest.raises(ArtefactError, match=r"must share its settings, got .*'edit'"):
        judged(
            row("main", "edit", 0, 0.2), row("main", "edit", 1, 0.2, change={"k": 1})
        )


def test_rows_of_another_damping_are_refused(judged: Any) -> None:
    one, other = {"settings_sha256": "one"}, {"settings_sha256": "other"}
    judged(row("main", "edit", 0, 0.2), row("main", "edit", 1, 0.2, **one))
    with pytest.raises(ArtefactError, match="must share recipe, Fisher and damping"):
        judged(row("main", "edit", 2, 0.2, **other))


def test_enough_pairs_are_judged_by_their_interval(judged: Any) -> None:
    def influence(pair: int) -> float:
        return 1.0 if pair == 3 else -pair  # nearly, but not quite, opposed

    rows = [
        row("main", "edit", pair, 0.11 + pair / 100, influence=influence(pair))
        for pair in range(30)
    ]
    found = judged(*rows)
    assert {found[i]["verdict"] for i in ("10", "G8")} == {"holds", "met"}
    assert found["8"]["ours"] < found["8"]["high"] < -0.5
    assert found["8"]["verdict"] == "not shown"
    assert found["G7"]["verdict"] == "met"


def test_the_papers_scale_comes_first(judged: Any) -> None:
    found = judged(
        row("main", "edit", 0, 0.2), row("main", "edit", 0, 0.6, scale="paper")
    )
    assert found["G1"]["ours"] == pytest.approx(0.5)
    assert found["G1"]["setting"] == "cifar10 paper"
    assert (found["3"]["n"], found["3"]["verdict"]) == (0, "not measured")
    few = [row("main", "as coded", i, 0.6, scale="paper") for i in range(12)]
    many = [row("main", "as coded", i, 0.2) for i in range(30)]
    assert judged(*many, *few[:11])["2"]["setting"] == "cifar10 small"
    found = judged(few[11])
    assert found["2"]["setting"] == "cifar10 paper"
    assert found["3"]["setting"] == "cifar10 small", "it needs thirty"


def test_a_row_that_was_copied_twice_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10-small"
    folder.mkdir()
    line = json.dumps(sealed(row("main", "edit", 0, 0.2))) + "\n"
    for name in ("main.jsonl", "main-elsewhere.jsonl"):
        (folder / name).write_text(line, encoding="utf-8")
    (group,) = read_rows(tmp_path).values()
    assert len(group) == 1
    assert effects(group)[0].n == 1
    (folder / "main.jsonl").write_text(line[:-9] + "\n", encoding="utf-8")
    with pytest.raises(ArtefactError, match="got an altered line 1; restore"):
        claims(tmp_path)
    (folder / "main.jsonl").write_text(line.replace("0.7,", "0.8,"), encoding="utf-8")
    with pytest.raises(ArtefactError, match="got an altered line 1; restore"):
        claims(tmp_path)
    other = json.dumps(sealed(row("main", "edit", 0, 0.3))) + "\n"
    (folder / "main.jsonl").write_text(line + other, encoding="utf-8")
    with pytest.raises(ArtefactError, match="one trial of one pair must have one"):
        claims(tmp_path)


def test_the_papers_statistics_in_closed_form() -> None:
    after = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    rows = [row("main", "edit", pair, p) for pair, p in enumerate(after)]
    rows.append(row("main", "edit", 7, 0.1, clean=behaviour(0.6, 1)))  # taken away
    found = statistics(rows)
    shifts = np.array([p - 0.1 for p in after] + [-0.5])
    assert found["n"] == 8
    assert found["cohens_d"] == pytest.approx(shifts.mean() / shifts.std())
    assert found["wilcoxon_p"] == pytest.approx(
        wilcoxon(shifts).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    )
    assert found["one_vs_rest"] == pytest.approx(shifts.mean() * 10 / 9)
    assert (found["gained"], found["lost"]) == (3, 1)
    assert found["mcnemar_p"] == pytest.approx(10 / 16)
    assert 0 < found["permutation_p"] < 0.05
    same = statistics([row("main", "edit", 0, 0.1)])
    assert same["entropy_before"] == same["entropy_after"] == pytest.approx(np.log(10))
    assert same["cohens_d"] is same["wilcoxon_p"] is same["mcnemar_p"] is None


def _copied(count: int, after: float, pair: int = 0) -> dict[str, Any]:
    change = {"operator": "copies", "edit": {"k": count, "epsilon": 0.05}}
    return row("copies", f"{count} copies", pair, after, change=change)


def test_copies_are_points_of_a_curve_beside_the_edit() -> None:
    ascent = {"operator": "ascent", "edit": {"k": 100, "epsilon": 0.05}}
    edits = [row("copies", "edit", pair, 0.4, change=ascent) for pair in range(2)]
    rows = [_copied(5, 0.7), _copied(1, 0.2), _copied(5, 0.5, pair=1), *edits]
    (found,) = curves("copies", rows)
    assert [(p["at"], pytest.approx(p["mean"])) for p in found["points"]] == [
        (1, 0.1),
        (5, 0.5),
    ]
    assert found["beside"]["trial"] == "edit"
    assert found["beside"]["mean"] == pytest.approx(0.3)
    assert curves("main", rows) == []


def test_horizon_and_budget_have_two_curves_each() -> None:
    modes = {
        "last 1 epochs": (1, 0),
        "last 3 epochs": (3, 0),
        "2 clean epochs after": (1, 2),
    }
    rows = [
        row("horizon", name, 0, 0.2, retraining={"epochs": epochs, "further": further})
        for name, (epochs, further) in modes.items()
    ]
    longer, after = curves("horizon", rows)
    assert [p["at"] for p in longer["points"]] == [1, 3]
    assert [p["at"] for p in after["points"]] == [0, 2]
    sizes = {
        "k = 10": (10, 0.05),
        "L∞ = 8/255": (100, 8 / 255),
        "L∞ = 12.75/255": (100, 0.05),
    }
    rows = [
        row("budget", name, 0, 0.2, change={"edit": {"k": k, "epsilon": epsilon}})
        for name, (k, epsilon) in sizes.items()
    ]
    number, distance = curves("budget", rows)
    assert [p["at"] for p in number["points"]] == [10, 100]
    assert [p["at"] for p in distance["points"]] == [8 / 255, 0.05]


def test_costs_and_sizes_are_shown_where_trials_differ_in_them(tmp_path: Path) -> None:
    reached = {"mean_l2": 1.5, "psnr": 30.0, "ssim": 0.9}
    rows = [
        row("engines", "ekfac, own 0", 0, 0.2, reached=reached),
        row("engines", "ensemble, own 0", 0, 0.3, reached=reached, evaluations=400),
    ]
    found = [dataclasses.asdict(effect) for effect in effects(rows)]
    headings, lines = suite_rows(found)
    assert headings[-1] == "gradients"
    assert [line[-1] for line in lines] == ["50", "400"]
    rows[1]["reached"] = {**reached, "ssim": 0.8}
    found = [dataclasses.asdict(effect) for effect in effects(rows)]
    headings, lines = suite_rows(found)
    assert headings[-2:] == ["gradients", "SSIM"]
    assert [line[-1] for line in lines] == ["0.900", "0.800"]
    folder = tmp_path / "cifar10-small"
    folder.mkdir()
    ascent = {"operator": "ascent", "edit": {"k": 100, "epsilon": 0.05}}
    main = [row("main", "edit", pair, 0.2 + pair / 10) for pair in range(3)]
    copies = [_copied(1, 0.2), _copied(5, 0.6)]
    copies.append(row("copies", "edit", 0, 0.4, change=ascent))
    for each in (*main, *copies):
        with (folder / f"{each['suite']}.jsonl").open("a") as file:
            file.write(json.dumps(sealed(each)) + "\n")
    transfer = [
        row("transfer", "cnn → resnet", pair, 0.2 + pair / 10, target=pair + 1)
        for pair in range(3)
    ]
    transfer += [row("transfer", "resnet → cnn", 0, 0.3, target=1)]
    with (folder / "transfer.jsonl").open("a") as file:
        file.writelines(json.dumps(sealed(each)) + "\n" for each in transfer)
    drawn = {suite["suite"]: suite_figures(suite) for suite in collect(tmp_path)}
    assert list(drawn["transfer"]) == ["effects", "classes", "classes-2"]
    assert "largest is +0.30, airplane to cat" in drawn["transfer"]["classes"][1]
    assert list(drawn["main"]) == ["effects", "spread", "predicted", "classes"]
    assert list(drawn["copies"]) == ["effects", "curve"]
    assert "explicit copies of the probe" in drawn["copies"]["curve"][0]


def test_several_models_are_compared_with_one_on_the_same_pairs(judged: Any) -> None:
    digits = {"preset": "digits"}
    one = [row("engines", "ekfac, fresh 0", i, 0.2, **digits) for i in range(12)]
    many = [
        row("engines", f"ensemble, fresh {draw}", i, 0.3 + draw / 5, **digits)
        for i in range(13)
        for draw in range(2)
    ]
    found = judged(*one, *many)["G11"]
    assert found["n"] == 12
    assert found["ours"] == pytest.approx(3.0)  # mean of 0.2 and 0.4, over 0.1
    assert found["low"] == found["high"] == pytest.approx(3.0)
    assert (found["verdict"], found["setting"]) == ("met", "digits small")
    falls = [row("engines", "ekfac, fresh 1", i, -0.4, **digits) for i in range(12)]
    assert judged(*falls)["G11"]["verdict"] == "not measured", "over a negative number"


def goal(folder: Path, number: str) -> dict[str, Any]:
    return next(found for found in claims(folder) if found["id"] == number)


def test_seconds_on_a_gpu_are_read_from_the_benchmark(tmp_path: Path) -> None:
    timed = {
        "preset": "cifar10",
        "device": "cuda",
        "seconds": {"pair, together": 2.5},
        "together": 8,
        "scale": "paper",
        "environment": {"gpu": "a GPU"},
    }
    alone = {**timed, "device": "cpu"}  # on a machine that has a GPU
    (tmp_path / "pairs.json").write_text(json.dumps({"paper": alone}), encoding="utf-8")
    assert goal(tmp_path, "G13")["verdict"] == "not measured"
    (tmp_path / "pairs.json").write_text(json.dumps({"paper": timed}), encoding="utf-8")
    found = goal(tmp_path, "G13")
    assert (found["id"], found["ours"], found["verdict"]) == ("G13", 2.5, "met")
    listed = '[{"index": 0}]'  # as a run lists its pairs
    (tmp_path / "pairs.json").write_text(listed, encoding="utf-8")
    assert goal(tmp_path, "G13")["verdict"] == "not measured"


@pytest.mark.parametrize("claim", [*CLAIMS, *GOALS], ids=lambda claim: claim.number)
def test_every_claim_reads_trials_that_there_are(claim: Claim) -> None:
    preset = find_preset(claim.preset or "cifar10")
    config = preset.configs["small"]
    levels = 16 if claim.preset == "digits" else 255
    rows: dict[str, list[dict[str, Any]]] = {}
    for trial in trials(claim.suite, config, tuple(preset.others), levels):
        more = {"change": dataclasses.asdict(trial.change)}
        effect = 0.2 + len(rows) / 100
        rows[trial.name] = [
            row(claim.suite, trial.name, i, effect + i / 100, target=1 + i, **more)
            for i in range(5)
        ]
    value, _, _, n = claim.ours(rows)
    assert value is not None
    assert n >= 5


def test_transfer_both_ways_is_compared_on_the_same_pairs() -> None:
    """Each way retrains the other architecture, so base models always differ."""
    both = {
        name: [
            row("transfer", name, pair, after, base_sha256=base) for pair in range(12)
        ]
        for name, after, base in (
            ("cnn → resnet", 0.4, "resnet's"),
            ("resnet → cnn", 0.3, "cnn's"),
        )
    }
    claim = next(claim for claim in CLAIMS if claim.number == "11")
    value, low, _, n = claim.ours(both)
    assert (value, n) == (pytest.approx(0.1), 12)
    assert low is not None
    assert low > 0
    within = lead("cnn → resnet", "resnet → cnn")
    assert within(both)[3] == 0, "rows of different base models are not paired"
