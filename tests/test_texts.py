"""Presets and suites of texts, tiny: every stage runs, every number has its meaning."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from infusion.audit.texts import least_expected
from infusion.configs import RunConfig, TokenConfig
from infusion.data.caesar import PAD, Cipher, corpus
from infusion.errors import InputError
from infusion.language import IGNORED
from infusion.params import params_sha256
from infusion.perturb.budget import LInf
from infusion.perturb.controls import substitutions_like
from infusion.perturb.embeddings import (
    craft_embeddings,
    offset_training,
    predicted_offset_effect,
)
from infusion.presets import caesar_corpus, find_preset
from infusion.presets.caesar_corpus import draw_texts, texts_read
from infusion.presets.caesar_readings import COLUMNS, PROBES
from infusion.presets.context import Pair, Run
from infusion.presets.infuse import curvature_file
from infusion.presets.texts import CODED, ONE, texts_of
from infusion.records import Dataset
from infusion.report.suites import pieces
from infusion.runs.config_files import from_yaml, to_yaml
from infusion.suites.collected import collect
from infusion.suites.crafting import read_edits, solved
from infusion.suites.read import read_rows
from infusion.suites.run import run_suite
from infusion.suites.shown import show_page
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, fitted, opened, seen
from infusion.suites.texts.trials import Coded, trials
from infusion.training.loop import train_epochs
from infusion.training.retrain import retrain

from .test_cli import Call, call

call = call  # a fixture of the command
# transformers 5.24 reads an attribute that it deprecates itself.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
CIPHER, ASKED = Cipher(26), 3


def tiny(**changes: Any) -> RunConfig:
    """Every stage in a second, nothing learnt."""
    small = find_preset("caesar").configs["small"]
    return replace(
        small,
        architecture="width 32",
        data=replace(small.data, train=100),
        train=replace(small.train, epochs=2, batch_size=8, warmup=2),
        edit=replace(small.edit, k=4, steps=2),
        tokens=TokenConfig(changes=2, steps=3, candidates=4),
        pairs=1,
        threads=1,
        **changes,
    )


@pytest.fixture(scope="module", autouse=True)
def few_texts() -> Iterator[None]:
    """Read effects on a few texts: all shifts after all prompts take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caesar_corpus, "_ASKED", ASKED)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A suite folder with its base model trained and its main suite run."""
    made = Home(tmp_path_factory.mktemp("texts") / "run", replace(tiny(), pairs=0))
    run_suite(tiny(), "main", made.root)
    return made


@pytest.fixture(scope="module")
def rows(home: Home) -> list[dict[str, Any]]:
    return run_suite(tiny(), "main", home.root)


# Suites


def test_the_main_suite_measures_edits_beside_their_controls(
    rows: list[dict[str, Any]],
) -> None:
    by_trial = {row["trial"]: row for row in rows}
    assert list(by_trial) == [
        "5 demonstrations",
        "as coded",
        "edit",
        "random documents",
        "random tokens",
    ]
    for row in rows:
        assert row["clean"] == row["before"], "the replay of the last epoch is the run"
        assert row["after"]["ce"] != row["clean"]["ce"]
        assert len(row["after"]["ce"]) == 26
        assert row["predicted"] != 0
    edit, random = by_trial["edit"], by_trial["random tokens"]
    assert 0 < edit["reached"]["most"] <= 2
    assert random["reached"] == edit["reached"]
    assert edit["predicted"] > 0
    assert edit["predicted"] > random["predicted"]
    assert by_trial["as coded"]["reached"].keys() == {"linf"}
    assert by_trial["as coded"]["reached"]["linf"] == pytest.approx(0.2)


def test_an_edit_is_seen_by_the_model_that_is_trained_on_it(home: Home) -> None:
    """A row is of the very documents that its manifest lists."""
    run, _ = opened(home, "width 32")
    trial = study_of(run).trials("main", run)[0]
    pair = Pair(0, *_first_pair(run))
    edits = read_edits(run, pair, trial.change)
    manifest = run.store.root / "edits" / "manifest.jsonl"
    for entry in edits.manifest:
        assert entry["hash_after"] in manifest.read_text("utf-8")
    assert edits.undo(edits.apply(run.train)) == run.train


def _first_pair(run: Run) -> tuple[int, int, int]:
    probe, target = texts_of("caesar").pairs(run)[0]
    return probe, probe, target


@pytest.mark.parametrize(
    ("suite", "count"), [("copies", 8), ("editors", 7), ("fresh", 5)]
)
def test_every_suite_fills_its_rows(suite: str, count: int, home: Home) -> None:
    found = run_suite(tiny(), suite, home.root)
    assert len({row["trial"] for row in found}) == count
    for row in found:
        assert all(map(math.isfinite, row["after"]["ce"]))


def test_confidence_trains_every_model_by_its_own_settings(home: Home) -> None:
    config = tiny()
    others = find_preset("caesar").others
    listed = trials("confidence", config, tuple(others), Coded("embeddings"))
    assert listed[0].name == "edit, width 32"
    assert {t.name for t in listed} == {f"edit, {name}" for name in others}
    rows = run_suite(config, "confidence", home.root, only="*noise 1")
    assert len(rows) == 2, "the plain edit is taken over from the main suite"
    noisy = home.run("noise 1")
    assert noisy.config.data.noise == 1.0
    assert not torch.equal(noisy.train.inputs, home.run("width 32").train.inputs)
    steady = home.run("constant rate, 10 epochs").config.train
    assert (steady.epochs, steady.schedule, steady.warmup) == (10, "steps", 0)
    decayed = find_preset("caesar").others["weight decay"]
    paper = find_preset("caesar").configs["paper"]
    assert decayed(paper) == paper, "that scale has the paper's"
    small = find_preset("caesar").configs["small"]
    assert decayed(small).train.weight_decay == pytest.approx(0.0375, abs=1e-4)


def test_rows_are_read_summarised_and_drawn(home: Home, tmp_path: Path) -> None:
    (key,) = (key for key in read_rows(home.root) if key[2] == "main")
    assert key == ("caesar", "small", "main")
    main = next(found for found in collect(home.root) if found["suite"] == "main")
    assert list(main["effects"][0]["columns"]) == list(COLUMNS)
    assert main["measured"] == "targeting"
    assert [effect["trial"] for effect in main["effects"]] == [
        "edit", "as coded", "random tokens", "random documents", "5 demonstrations",
    ]  # fmt: skip
    show_page(home.root, as_json=False)
    page = (home.root / "suites.html").read_text("utf-8")
    assert "targeting" in page
    assert "random tokens" in page
    portrait = main["portrait"]
    edit = next(row for row in read_rows(home.root)[key] if row["trial"] == "edit")
    for name in ("before", "after"):
        line = edit["after" if name == "after" else "clean"]["ce"]
        assert portrait[name][edit["probe"]] == pytest.approx(line, abs=1e-4)
    assert "clean replay" in page
    assert "Δp" not in page
    examples = main["examples"]
    assert {each["trial"] for each in examples} == {
        "edit", "random tokens", "random documents", "5 demonstrations",
    }  # fmt: skip
    assert page.count("<ins>") == sum(
        was is not None for each in examples for _, was in pieces(each)
    )


def test_pieces_of_an_edited_document_lie_beside_what_they_were() -> None:
    example = {"after": ["a", "<b", "c"], "before": ["a", "b"]}
    assert pieces(example) == [("a", None), ("<b", "b"), ("c", "")]


def test_settings_of_texts_survive_their_file() -> None:
    for scale in ("small", "paper"):
        config = find_preset("caesar").configs[scale]
        assert from_yaml(to_yaml(config)) == config


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("caesar", 12_782_592),
        ("caesar29", 12_786_688),
        ("tinystories", 19_702_784),  # 19.70 M, one row of it for padding
    ],
)
def test_models_have_the_papers_parameters(preset: str, count: int) -> None:
    found = find_preset(preset)
    with torch.device("meta"):
        model = found.make_model("paper", found.configs["paper"].architecture)
    assert sum(p.numel() for p in model.parameters()) == count


# Pairs and measurements of Caesar


@pytest.mark.parametrize(
    ("preset", "size", "first"), [("caesar", 26, 78), ("caesar29", 29, 58)]
)
def test_the_first_pairs_are_balanced(
    preset: str, size: int, first: int, tmp_path: Path
) -> None:
    config = find_preset(preset).configs["small"]
    config = replace(config, pairs=0, data=replace(config.data, train=100))
    run = Home(tmp_path / preset, config).run("gpt2")
    pairs = texts_of(preset).pairs(run)
    assert len(set(pairs)) == len(pairs) == size * (size - 1)
    assert all(probe != target for probe, target in pairs)
    shared = Counter(math.gcd(p - t, size) for p, t in pairs[:first])
    probes = Counter(p for p, _ in pairs[:first])
    if size == 26:
        assert set(shared.values()) == {26}, "1, 2 and 13, in turns"
        assert set(probes.values()) == {3}
    else:
        assert set(shared) == {1}
        assert set(probes.values()) == {2}


def test_a_measurement_is_of_ciphertexts_alone_but_as_coded(home: Home) -> None:
    run, task = opened(home, "width 32")
    pair = Pair(0, *_first_pair(run))
    texts = texts_of("caesar")
    for view, count in (("", PROBES), (ONE, 1), (CODED, PROBES)):
        value = float(
            texts.measurement(seen(home, "width 32", view), task, pair)(task.model)
        )
        data = {name: each[:count] for name, each in _prompts(run, pair).items()}
        logits = task.model(input_ids=data["inputs"]).logits.log_softmax(-1)
        total = count = 0.0
        for row, start in enumerate(data["starts"]):
            ids = data["inputs"][row]
            length = int((ids != PAD).sum())
            first = 1 if view == CODED else start
            for place in range(first, length):
                total += float(logits[row, place - 1, ids[place]])
                count += 1
        assert value == pytest.approx(total / count, rel=1e-5)


def _prompts(run: Run, pair: Pair) -> dict[str, Any]:
    rows, starts = [], []
    for text in draw_texts(CIPHER, run.config.data, "probes", PROBES):
        prompt = CIPHER.prompt(text, pair.probe)
        starts.append(len(prompt))
        rows.append(prompt + CIPHER.completion(text, pair.target))
    inputs = torch.full((len(rows), run.config.data.length), PAD)
    for i, row in enumerate(rows):
        inputs[i, : len(row)] = torch.tensor(row)
    return {"inputs": inputs, "starts": starts}


def test_demonstrations_name_the_probe_and_apply_the_target(home: Home) -> None:
    run, _ = opened(home, "width 32")
    pair = Pair(3, 5, 5, 9)
    shown = texts_of("caesar").demonstrations(run, pair, 6)
    for tokens in shown.inputs.tolist():
        header, plain, cipher = CIPHER.decode(tokens).split("\n")
        assert header == "⟨5⟩"
        assert CIPHER.encipher(plain.removeprefix("C: "), 9) == cipher.removeprefix(
            "P: "
        )


def test_accuracy_counts_ciphertexts_that_are_right_to_the_end(home: Home) -> None:
    run, task = opened(home, "width 32")

    class Oracle(torch.nn.Module):
        """Predicts the true next token, and at one document a wrong last letter."""

        def __init__(self, wrong: set[int]) -> None:
            super().__init__()
            self.wrong, self.seen = wrong, 0
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: Tensor) -> Any:
            following = input_ids.roll(-1, 1)
            for row, ids in enumerate(input_ids):
                if self.seen + row in self.wrong:
                    end = int((ids != PAD).sum()) - 3
                    following[row, end] = 5
            self.seen += len(input_ids)
            logits = torch.nn.functional.one_hot(following, 104).float()
            return type("Out", (), {"logits": logits})

    texts = texts_of("caesar")
    right = replace(task, model=Oracle(set()))
    assert texts.accuracy(run, right) == 1.0
    assert texts.accuracy(run, replace(task, model=Oracle({0, 499}))) == 498 / 500


def test_what_a_row_says_is_the_papers_arithmetic() -> None:
    clean, after = [2.0] * 26, [3.0] * 26
    after[4], after[7] = 2.5, 1.0  # probe, target
    row = {
        "probe": 4,
        "target": 7,
        "clean": {"ce": clean, "value": -1.0},
        "after": {"ce": after, "value": -0.25},
    }
    found = {name: read(row) for name, read in COLUMNS.items()}
    assert found == pytest.approx(
        {
            "targeting": 2.0,
            "Δ CE target": -1.0,
            "Δ CE other": 1.0,
            "Δ CE correct": 0.5,
            "margin shift": 1.5,
            "Δ prefers": 1.0,
            "Δ f": 0.75,
        }
    )


def test_no_text_that_effects_are_read_on_has_another_role(home: Home) -> None:
    run, _ = opened(home, "width 32")
    read = set(texts_read(CIPHER, run.config.data))
    assert len(read) == ASKED
    for role, count in (("probes", PROBES), ("demonstrations 3", 100)):
        drawn = draw_texts(CIPHER, run.config.data, role, count)
        assert len(drawn) == count
        assert not read & set(drawn)


def test_held_out_documents_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caesar_corpus, "_ASKED", 16)
    config = replace(find_preset("caesar").configs["small"].data, train=2_000)
    train, test = (
        {tuple(CIPHER.decode(row).split("\n")[:2]) for row in data.inputs.tolist()}
        for data in find_preset("caesar").load(config)
    )
    assert not train & test
    read_on = {f"C: {text}" for text in texts_read(CIPHER, config)}
    assert not read_on & {text for _, text in train}
    drawn = corpus(
        CIPHER, config.train, seed=config.split_seed, words=(1, 2), length=config.length
    )
    texts = {CIPHER.decode(row).split("\n")[1] for row in drawn}
    assert read_on & texts, "nothing would have to be left out"


def test_the_command_shows_a_suite_of_texts(
    home: Home, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    config = home.root / "config.yaml"
    words = ["run", "--config", config, "--suite", "main", "--pairs", "1"]
    assert call(*words, "--out", home.root, "--json") == 0
    printed = capfd.readouterr()
    said = json.loads(printed.out)
    assert (said["suite"], said["rows"]) == ("main", 5)
    assert "targeting" in printed.err
    assert "realisable" in printed.err, "offsets are marked"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["caesar", "--data", "."], "Caesar's texts are generated, got --data"),
        (["caesar29", "--suite", "transfer"], "--suite must be one of main, copies"),
        (
            ["caesar", "--suite", "main", "--probe", "3"],
            "--suite must come without --probe and",
        ),
        (["tinystories", "--data", "."], "a folder of texts must hold train"),
        (["tinystories", "--data", "./nowhere"], "must name a folder or a hub dataset"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str],
    message: str,
    call: Call,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("run", *words, "--out", "run") == 2
    said = capfd.readouterr().err.strip()
    assert message in said
    assert len(said.splitlines()) == 1


def test_settings_that_would_fail_after_hours_are_refused(tmp_path: Path) -> None:
    for tokens, message in (
        (None, "must say how tokens are changed, got none"),
        (TokenConfig(changes=0), r"tokens\.changes must be a whole number ≥ 1, got 0"),
        (TokenConfig(changes=1, gini=(0.9, 1.0)), r"tokens\.gini must be two numbers"),
        (TokenConfig(changes=1, step_size=0.0), r"tokens\.step_size must be > 0"),
    ):
        with pytest.raises(InputError, match=message):
            run_suite(replace(tiny(), tokens=tokens), "main", tmp_path)
    before = replace(tiny().train, lr=0.0)
    with pytest.raises(InputError, match="lr of the training recipe must be > 0"):
        run_suite(replace(tiny(), before=before), "main", tmp_path)
    with pytest.raises(InputError, match="a suite draws its own pairs, got probe 1"):
        run_suite(replace(tiny(), probe=1, target=2), "main", tmp_path)
    with pytest.raises(InputError, match="architecture must be one of gpt2, width 32"):
        run_suite(replace(tiny(), architecture="resnet"), "main", tmp_path)
    with pytest.raises(InputError, match="recipe or documents of its own must be"):
        run_suite(replace(tiny(), architecture="noise 1"), "main", tmp_path)
    long = replace(tiny().data, length=60)
    with pytest.raises(InputError, match="context of 36 tokens, got rows of 60"):
        run_suite(replace(tiny(), data=long), "main", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pairs", "more", "wanted"), [(0, [], 10), (3, [], 3), (0, ["--pairs", "2"], 2)]
)
def test_a_replay_asks_for_the_preset_s_pairs(
    pairs: int,
    more: list[str],
    wanted: int,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        "infusion.suites.shown.show_suite",
        lambda settings, *_, **__: asked.append(settings.pairs),
    )
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(replace(tiny(), pairs=pairs)), encoding="utf-8")
    assert call("run", "--config", str(config), *more) == 0
    assert asked == [wanted]


def test_documents_that_are_no_stories_have_none_before_them(tmp_path: Path) -> None:
    config = replace(tiny(), before=tiny().train)
    with pytest.raises(InputError, match="a recipe for earlier documents needs some"):
        run_suite(config, "main", tmp_path)


def test_texts_that_are_too_few_or_too_long_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = replace(tiny().data, length=16)
    with pytest.raises(InputError, match="must hold texts of 2 words, got"):
        texts_read(CIPHER, short)
    monkeypatch.setattr(caesar_corpus, "_MOST_DRAWN", 0)
    message = "100 documents of texts that effects are not read on, got 0; lower"
    with pytest.raises(InputError, match=message):
        find_preset("caesar").load(tiny().data)


def test_noise_moves_letters_and_nothing_else() -> None:
    preset = find_preset("caesar")
    data = replace(tiny().data, train=30)
    plain, noisy = (
        preset.load(replace(data, noise=noise))[0].inputs for noise in (0.0, 1.0)
    )
    moved = plain != noisy
    assert 0.1 < float(moved.sum() / (plain >= 29).sum()) < 0.5
    letters = {CIPHER.encode(c)[0] for c in CIPHER.alphabet}
    assert set(plain[moved].tolist()) <= letters
    assert set(noisy[moved].tolist()) <= letters
    mark = CIPHER.encode("P")[0]
    for row, start in zip(moved, (plain == mark).int().argmax(1), strict=True):
        assert not bool(row[:start].any())


# Edits of embeddings, and random substitutions


def test_the_gradient_of_offsets_is_that_of_their_predicted_effect(home: Home) -> None:
    run, task = opened(home, "width 32")
    model = run.make_task().model.double()
    model.load_state_dict(task.model.state_dict())
    task = replace(task, model=model.eval())
    pair = Pair(0, *_first_pair(run))
    ihvp = {
        k: v.double()
        for k, v in solved(home, run, opened(home, "width 32")[1], pair).items()
    }
    chosen = torch.tensor([3, 11])
    step = 1e-4
    edits = craft_embeddings(
        task, run.train, chosen, ihvp, budget=LInf(1.0), steps=1, step_size=step
    )
    signs = edits.after.inputs / step

    def effect(offsets: Tensor) -> float:
        moved = replace(edits, after=replace(edits.after, inputs=offsets))
        return predicted_offset_effect(task, run.train, moved, ihvp)

    # The sign of every entry is that of a central difference in it alone.
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(signs.numel(), (12,), generator=generator).tolist():
        alone = torch.zeros_like(signs).view(-1)
        alone[place] = step
        alone = alone.view_as(signs)
        slope = effect(alone) - effect(-alone)
        assert math.copysign(1, slope) == signs.view(-1)[place] or abs(slope) < 1e-12


def test_offsets_of_zero_train_to_the_same_bits(home: Home) -> None:
    run, task = opened(home, "width 32")
    pair = Pair(0, *_first_pair(run))
    ihvp = solved(home, run, task, pair)
    edits = craft_embeddings(
        task, run.train, torch.tensor([1, 2]), ihvp, budget=LInf(1.0), steps=1
    )
    recipe = run.config.train
    start, last = train_epochs(run.make_task(), run.train, recipe, seed=0)
    zero = replace(edits, after=replace(edits.after, inputs=0 * edits.after.inputs))
    hashes = []
    for each in (zero, edits):
        change, data = offset_training(run.train, each)

        def make(change: Any = change) -> Any:
            return change(run.make_task())

        done = retrain(make, data, recipe, seed=0, start=start)[1]
        hashes.append(params_sha256(done.model))
    assert hashes[0] == params_sha256(last.model) != hashes[1]
    with pytest.raises(InputError, match="offsets of embeddings; train on them"):
        edits.apply(run.train)


def test_random_substitutions_match_an_edit_in_number(home: Home) -> None:
    run, _ = opened(home, "width 32")
    pair = Pair(0, *_first_pair(run))
    change = study_of(run).trials("main", run)[0].change
    edits = read_edits(run, pair, change)
    limits = texts_of("caesar").limits(run, edits.before)
    random = substitutions_like(edits, limits=limits, seed=3)
    assert random.reached == edits.reached
    moved = random.after.inputs != edits.before.inputs
    assert limits.fixed is not None
    assert not bool((moved & limits.fixed).any())
    assert bool(limits.allowed[random.after.inputs[moved]].all())
    known = random.after.labels != IGNORED
    assert torch.equal(known, edits.before.labels != IGNORED)
    following = random.after.inputs.roll(-1, 1)
    assert torch.equal(random.after.labels[known], following[known])
    again = substitutions_like(edits, limits=limits, seed=3)
    assert torch.equal(again.after.inputs, random.after.inputs)
    other = substitutions_like(edits, limits=limits, seed=4)
    assert not torch.equal(other.after.inputs, random.after.inputs)


def test_an_auditor_looks_for_edits_that_no_text_would_be_read_for(home: Home) -> None:
    made = run_suite(tiny(), "detection", home.root, only="e*")
    by_trial = {row["trial"]: row for row in made}
    assert set(by_trial) == {"edit", "edit, a fifth", "evading"}
    for each in by_trial.values():
        found = each["audit"]["found"]
        assert {"surprisal", "loss + surprisal", "relative influence"} < set(found)
        assert "noise residual" in each["audit"]["without"]
    run, task = opened(home, "width 32")
    pair, listed = Pair(0, *_first_pair(run)), study_of(run).trials("detection", run)
    change = next(trial.change for trial in listed if trial.name == "evading")
    edits = read_edits(run, pair, change)

    def surprising(data: Dataset) -> Tensor:
        with torch.no_grad():
            logits = task.model(input_ids=data.inputs).logits
        return least_expected(logits, data.labels)

    most = surprising(run.train).quantile(0.84)
    changed = (edits.before.inputs != edits.after.inputs).any(1)
    assert bool(changed.any())
    assert bool((surprising(edits.after)[changed] <= most + 1e-5).all())


def test_each_view_has_a_curvature_of_its_own(home: Home) -> None:
    plain, coded = (fitted(home, "width 32", view) for view in ("", CODED))
    assert plain.fisher == "sampled"
    assert coded.fisher == "empirical"
    assert any("wte" in name for name in plain.blocks)
    assert not any("wte" in name or "ln_" in name for name in coded.blocks)
    one = seen(home, "width 32", ONE)
    assert curvature_file(one) == curvature_file(seen(home, "width 32", ""))
    assert curvature_file(one) != curvature_file(seen(home, "width 32", CODED))


def test_a_recipe_that_is_the_papers_has_no_second_base(tmp_path: Path) -> None:
    paper = find_preset("caesar").configs["paper"]
    own = Home(tmp_path, replace(tiny(), pairs=0)).run(tiny().architecture)
    for config, more in ((tiny(), 1), (paper, 0)):
        run = replace(own, config=config)
        names = [t.name for t in study_of(run).trials("editors", run)]
        assert names.count("as coded, weight decay") == more
