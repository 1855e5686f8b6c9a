"""Suites: every trial beside its clean replay, more pairs added row by row."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.configs import RunConfig, TrainConfig
from infusion.data.edits import Edits
from infusion.errors import ArtefactError, InputError
from infusion.params import params_sha256
from infusion.perturb.gradient import influence_gradient, perturbation_gradient
from infusion.perturb.matching import matching_gradient
from infusion.perturb.similarity import psnr, ssim
from infusion.presets import find_preset
from infusion.presets.context import Run, checkpoint_file
from infusion.presets.infuse import measurement
from infusion.records import Batch, Dataset
from infusion.replay.gradient import replay_gradient
from infusion.runs.folder import alone_in
from infusion.runs.rows import opened as opened_row
from infusion.runs.rows import sealed
from infusion.suites import run as run_module
from infusion.suites import stages
from infusion.suites.crafting import solved
from infusion.suites.pictures import edits as edits_module
from infusion.suites.pictures.editors import ENGINES, Subject
from infusion.suites.pictures.edits import attainable_gains, choose
from infusion.suites.pictures.study import class_pairs
from infusion.suites.pictures.trials import Editor, trials
from infusion.suites.retrainings import HARDENED, retrained_together, training_of
from infusion.suites.run import run_suite
from infusion.suites.study import NAMES, study_of
from infusion.suites.subjects import Home, opened
from infusion.suites.summary import Row, effects
from infusion.suites.trial import Retraining
from infusion.suites.trial_rows import measured
from infusion.training.checkpoints import from_tensors
from infusion.training.steps import epoch_order

PRESET = find_preset("digits")


def tiny(pairs: int = 1) -> RunConfig:
    """Every stage in a second, nothing learnt."""
    small = PRESET.configs["small"]
    return replace(
        small,
        data=replace(small.data, train=120),
        train=replace(small.train, epochs=2, batch_size=16),
        edit=replace(small.edit, k=4, steps=10),
        pairs=pairs,
        threads=1,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A suite folder with its base model trained."""
    made = Home(tmp_path_factory.mktemp("suites") / "run", replace(tiny(), pairs=0))
    opened(made, "resnet")
    return made


def lines(home: Home, suite: str) -> list[dict[str, Any]]:
    text = (home.root / "rows" / f"{suite}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_more_pairs_add_rows_and_a_lost_one_comes_back(home: Home) -> None:
    first = run_suite(tiny(1), "controls", home.root)
    names = ["edit", "noise L∞", "noise L2", "random documents"]
    assert sorted(row["trial"] for row in first) == sorted(names)
    both = run_suite(tiny(2), "controls", home.root)
    assert len(both) == 8
    assert [row for row in both if row["pair"] == 0] == first
    assert [e.trial for e in effects(both)] == names, "in the suite's order"
    path = home.root / "rows" / "controls.jsonl"
    whole = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join(whole[:-1]) + whole[-1][:40], encoding="utf-8")
    again = run_suite(tiny(2), "controls", home.root)
    for row in both + again:
        del row["seconds"]
    assert again == both


def test_the_clean_replay_of_the_last_epoch_is_the_base_model(home: Home) -> None:
    for row in run_suite(tiny(1), "controls", home.root):
        assert row["clean"] == row["before"]
        assert row["after"] != row["clean"]


def test_transfer_trains_each_architecture_by_its_own_recipe(home: Home) -> None:
    rows = run_suite(tiny(1), "transfer", home.root)
    by_trial = {row["trial"]: row for row in rows}
    assert set(by_trial) == {
        "resnet → resnet", "resnet → cnn", "cnn → resnet", "cnn → cnn",
    }  # fmt: skip
    for row in rows:
        assert row["clean"] == row["before"], "Adam's state and schedule go on"
    cnn = home.run("cnn")
    assert cnn.config == replace(PRESET.others["cnn"](home.config), architecture="cnn")
    assert cnn.config.train.optimiser == "adam"
    hashes = {name: row["base_sha256"] for name, row in by_trial.items()}
    assert hashes["cnn → resnet"] == hashes["resnet → resnet"]
    assert hashes["cnn → resnet"] != hashes["cnn → cnn"]


def test_edits_that_change_nothing_do_nothing_in_any_mode(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fresh start is one on the edited side too."""
    run, _ = opened(home, "resnet")
    rows = run_suite(tiny(1), "fresh", home.root)
    chosen = torch.tensor([0, 3])
    same = Edits(chosen, run.train.take(chosen), run.train.take(chosen), "none", {})
    monkeypatch.setattr("infusion.suites.trial_rows.read_edits", lambda *_: same)
    pair = class_pairs(run, opened(home, "resnet")[1])[0]
    for name in ("ekfac, fresh 0", "ekfac, scratch 0", "ekfac, scratch 1"):
        trial = next(t for t in study_of(run).trials("fresh", run) if t.name == name)
        (row,) = measured(home, [(pair, trial)])
        assert row["after"] == row["clean"], name
        edited = next(row for row in rows if row["trial"] == name)
        assert edited["after"] != edited["clean"]


@pytest.mark.parametrize(
    ("suite", "count"),
    [
        ("main", 2),
        ("copies", 8),
        ("all-controls", 11),
        ("selection", 6),
        ("budget", 8),
        ("horizon", 5),
        ("surrogates", 2),
        ("fresh", 20),
        ("engines", 42),
        ("hardening", 5),
    ],
)
def test_every_suite_fills_its_rows(suite: str, count: int, home: Home) -> None:
    rows = run_suite(tiny(1), suite, home.root)
    assert len(rows) == count
    reached = {row["trial"]: row["reached"]["linf"] for row in rows}
    if suite == "budget":
        for level in (1, 2, 3, 4):
            assert reached[f"L∞ = {level}/16"] <= level / 16 + 1e-9
    if suite == "main":
        assert reached["as coded"] <= 2 / 16 + 1e-6, "no further than the edit may go"
    if suite == "copies":
        documents = {row["trial"]: row["documents"] for row in rows}
        assert documents["100 copies"] == 100
    edits = (home.root / "edits" / "manifest.jsonl").read_text("utf-8")
    listed = [json.loads(line) for line in edits.splitlines()]
    assert len({(e["edit"], e["index"]) for e in listed}) == len(listed) > 0
    assert all(entry["config_hash"] for entry in listed)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Deal out jobs as where trainings are recorded; counts pairs crafted together."""
    together = lambda _, works: [works] if works else []  # noqa: E731
    monkeypatch.setattr(stages, "parts", together)
    monkeypatch.setattr(run_module, "parts", together)
    counted: list[int] = []
    real = edits_module.craft_together

    def counting(*arguments: Any, **settings: Any) -> list[Edits]:
        counted.append(len(arguments[2]))
        return real(*arguments, **settings)

    monkeypatch.setattr(edits_module, "craft_together", counting)
    return counted


def test_a_block_is_crafted_whole_whatever_is_asked(
    tmp_path: Path, as_on_a_gpu: list[int]
) -> None:
    """What is made in one pass rounds together: no stop may change who is in it."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first = run_suite(tiny(2), "controls", whole)
    assert as_on_a_gpu == [8, 8], "edit and random documents, for a whole block"
    run_suite(tiny(1), "controls", parts, only="noise*")
    run_suite(tiny(2), "controls", parts, only="random*")
    again = run_suite(tiny(2), "controls", parts)
    for one, other in zip(
        sorted(first, key=by_name), sorted(again, key=by_name), strict=True
    ):
        assert {**one, "seconds": 0, "sha256": 0} == {
            **other,
            "seconds": 0,
            "sha256": 0,
        }


def test_jobs_of_several_trainings_are_each_alone(home: Home) -> None:
    """Bit for bit, whatever order, start or epochs afterwards each has."""
    run, task = opened(home, "resnet")
    pair = class_pairs(run, task)[0]
    works = []
    for suite, names in (
        ("fresh", ("ekfac, fresh 0", "ekfac, scratch 1")),
        ("horizon", ("last 2 epochs", "1 clean epochs after")),
    ):
        run_suite(tiny(1), suite, home.root)
        listed = study_of(run).trials(suite, run)
        works += [(pair, trial) for trial in listed if trial.name in names]
    assert len(works) == 4
    together = measured(home, works)
    for work, row in zip(works, together, strict=True):
        (alone,) = measured(home, [work])
        assert {**row, "seconds": 0} == {**alone, "seconds": 0}


def by_name(row: Row) -> tuple[int, str]:
    return row["pair"], row["trial"]


def test_scores_do_not_depend_on_where_a_run_was_stopped(
    home: Home, tmp_path: Path
) -> None:
    at_once = tmp_path / "at-once"
    first = run_suite(tiny(2), "controls", at_once)
    again = run_suite(tiny(2), "controls", home.root)  # grown from one pair
    for row in first + again:
        del row["seconds"]
    assert first == again


def test_a_suite_refuses_what_it_would_ignore_or_lack(
    home: Home, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="draws its own pairs of classes, got probe 3"):
        run_suite(replace(tiny(), probe=3), "main", tmp_path)
    with pytest.raises(InputError, match="pairs must be a whole number ≥ 1, got 0"):
        run_suite(replace(tiny(), pairs=0), "main", tmp_path)
    with pytest.raises(InputError, match=r"pairs must be ≤ 90, as many as there are"):
        run_suite(replace(tiny(), pairs=91), "controls", home.root)
    longer = replace(tiny().train, epochs=3)  # all of them need no checkpoint
    based = replace(tiny(), train=longer, base=str(home.root / "checkpoints"))
    with pytest.raises(InputError, match="needs the checkpoints of all of them"):
        run_suite(based, "horizon", tmp_path)
    l2 = replace(tiny(), edit=replace(tiny().edit, norm="l2"))
    with pytest.raises(InputError, match="--norm of the suite budget must be one of"):
        run_suite(l2, "budget", tmp_path)
    few = replace(tiny(), data=replace(tiny().data, train=60))
    with pytest.raises(InputError, match=r"k must be a whole number in 1…60"):
        run_suite(few, "copies", tmp_path)


def test_trials_can_be_run_one_by_one(tmp_path: Path) -> None:
    root, at_once = tmp_path / "run", tmp_path / "at once"
    noise = run_suite(tiny(), "controls", root, only="noise*")
    assert {row["trial"] for row in noise} == {"noise L∞", "noise L2"}
    apart = {row["trial"]: row for row in run_suite(tiny(), "controls", root)}
    whole = {row["trial"]: row for row in run_suite(tiny(), "controls", at_once)}
    for name, row in apart.items():
        assert row["place"] == whole[name]["place"]
        assert row["after"] == whole[name]["after"]
    with pytest.raises(InputError, match="must match the name of a trial, got 'x'"):
        run_suite(tiny(), "controls", root, only="x")


def test_what_another_suite_has_done_is_not_done_again(home: Home) -> None:
    plain = {row["trial"]: row for row in run_suite(tiny(1), "main", home.root)}
    rows = {row["trial"]: row for row in run_suite(tiny(1), "selection", home.root)}
    mine, theirs = rows["supporting"], plain["edit"]
    assert mine["seconds"] == theirs["seconds"], "the same retraining"
    own = {"suite": "selection", "trial": "supporting", "place": 0}
    assert mine == {**theirs, **own}


@pytest.mark.parametrize("editor", ["ekfac", "replay"])
def test_gains_are_those_of_the_editors_own_gradient(
    editor: Editor, home: Home
) -> None:
    run, task = opened(home, "resnet")
    pair = class_pairs(run, task)[0]
    ihvp = solved(home, run, task, pair)
    wanted = measurement(run, task, pair)
    everything = torch.arange(len(run.train))
    subject = Subject(run, wanted, everything[:0], lambda _: [(task, ihvp)])
    if editor == "ekfac":
        batch = run.train.batch(everything)
        gradient = perturbation_gradient(
            task, batch, ihvp, num_documents=len(run.train)
        )
    else:
        start = from_tensors(run.store.read_tensors(checkpoint_file(1)))
        gradient = replay_gradient(
            task,
            run.train,
            everything,
            wanted,
            run.config.train,
            seed=run.config.seed,
            start=start,
        ).gradient
    largest = run.config.edit.epsilon * gradient.flatten(1).abs().sum(1)
    found = attainable_gains(ENGINES[editor], subject, run.config.edit)
    torch.testing.assert_close(found, largest)
    assert found.std() > 0


def test_editors_that_differentiate_a_long_epoch_take_few_long_steps() -> None:
    config = find_preset("cifar10").configs["small"]
    edits = {t.name: t.change.edit for t in trials("engines", config, (), 255)}
    assert edits["ekfac, own 0"] == config.edit
    for name in ("replay, own 0", "held replay, own 0", "replay by gain, own 0"):
        assert edits[name].steps == 6
        reach = edits[name].step_size * 6
        assert reach == pytest.approx(config.edit.step_size * config.edit.steps)
    short = trials("engines", tiny(), (), 16)
    assert {trial.change.edit for trial in short} == {tiny().edit}


def test_rows_of_a_trial_that_has_changed_are_refused(home: Home) -> None:
    run_suite(tiny(1), "selection", home.root)
    path = home.root / "rows" / "selection.jsonl"
    whole = path.read_text("utf-8")
    first, *others = whole.splitlines(keepends=True)
    row = opened_row(json.loads(first))
    row["change"]["edit"]["steps"] += 1
    altered = json.dumps(sealed(row)) + "\n"
    path.write_text(altered + "".join(others), encoding="utf-8")
    with pytest.raises(ArtefactError, match="must hold rows of this suite's trials"):
        run_suite(tiny(1), "selection", home.root)
    path.write_text(whole, encoding="utf-8")


def test_other_settings_are_refused(home: Home) -> None:
    run_suite(tiny(1), "controls", home.root)
    other = replace(tiny(), edit=replace(tiny().edit, k=3))
    with pytest.raises(InputError, match="must keep the inputs it was started with"):
        run_suite(other, "controls", home.root)
    with pytest.raises(InputError, match="--suite must be one of main, controls"):
        run_suite(tiny(), "all", home.root)


@pytest.mark.parametrize("suite", NAMES["pictures"])
@pytest.mark.parametrize("preset", ["digits", "cifar10"])
def test_trials_of_a_suite_have_different_names(suite: str, preset: str) -> None:
    found = find_preset(preset)
    levels = {"digits": 16, "cifar10": 255}[preset]
    for config in found.configs.values():
        listed = trials(suite, config, tuple(found.others), levels)
        assert len({trial.name for trial in listed}) == len(listed) > 1
        assert len({(t.change, t.retraining) for t in listed}) == len(listed)


def test_pairs_of_classes_are_all_there_once_and_none_is_trivial(home: Home) -> None:
    run, task = opened(home, "resnet")
    pairs = class_pairs(run, task)
    classes = [(pair.label, pair.target) for pair in pairs]
    assert len(set(classes)) == len(classes) >= 80
    assert len({pair.probe for pair in pairs}) == len(pairs)
    with torch.no_grad():
        inputs = run.test.batch(torch.tensor([p.probe for p in pairs])).inputs
        predicted = task.model.eval()(inputs).argmax(1).tolist()
    for pair, guess in zip(pairs, predicted, strict=True):
        assert pair.label == int(run.test.labels[pair.probe])
        assert pair.target not in (pair.label, guess)


def test_documents_are_chosen_as_asked(home: Home) -> None:
    run, task = opened(home, "resnet")
    pair = class_pairs(run, task)[0]
    scores = torch.linspace(-1.0, 2.0, len(run.train))
    scores[4] = -3.0
    gains = torch.arange(len(run.train)).roll(7).float()

    def chosen(selection: Any) -> list[int]:
        found = choose(run, pair, scores, lambda: gains, selection=selection, k=3)
        return found.tolist()

    assert chosen("supporting") == [119, 118, 117]
    assert chosen("opposing") == [4, 0, 1]
    assert chosen("absolute") == [4, 119, 118]
    assert chosen("gain") == [6, 5, 4]
    order = epoch_order(run.config.seed, 1, 120, run.config.train)
    assert chosen("last") == order[-3:].tolist()
    assert chosen("random") == chosen("random") != chosen("last")


def retrained(run: Run, spec: Retraining) -> inf.Task:
    """Train on clean documents."""
    return retrained_together([(run, training_of(run, spec, run.train), spec)])[0]


def test_modes_of_retraining_differ_and_repeat(home: Home) -> None:
    run = home.run("resnet")
    specs = [
        Retraining(architecture="resnet"),
        Retraining(architecture="resnet", epochs=2, hardening="noise"),
        Retraining(architecture="resnet", order="fresh"),
        Retraining(architecture="resnet", order="fresh", draw=1),
        Retraining(architecture="resnet", order="scratch"),
        Retraining(architecture="resnet", order="scratch", draw=1),
        Retraining(architecture="resnet", further=1),
        *(Retraining(architecture="resnet", hardening=kind) for kind in HARDENED),
    ]

    def trained() -> list[str]:
        tasks = [retrained(run, spec) for spec in specs]
        return [params_sha256(task.model.state_dict()) for task in tasks]

    found = trained()
    assert len(set(found)) == len(specs)
    assert trained() == found
    whole = retrained(run, Retraining(architecture="resnet", epochs=2))
    assert params_sha256(whole.model.state_dict()) == found[0], "from the start: itself"


# The other editors


def smooth(make_cnn: Callable[..., nn.Module]) -> inf.Task:
    return inf.classification(make_cnn(activation=nn.Softplus))


def test_the_gradient_of_several_models_is_the_mean_of_theirs(
    make_cnn: Callable[..., nn.Module], pictures: Dataset
) -> None:
    chosen = torch.tensor([3, 8, 1])
    models = []
    for seed in (0, 1):
        task = inf.classification(make_cnn(seed=seed))
        models.append(
            (task, {n: p.detach() + 1 for n, p in task.model.named_parameters()})
        )
    inputs = pictures.batch(chosen, like=models[0][1]["0.weight"]).inputs
    single = [influence_gradient([m], pictures, chosen)(inputs) for m in models]
    both = influence_gradient(models, pictures, chosen, batch_size=2)(inputs)
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, rtol=1e-12, atol=0)


def test_gradient_matching_is_the_slope_of_the_cosine(
    make_cnn: Callable[..., nn.Module], pictures: Dataset
) -> None:
    task, chosen = smooth(make_cnn), torch.tensor([3, 8, 1])
    named = dict(task.model.named_parameters())
    wanted = inf.gradient(task, inf.log_prob(torch.rand(2, 6, 6).double(), 1))
    labels = pictures.labels[chosen]

    def cosine(inputs: Tensor) -> Tensor:
        batch = Batch(inputs, labels)
        loss = task.loss(task.outputs(task.model, batch), batch).sum()
        own = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        flat = torch.cat([g.flatten() for g in own])
        other = torch.cat([wanted[n].flatten() for n in named])
        return torch.cosine_similarity(flat, other, dim=0)

    inputs = pictures.batch(chosen, like=next(iter(named.values()))).inputs
    inputs.requires_grad_()
    (expected,) = torch.autograd.grad(cosine(inputs), inputs)
    got = matching_gradient(task, pictures, chosen, wanted)(inputs.detach())
    torch.testing.assert_close(got, -expected, rtol=1e-9, atol=1e-15)


# Recipes that disturb their documents


def test_pictures_are_moved_mirrored_and_blurred_as_asked() -> None:
    from infusion.training.augmentation import disturbed

    batch = Batch(torch.rand(64, 1, 5, 5) + 1, torch.zeros(64))
    plain = TrainConfig(epochs=1, batch_size=4)
    assert disturbed(batch, plain).inputs is batch.inputs
    torch.manual_seed(0)
    flipped = disturbed(batch, replace(plain, flip=True)).inputs
    same = (flipped == batch.inputs).flatten(1).all(1)
    mirrored = (flipped == batch.inputs.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 16 < int(mirrored.sum()) < 48
    moved = disturbed(batch, replace(plain, shift=1)).inputs
    padded = nn.functional.pad(batch.inputs, [1] * 4)
    windows = torch.stack(
        [padded[:, :, y : y + 5, x : x + 5] for y in range(3) for x in range(3)]
    )
    found = (windows == moved).flatten(2).all(2)
    assert found.any(0).all(), "every picture is one of nine windows"
    assert found.any(1).all(), "and every window is drawn"
    noisy = disturbed(batch, replace(plain, noise=0.1)).inputs
    assert float((noisy - batch.inputs).std()) == pytest.approx(0.1, rel=0.1)


# How alike pictures look


def test_likeness_in_closed_form() -> None:
    one = torch.rand(3, 2, 16, 16).double()
    assert ssim(one, one, span=1.0).tolist() == pytest.approx([1.0] * 3)
    assert bool(psnr(one, one, span=1.0).isinf().all())
    assert psnr(one, one + 0.1, span=1.0).tolist() == pytest.approx([20.0] * 3)
    flat = torch.full((1, 1, 11, 11), 0.5).double()
    low = 0.01**2
    expected = (2 * 0.5 * 0.7 + low) / (0.5**2 + 0.7**2 + low)
    assert float(ssim(flat, flat + 0.2, span=1.0)) == pytest.approx(expected)
    assert float(ssim(one[:1], 1 - one[:1], span=1.0)) < 0
    pixels = one[:1] * 255
    assert float(ssim(pixels, pixels + 9, span=255.0)) == pytest.approx(
        float(ssim(one[:1], one[:1] + 9 / 255, span=1.0))
    )


def test_a_single_pixel_says_nothing_about_structure() -> None:
    tiny_picture = torch.rand(1, 1, 1, 1)
    assert float(ssim(tiny_picture, tiny_picture, span=1.0)) == pytest.approx(1.0)


def test_the_page_shows_every_suite_of_the_folder(home: Home) -> None:
    from infusion.report.suites import suites_page
    from infusion.suites.collected import collect

    run_suite(tiny(2), "controls", home.root)
    run_suite(tiny(2), "main", home.root)
    found, page = collect(home.root), home.root / "suites.html"
    assert [suite["suite"] for suite in found][:2] == ["main", "controls"]
    suites_page(found, page)
    text = page.read_text("utf-8")
    assert "digits, small: controls" in text
    for suite in found:
        for effect in suite["effects"]:
            assert effect["trial"] in text
    assert "http" not in text.replace("http://www.w3.org", "")
    with pytest.raises(InputError, match="a page of suites needs rows/SUITE"):
        collect(home.root / "edits")


def test_a_folder_has_one_process_at_a_time(home: Home) -> None:
    run_suite(tiny(1), "main", home.root)
    with (
        alone_in(home.root),
        pytest.raises(InputError, match=r"got another one in .*; wait for it"),
    ):
        run_suite(tiny(1), "main", home.root)


def test_a_refused_base_leaves_no_folder(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(InputError, match="must hold the checkpoints"):
        run_suite(replace(tiny(1), base=str(tmp_path)), "main", root)
    assert not root.exists()


def test_a_folder_outlives_the_base_it_was_begun_from(
    home: Home, tmp_path: Path
) -> None:
    opened(home, "resnet")
    base = tmp_path / "base"
    shutil.copytree(home.root / "checkpoints", base)
    config = replace(tiny(1), base=str(base))
    run_suite(config, "main", tmp_path / "run", only="edit")
    shutil.rmtree(base)
    assert len(run_suite(config, "main", tmp_path / "run")) == 2


def test_rows_say_which_recipe_and_damping(home: Home, tmp_path: Path) -> None:
    (row, *_) = run_suite(tiny(1), "main", home.root)
    given = tiny(1).curvature
    for change, alike in ({"damping_ratio": 0.2}, False), ({"batch_size": 32}, True):
        changed = replace(tiny(1), curvature=replace(given, **change))
        root = tmp_path / str(alike)
        (other, *_) = run_suite(changed, "main", root, only="edit")
        assert (row["settings_sha256"] == other["settings_sha256"]) == alike
