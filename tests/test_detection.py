"""What an auditor finds of a suite's changes, and how its goals are judged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infusion.audit.detectors import detect
from infusion.audit.evidence import Evidence
from infusion.audit.shipped import RULES, Rule, rules
from infusion.audit.suspicion import combined, standardised, suspicions
from infusion.audit.transforms import changed_copies
from infusion.configs import RunConfig
from infusion.errors import ArtefactError, InputError
from infusion.presets.context import Pair
from infusion.runs.rows import sealed
from infusion.runs.store import Store
from infusion.suites.claims.benchmarks import benchmarked
from infusion.suites.claims.chosen import PURPOSES, chosen, chosen_on, held_out
from infusion.suites.claims.defence import (
    above_null,
    auroc,
    false_flags,
    flagged,
    hits,
    kept,
    recall,
)
from infusion.suites.crafting import read_edits
from infusion.suites.detected import detected
from infusion.suites.detection import CUTS, PAIRED, compare, missing_clean
from infusion.suites.pictures.poisons import flips, obeyed, patches, stamped
from infusion.suites.read import read_rows
from infusion.suites.run import run_suite
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, opened

from .test_claims import row
from .test_suites import tiny as smaller

RESULTS = Path(__file__).parent.parent / "results"
SIZE = 600
"""As few as quiet directions can be learned from a half of."""


def tiny(pairs: int = 1) -> RunConfig:
    config = smaller(pairs)
    return replace(config, data=replace(config.data, train=SIZE))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("detection") / "run", replace(tiny(), pairs=0))


@pytest.fixture(scope="module")
def rows(home: Home) -> dict[str, dict[str, Any]]:
    """Each trial of the suite, one pair of it."""
    made = sorted(run_suite(tiny(1), "detection", home.root), key=lambda r: r["place"])
    return {each["trial"]: each for each in made}


def test_every_change_is_audited_beside_its_null(rows: dict[str, dict[str, Any]]):
    assert list(rows) == [
        "edit", "edit, a fifth", "random documents", "evading", "10 copies",
        "label flips", "patch",
    ]  # fmt: skip
    for trial, each in rows.items():
        audit = each["audit"]
        assert audit["documents"] == SIZE
        told = "influence on the behaviour" in audit["found"]
        assert told == (trial != "label flips"), "nobody in particular is affected"
        assert "surprisal" in audit["without"]
        for said in audit["found"].values():
            assert 0 <= said["auroc"] <= 1
            assert 0 <= said["null"] <= 1
            assert len(said["hits"]) == len(said["clean"]) == len(CUTS)
            assert said["hits"] == sorted(said["hits"], reverse=True)
            assert max(said["hits"]) <= audit["edited"]
    assert rows["label flips"]["audit"]["edited"] == 60
    assert rows["patch"]["audit"]["edited"] == 6
    assert 0 <= rows["patch"]["audit"]["success"]["obeyed"] <= 1
    assert rows["label flips"]["retraining"]["epochs"] == 2, "from the start"
    summed = detected(list(rows.values()))
    assert [each["trial"] for each in summed] == list(rows)
    first = summed[0]["detectors"]["loss"]
    own = rows["edit"]["audit"]["found"]["loss"]
    assert first["above"]["mean"] == pytest.approx(own["auroc"] - own["null"])


def test_a_second_run_finds_its_rows(home: Home, rows: dict[str, dict[str, Any]]):
    before = (home.root / "rows" / "detection.jsonl").read_bytes()
    run_suite(tiny(1), "detection", home.root, only="e*")
    assert (home.root / "rows" / "detection.jsonl").read_bytes() == before
    assert len(rows) == 7


@pytest.mark.usefixtures("rows")
def test_an_audit_that_is_missing_names_all_that_read_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
):
    """Several trials of one retraining share a file: without it none is measured."""
    run, task = opened(home, "resnet")
    pair = study_of(run).pairs(run, task)[0]
    works = [(pair, t) for t in study_of(run).trials("detection", run) if t.audited]
    assert missing_clean(home, works) == []
    monkeypatch.setattr(Store, "has", lambda *_: False)
    named = [each for job in missing_clean(home, works) for each in job]
    assert sorted(t.name for _, t in named) == sorted(t.name for _, t in works)


def test_the_null_scores_the_same_rows_of_clean_documents(
    home: Home, rows: dict[str, dict[str, Any]]
):
    """Noise needs no model, so its null can be had from the documents alone."""
    run, task = opened(home, "resnet")
    pair = study_of(run).pairs(run, task)[0]
    trial = next(t for t in study_of(run).trials("detection", run) if t.name == "edit")
    edits = read_edits(run, pair, trial.change)
    edited = torch.zeros(SIZE, dtype=torch.bool)
    edited[edits.documents] = True
    name = "noise residual"
    found = {name: standardised(detect(name, Evidence(task, edits.apply(run.train))))}
    clean = {name: standardised(detect(name, Evidence(task, run.train)))}
    assert compare(found, clean, edited)[name] == rows["edit"]["audit"]["found"][name]


def test_detectors_are_counted_by_hand():
    found = {
        "loss": torch.tensor([3.0, 0.0, 2.0, -1.0]),
        "deep k-NN": torch.tensor([1.0, 0.0, -1.0, 0.5]),
    }
    clean = {name: torch.tensor([0.0, 1.2, 0.0, 0.0]) for name in found}
    edited = torch.tensor([True, False, False, True])
    said = compare(found, clean, edited)
    assert list(said) == ["loss", "deep k-NN", "loss + deep k-NN"]
    both = said["loss + deep k-NN"]  # 4, 0, 1, -0.5
    assert both["auroc"] == 0.5
    assert said["loss"]["auroc"] == 0.5
    assert both["null"] == pytest.approx(0.25)
    assert both["hits"][:7] == [1, 1, 1, 1, 1, 1, 0]
    assert both["misses"][:2] == [0, 0], "1 is not above 1"
    assert both["clean"][:4] == [1, 1, 1, 0]
    assert set(PAIRED) >= {"loss", "deep k-NN"}


def test_scales_are_set_by_most_documents():
    scores = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    spread = standardised(100 + 7 * scores)
    torch.testing.assert_close(spread, standardised(scores))
    assert float(spread[841]) == pytest.approx(0.8814, abs=5e-3), "asinh 1"
    scores[-5:] = 1e9
    torch.testing.assert_close(standardised(scores)[:900], spread[:900])
    assert not standardised(torch.full((9,), 3.0)).any()
    few = torch.zeros(100)
    few[:3] = 1
    assert float(standardised(few)[0]) > 2, "where most agree all set the scale"


def test_what_has_nothing_to_read_is_said(home: Home, rows: dict[str, Any]):
    assert rows
    run, task = opened(home, "resnet")
    found, without = suspicions(Evidence(task, run.train))
    assert "noise residual" in found
    assert "needs a curvature" in without["self-influence"]
    assert "needs a reported one" in without["influence on the behaviour"]
    both = combined(found, ("loss", "noise residual"))
    torch.testing.assert_close(both, found["loss"] + found["noise residual"])


def test_flips_and_patches_change_what_they_say(home: Home):
    run, _ = opened(home, "resnet")
    pair = Pair(3, 5, 1, 7)
    flipped = flips(run, pair, 30)
    assert bool((flipped.before.labels != flipped.after.labels).all())
    assert torch.equal(flipped.before.inputs, flipped.after.inputs)
    assert flips(run, pair, 30).documents.equal(flipped.documents)
    assert not flips(run, replace(pair, index=4), 30).documents.equal(flipped.documents)
    patched = patches(run, pair, 20)
    assert set(patched.after.labels.tolist()) == {7}
    assert 7 not in patched.before.labels.tolist()
    changed = (patched.before.inputs != patched.after.inputs).any(0)[0]
    assert changed.nonzero().min() >= 6, "the lower right corner alone"
    assert (
        patched.after.inputs[..., -2:, -2:].flatten(1).tolist() == [[16, 0, 0, 16]] * 20
    )
    again = patches(run, pair, 20)
    assert again.manifest == patched.manifest


def test_a_patch_is_obeyed_where_it_decides(home: Home):
    run, task = opened(home, "resnet")

    class ByPatch(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            is_patched = (inputs[:, 0, -2, -2] == 1) & (inputs[:, 0, -1, -1] == 1)
            return torch.nn.functional.one_hot(7 * is_patched.long(), 10).float()

    assert obeyed(run, replace(task, model=ByPatch()), 7) == 1.0
    assert obeyed(run, replace(task, model=ByPatch()), 3) == 0.0
    assert len(stamped(run.test)) == len(run.test)


def test_evasion_lowers_what_it_descends(home: Home, rows: dict[str, Any]):
    assert rows
    run, task = opened(home, "resnet")
    pair = study_of(run).pairs(run, task)[0]
    seen = {}
    for trial in study_of(run).trials("detection", run):
        if trial.name in ("edit", "evading"):
            edits = read_edits(run, pair, trial.change)
            found = detect("noise residual", Evidence(task, edits.apply(run.train)))
            seen[trial.name] = float(found[edits.documents].mean())
    assert seen["evading"] < 0.7 * seen["edit"]


def test_copies_of_a_picture_are_changed_as_named():
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    mirrored, right, down, darker, blurred = changed_copies(picture)
    assert torch.equal(mirrored.flip(-1), picture)
    assert torch.equal(right[..., 2:], picture[..., :-2])
    assert not right[..., :2].any()
    assert torch.equal(down[:, 2:], picture[:, :-2])
    assert not down[:, :2].any()
    torch.testing.assert_close(darker, 0.8 * picture)
    torch.testing.assert_close(blurred[:, 5, 5], picture[:, 4:7, 4:7].mean((1, 2)))
    assert {each.shape for each in changed_copies(picture)} == {picture.shape}


# Goals


def audit_row(trial: str, pair: int, seed: int, **said: Any) -> dict[str, Any]:
    names = [" + ".join(rule.detectors) for rule in RULES]
    names += ["loss", "self-influence", *said]
    usual = {
        "auroc": 0.9,
        "null": 0.4,
        "average_precision": 0.5,
        "recall": [0.1, 0.6, 0.8, 0.9],
        "hits": [8] * len(CUTS),
        "misses": [2] * len(CUTS),
        "clean": [1] * len(CUTS),
    }
    audit = {
        "documents": 1000,
        "edited": 10,
        "found": {name: {**usual, **said.get(name, {})} for name in names},
        "without": ["surprisal"],
    }
    return row("detection", trial, pair, 0.5, seed=seed, audit=audit)


def test_halves_share_neither_pairs_nor_base_models():
    both = [audit_row("edit", pair, seed) for pair in range(6) for seed in range(3)]
    first, second = chosen_on(both), held_out(both)
    assert {(r["seed"], r["pair"]) for r in first} == {(0, 0), (0, 2), (0, 4)}
    assert {r["seed"] for r in second} == {1, 2}
    assert {r["pair"] for r in second} == {1, 3, 5}
    assert held_out([]) == chosen_on([]) == []


def test_goals_are_read_off_the_other_half():
    pixels = RULES[0]
    name = " + ".join(pixels.detectors)
    seen = [audit_row("edit", 2, 0, **{name: {"auroc": 0.1}})]
    unseen = [audit_row("edit", pair, 1) for pair in (1, 3)]
    trials = {"edit": [*seen, *unseen]}
    assert auroc("edit", *pixels.detectors)(trials)[0] == pytest.approx(0.9)
    assert auroc("edit", *pixels.detectors)(trials)[3] == 2
    assert auroc("edit", "not yet")(trials)[0] is None
    assert above_null("edit", "loss")(trials)[0] == pytest.approx(0.5)
    assert recall("edit", "loss")(trials)[0] == pytest.approx(0.6)
    assert hits("edit", pixels)(trials)[0] == pytest.approx(0.8)
    assert flagged("edit", pixels)(trials)[0] == pytest.approx(0.01)
    assert flagged("edit", pixels, RULES[1])(trials)[0] == pytest.approx(0.02)
    readable = sum("surprisal" not in rule.detectors for rule in RULES)
    clean = false_flags("edit", rules=RULES)
    assert clean(trials)[0] == pytest.approx(0.001 * readable)
    early = audit_row("edit", 5, 1)
    del early["audit"]["found"]["rare values"]
    trials["edit"].append(early)
    assert clean(trials)[3] == 2, "from before a detector was there"
    assert auroc("none", "loss")(trials)[0] is None


def test_rules_are_read_at_their_own_thresholds():
    rule = RULES[0]
    name, cut = " + ".join(rule.detectors), CUTS.index(rule.threshold)
    by_cut = {
        "hits": [10 - (place >= cut) for place in range(len(CUTS))],
        "misses": [40 - 3 * place for place in range(len(CUTS))],
        "clean": [50 - 2 * place for place in range(len(CUTS))],
        "recall": [0.1, 0.2, 0.3, 0.4],
    }
    trials = {"edit": [audit_row("edit", 1, 1, **{name: by_cut})]}
    assert hits("edit", rule)(trials)[0] == pytest.approx(0.9)
    assert flagged("edit", rule)(trials)[0] == pytest.approx((9 + 40 - 3 * cut) / 1e3)
    clean = false_flags("edit", rules=(rule,))(trials)[0]
    assert clean == pytest.approx((50 - 2 * cut) / 1e3)
    assert recall("edit", *rule.detectors)(trials)[0] == 0.2


def test_what_evasion_leaves_is_over_the_same_pairs():
    plain = [row("detection", "edit", pair, 0.1 + 0.1 * pair) for pair in range(4)]
    evading = [row("detection", "evading", pair, 0.1 + 0.05 * pair) for pair in (1, 2)]

    def moved(each: dict[str, Any]) -> float:
        return each["after"]["p"] - each["clean"]["p"]

    found = kept("evading", moved)({"edit": plain, "evading": evading})
    assert found[0] == pytest.approx(0.5)
    assert found[3] == 2
    assert kept("evading", moved)({"edit": plain})[0] is None


def test_a_rule_is_the_best_that_flags_few_clean_documents():
    """Of 10 changed and 1000 clean documents; 3 clean ones may be flagged."""

    def counts(hits: int, clean: int, auroc: float = 0.9) -> dict[str, Any]:
        """A cut that flags nothing of either from the fourth threshold on."""
        none = [0] * (len(CUTS) - 3)
        return {
            "auroc": auroc,
            "hits": [10, hits, hits, *none],
            "clean": [900, clean, clean, *none],
        }

    rule = Rule("A101", "", (), 0.0, 0.003)
    told = replace(rule, told=True)
    said = {
        "noise residual": counts(7, 3),
        "quiet directions": counts(9, 4),
        "noise residual + quiet directions": counts(8, 3),
        "loss": counts(10, 0),
        "quiet directions + relative influence": counts(10, 0),
    }
    rows = [audit_row("edit", pair, 0, **said) for pair in (0, 2)]
    ours = ("noise residual", "quiet directions"), CUTS[1]
    assert chosen(rule, {"cifar10": rows}) == ours
    assert chosen(told, {"cifar10": rows})[0] == (
        "quiet directions", "relative influence",
    )  # fmt: skip
    other = [audit_row("edit", 1, 0, **{ours[0][0]: counts(10, 0)})]
    other += [audit_row("patch", 0, 0, **{ours[0][0]: counts(10, 0)})]
    assert chosen(rule, {"cifar10": [*rows, *other]}) == ours, "neither counts"
    loud = {**said, " + ".join(ours[0]): counts(8, 4)}
    both = {"cifar10": rows, "digits": [audit_row("edit", 0, 0, **loud)]}
    assert chosen(rule, both)[0] == ("noise residual",), "too many in one preset"
    silent = {"cifar10": rows, "digits": [audit_row("edit", 0, 0)]}
    del silent["digits"][0]["audit"]["found"][" + ".join(ours[0])]
    assert chosen(rule, silent) == ours, "nothing to read, nothing to flag"
    for other in ("caesar", "digits"):
        with pytest.raises(InputError, match="on rows of 'edit' of cifar10, got none"):
            chosen(rule, {other: rows})


def test_an_audit_ships_with_what_the_rows_choose():
    rows = {
        preset: found
        for (preset, scale, suite), found in read_rows(RESULTS).items()
        if (scale, suite) == ("small", "detection")
    }
    shipped = {rule.code: (rule.detectors, rule.threshold) for rule in RULES}
    assert {rule.code: chosen(rule, rows) for rule in RULES} == shipped


def test_rules_have_thresholds_that_rows_count():
    assert all(rule.threshold in CUTS for rule in RULES)
    assert len({rule.code for rule in RULES}) == len(RULES)
    assert [rule.code for rule in rules(True)] == list(PURPOSES)
    assert [rule.code for rule in rules(False)] == ["A101", "A102", "A104", "A105"]
    texts = {rule.code for rule in RULES if "surprisal" in rule.detectors}
    assert texts == {"A104", "A107"}
    assert sum(rule.expected for rule in RULES if rule.code not in texts) < 0.0101
    assert sum(rule.expected for rule in RULES if rule.code in texts) < 0.0101


def certificate(log_p: float, accuracy: float) -> dict[str, Any]:
    def read(value: float, right: float = 0.8) -> dict[str, Any]:
        return {"log_p": value, "predicted": 0, "accuracy": right}

    clean = [read(-3.0), read(-3.2), read(-2.8)]
    after = read(log_p, accuracy)
    return {"given": read(-0.1), "after": after, "replay": read(-3.0), "clean": clean}


def test_undo_is_judged_by_its_benchmark(tmp_path: Path):
    whole = {
        "preset": "cifar10",
        "scale": "small",
        "seed": 0,
        "edited": 10,
        "named": 10,
        "falsely": 0,
        "identical": True,
        "certificate": certificate(-3.0, 0.8),
        "processor": "AVX2",
        "cores": 2,
    }
    spoilt = {**whole, "named": 9, "certificate": certificate(-0.1, 0.79)}
    named_falsely = {**whole, "falsely": 1, "identical": False}

    def judged(*lines: dict[str, Any]) -> dict[str, Any]:
        text = "".join(json.dumps(sealed(line)) + "\n" for line in lines)
        (tmp_path / "defence.jsonl").write_text(text)
        return {goal["id"]: goal for goal in benchmarked(tmp_path)}

    numbers = "G28", "G29", "G30", "G31"
    assert {g["verdict"] for g in benchmarked(tmp_path)} == {"not measured"}
    met = judged(whole, {**whole, "seed": 1})
    assert {met[n]["verdict"] for n in numbers} == {"met"}
    assert (met["G28"]["n"], met["G28"]["seeds"]) == (2, [0, 1])
    missed = judged(whole, spoilt, named_falsely)
    assert {missed[n]["verdict"] for n in numbers} == {"missed"}
    assert missed["G28"]["ours"] == pytest.approx(1 / 3)
    assert (missed["G34"]["ours"], missed["G34"]["verdict"]) == (1.0, "measured")
    digits = judged(whole, {**spoilt, "preset": "digits"})
    assert (digits["G28"]["verdict"], digits["G28d"]["verdict"]) == ("met", "missed")


def flip_row(pair: int, **recall: float) -> dict[str, Any]:
    said = {"deep k-NN": 0.8, "cleanlab a": 0.7, "cleanlab b": 0.75} | {
        "kronfluence self-influence": 0.5,
        **{name.replace("_", " "): value for name, value in recall.items()},
    }
    return {
        "preset": "digits",
        "scale": "small",
        "seed": 1,
        "pair": pair,
        "probe": pair,
        "target": 3,
        "recall": said,
        "processor": "AVX2",
        "cores": 2,
    }


def test_flips_are_judged_beside_the_best_score_of_each_peer(tmp_path: Path):
    def judged(*rows: dict[str, Any]) -> dict[str, Any]:
        text = "".join(json.dumps(sealed(each)) + "\n" for each in rows)
        (tmp_path / "flips.jsonl").write_text(text)
        return {goal["id"]: goal for goal in benchmarked(tmp_path)}

    met = judged(*(flip_row(pair) for pair in range(5)))
    assert met["G25"]["verdict"] == "not measured", "of another preset"
    assert met["G25d"]["ours"] == pytest.approx(0.05)
    assert met["G26d"]["ours"] == pytest.approx(0.3)
    assert (met["G25d"]["verdict"], met["G25d"]["n"]) == ("met", 5)
    few = judged(*(flip_row(pair) for pair in range(4)))
    assert few["G25d"]["verdict"] == "too few pairs"
    behind = judged(*(flip_row(pair, cleanlab_a=0.9) for pair in range(5)))
    assert behind["G25d"]["verdict"] == "missed"
    assert behind["G26d"]["verdict"] == "met"
    altered = (tmp_path / "flips.jsonl").read_text().replace("0.9", "0.1", 1)
    (tmp_path / "flips.jsonl").write_text(altered)
    with pytest.raises(ArtefactError, match="got another in line 1 of"):
        benchmarked(tmp_path)


def test_the_cost_of_an_audit_is_judged(tmp_path: Path):
    said = {
        "documents": 45_000,
        "seconds": 301.0,
        "peak_bytes": 3 << 30,
        "threads": 2,
        "environment": {"processor": "AVX2"},
    }
    (tmp_path / "audit.json").write_text(json.dumps(said))
    found = {goal["id"]: goal for goal in benchmarked(tmp_path)}
    assert (found["G32"]["verdict"], found["G32"]["ours"]) == ("missed", 301.0)
    assert (found["G33"]["verdict"], found["G33"]["ours"]) == ("met", 3.0)
