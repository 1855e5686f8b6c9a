"""The fidelity suite: known answers, what survives a kill, what is refused."""

import gzip
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.command.cli import main
from infusion.configs import FlipsConfig, LDSConfig
from infusion.curvature.iterative import gauss_newton_product
from infusion.data.idx import FILES, load_mnist
from infusion.data.images import load_digits
from infusion.errors import ArtefactError, InputError
from infusion.fidelity import pbrf
from infusion.fidelity.context import Context, Model, log_odds
from infusion.fidelity.flips import flip_labels, found, suspicion
from infusion.fidelity.lds import lds
from infusion.fidelity.methods import METHODS, offered
from infusion.fidelity.refine import refine
from infusion.fidelity.run import run, settings
from infusion.fidelity.subsets import membership, probe_positions, subset
from infusion.measure import behaviour
from infusion.models.cnn import SmallCNN
from infusion.params import axpy, dot
from infusion.records import Batch, Dataset, call_model
from infusion.report.fidelity import flips_rows, lds_facts, lds_rows
from infusion.report.page import report
from infusion.runs.rows import Rows, sealed
from infusion.tasks import classification
from infusion.training.loop import init_model

from .oracles import Ridge, document_gradients, gaussian_loss

# The linear datamodelling score, where the answer is known


def leave_group_out(size: int, width: int, generator: torch.Generator) -> Any:
    """Least squares on random halves: members, and the prediction on five probes."""
    x = torch.randn(size, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, generator=generator, dtype=torch.float64)
    y = x.sum(1) + noise
    probes = torch.randn(5, width, generator=generator, dtype=torch.float64)
    ridges = [Ridge(x, y, 1e-6, probe) for probe in probes]
    config = replace(settings("digits"), subsets=60)
    assert isinstance(config, LDSConfig)
    members = membership(config, size)
    measured = [[r.measurement(m.double()) for r in ridges] for m in members]
    return ridges, members, torch.tensor(measured, dtype=torch.float64)


def test_exact_influence_ranks_means_of_subsets_exactly():
    """With one constant feature the model is the mean, which is linear in members."""
    y = torch.linspace(-1, 2, 40, dtype=torch.float64).exp()
    config = replace(settings("digits"), subsets=30)
    assert isinstance(config, LDSConfig)
    members = membership(config, len(y))
    measured = torch.stack([y[m].mean() for m in members])[:, None]
    scores = ((y - y.mean()) / len(y))[None]
    assert lds(scores, members, measured) == pytest.approx([1.0])
    assert lds(-scores, members, measured) == pytest.approx([-1.0])


def test_exact_influence_ranks_least_squares_on_subsets(generator: torch.Generator):
    ridges, members, measured = leave_group_out(400, 3, generator)
    task = inf.Task(ridges[0].model(), call_model, gaussian_loss, "gaussian")
    data = inf.Dataset(ridges[0].x, ridges[0].y[:, None])
    curvature = inf.fit_ekfac(task, data, fisher="exact")  # exact for one layer

    def prediction(ridge: Ridge) -> Callable[[nn.Module], Tensor]:
        return lambda model: model(ridge.probe[None]).sum()

    ihvps = [
        curvature.solve(inf.gradient(task, prediction(r)), damping=1e-6) for r in ridges
    ]
    scores = inf.influences(task, data, ihvps)
    assert min(lds(scores, members, measured)) > 0.98
    dots = inf.influences(task, data, [inf.gradient(task, prediction(ridges[0]))])
    torch.testing.assert_close(scores[0], ridges[0].influence)
    assert dots.shape == (1, 400)


def test_random_scores_rank_nothing(generator: torch.Generator):
    _, members, measured = leave_group_out(100, 3, generator)
    scores = torch.randn(5, 100, generator=generator)
    assert abs(np.mean(lds(scores, members, measured))) < 0.2


def test_a_rank_correlation_of_nothing_is_refused():
    members = torch.tensor([[True, False], [False, True], [True, True]])
    with pytest.raises(InputError, match="at least three subsets and values that diff"):
        lds(torch.zeros(1, 2), members, torch.rand(3, 1))


def test_subsets_and_probes_stay_when_more_are_asked_for():
    config = settings("digits")
    assert isinstance(config, LDSConfig)
    more = replace(config, subsets=101, probes=60)
    assert torch.equal(subset(config, 30, 7), subset(more, 30, 7))
    assert len(set(subset(config, 30, 7).tolist())) == 15
    assert not torch.equal(subset(config, 30, 7), subset(config, 30, 8))
    assert probe_positions(more, 200)[:50] == probe_positions(config, 200)
    assert len(set(probe_positions(config, 200))) == 50


# Methods


@pytest.fixture
def context(pictures: Dataset, make_cnn: Callable[..., nn.Module]) -> Context:
    task = classification(make_cnn(dtype=torch.float32))
    model = Model(task, pictures, ("BatchNorm2d",), seed=0)
    return Context(model, pictures.take(torch.arange(2)))


def test_every_method_scores_every_document(context: Context):
    scores = {name: method(context) for name, method in METHODS.items()}
    for name, values in scores.items():
        assert values.shape == (2, 14), name
        assert torch.isfinite(values).all(), name
    assert scores["embedding"].diagonal() == pytest.approx([1.0, 1.0])
    assert scores["gradient_cosine"].abs().max() < 1 + 1e-5


def test_only_small_networks_have_their_matrix_written_out():
    dense = {"gauss_newton", "gauss_newton_1", "gauss_newton_10"}
    assert set(METHODS) - set(offered(5_001)) == dense
    assert offered(5_000) == list(METHODS)


def test_gradient_scores_equal_a_loop(context: Context):
    task, train = context.model.task, context.model.train
    each = document_gradients(task, train.batch(torch.arange(14)))
    for probe, goal in enumerate(context.gradients):
        dots = torch.tensor([dot(goal, g) for g in each])
        lengths = torch.tensor([dot(goal, goal) * norm(g, goal) for g in each]).sqrt()
        got = METHODS["gradient_dot"](context)[probe]
        torch.testing.assert_close(got, (-dots / 14).float())
        got = METHODS["gradient_cosine"](context)[probe]
        torch.testing.assert_close(got, (-dots / lengths).float())


def norm(gradient: dict[str, Tensor], over: dict[str, Tensor]) -> float:
    covered = {name: gradient[name] for name in over}
    return dot(covered, covered)


def test_embedding_similarity_does_not_look_at_labels(context: Context):
    train = context.model.train
    other = replace(train, labels=(train.labels + 1) % 3)
    relabelled = replace(context, model=replace(context.model, train=other))
    embedding, dots = METHODS["embedding"], METHODS["gradient_dot"]
    assert torch.equal(embedding(context), embedding(relabelled))
    assert not torch.allclose(dots(context), dots(relabelled))


def test_scores_do_not_depend_on_how_probes_are_split(context: Context):
    second = replace(context, probes=context.probes.take(torch.tensor([1])), first=1)
    for name in ("random", "embedding", "ekfac"):
        whole, part = METHODS[name](context), METHODS[name](second)
        torch.testing.assert_close(whole[1:], part)


def test_the_measurement_is_the_log_odds(context: Context):
    task = context.model.task
    probe = context.probes.batch(torch.tensor([0])).inputs[0]
    value = log_odds(probe, 1)(task.model).detach()
    assert float(value) == pytest.approx(behaviour(task.model, probe, 1).log_odds)


def test_refinement_lowers_the_quadratic(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
):
    task = classification(make_cnn(batch_norm=False))
    curvature = inf.fit_ekfac(task, pictures)
    probe = pictures.batch(torch.tensor([0]), like=next(task.model.parameters()))
    goal = inf.gradient(task, log_odds(probe.inputs[0], 1))

    def system(s: dict[str, Tensor], ratio: float) -> dict[str, Tensor]:
        lambdas = curvature.damping(damping_ratio=ratio)
        product = gauss_newton_product(task, pictures, s)
        damping = {n: lambdas[k] for k, b in curvature.blocks.items() for n in b.names}
        return {n: v + damping[n] * s[n] for n, v in product.items()}

    def refined(ratio: float, steps: int) -> dict[str, Tensor]:
        return refine(task, pictures, goal, curvature, damping_ratio=ratio, steps=steps)

    found = [refined(0.1, steps) for steps in (0, 2, 6)]
    values = [0.5 * dot(s, system(s, 0.1)) - dot(goal, s) for s in found]
    assert values[0] > values[1] > values[2]
    left = axpy(-1.0, goal, system(refined(10.0, 15), 10.0))
    assert dot(left, left) < 1e-8 * dot(goal, goal)


# The proximal Bregman response


@pytest.mark.parametrize("taken_off", [1.0, 0.05])
def test_pbrf_of_least_squares_is_leave_group_out(
    generator: torch.Generator, taken_off: float
):
    ridge = leave_group_out(40, 3, generator)[0][0]
    ridge = replace(ridge, decay=0.0)
    task = inf.Task(ridge.model(), call_model, gaussian_loss, "gaussian")
    data = inf.Dataset(ridge.x, ridge.y[:, None])
    weights = torch.ones(40, dtype=torch.float64)
    weights[:20] -= taken_off
    before = task.model.state_dict()["weight"].clone()
    response = pbrf.proximal_bregman_response(
        task,
        data,
        weights,
        inf.fit_ekfac(task, data, fisher="exact"),
        damping_ratio=1e-9,
        rtol=1e-9,
    )
    moved = next(response.task.model.parameters())[0]
    torch.testing.assert_close(moved, ridge.solution(weights), rtol=1e-6, atol=1e-6)
    assert response.residual < 1e-6
    assert torch.equal(task.model.state_dict()["weight"], before)


def test_pbrf_without_removal_stays_where_it_is(context: Context):
    """Even though the model is not at a minimum of its loss."""
    model = context.model
    response = pbrf.proximal_bregman_response(
        model.task, model.train, torch.ones(14), model.curvature(), damping_ratio=0.1
    )
    for name, value in response.task.model.state_dict().items():
        torch.testing.assert_close(value, model.task.model.state_dict()[name])


# Flipped labels


def test_flips_go_to_other_classes_by_a_named_stream():
    data = load_digits()
    flips = flip_labels(data, share=0.1, seed=3)
    changed = (flips.data.labels != data.labels).nonzero().flatten()
    assert torch.equal(changed, flips.positions.sort().values)
    assert len(changed) == 180
    assert torch.equal(flip_labels(data, share=0.1, seed=3).positions, flips.positions)
    shift = (flips.data.labels - data.labels)[flips.positions] % 10
    assert set(shift.tolist()) == set(range(1, 10))
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match="flips must be a share"):
            flip_labels(data, share=share, seed=0)


def test_planted_flips_are_found():
    digits = load_digits().take(torch.arange(300))
    flips = flip_labels(digits, share=0.1, seed=0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    task = classification(init_model(build, 0))
    recipe = inf.TrainConfig(epochs=15, batch_size=20, lr=0.1, momentum=0.9)
    inf.train(task, flips.data, recipe, seed=0)
    model = Model(task, flips.data, (), seed=0)
    hits = {k: found(v, flips.positions) for k, v in suspicion(model).items()}
    assert list(hits["loss"]) == ["0.05", "0.1", "0.2"]
    assert hits["self_influence"]["0.2"] >= 24, "of 30"
    assert hits["random"]["0.2"] <= 12
    loop = [
        dot(model.curvature().solve(g, damping_ratio=0.1), g)
        for g in document_gradients(task, flips.data.batch(torch.arange(300)))
    ]
    scores = suspicion(model)["self_influence"] * 300
    torch.testing.assert_close(scores, torch.tensor(loop), rtol=1e-3, atol=1e-4)


# Rows


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    filled = Rows(tmp_path / "rows.jsonl", ("subset", "seed"), "abc")
    for subset_, seed in ((1, 0), (0, 0), (0, 1)):
        filled.append({"subset": subset_, "seed": seed, "value": 0.5})
    return filled


def test_rows_come_back_in_the_order_of_their_keys(rows: Rows):
    assert list(rows.read()) == [(0, 0), (0, 1), (1, 0)]
    assert rows.read()[0, 1]["value"] == 0.5


@pytest.mark.parametrize("torn", [b'{"subset": 1, "se', b"\0" * 17], ids=repr)
def test_half_a_row_is_cut_off_and_said(
    torn: bytes, rows: Rows, capsys: pytest.CaptureFixture[str]
):
    whole = rows.path.read_bytes()
    rows.path.write_bytes(whole + torn)
    assert len(rows.read()) == 3
    assert rows.path.read_bytes() == whole
    said = capsys.readouterr().err
    assert said == f"cut 17 bytes of an unfinished row off {rows.path}\n"


@pytest.mark.parametrize("end", [b"# notes", b"{]", b"\0x"], ids=repr)
def test_what_is_no_half_row_is_not_cut_off(rows: Rows, end: bytes):
    whole = rows.path.read_bytes() + end
    rows.path.write_bytes(whole)
    with pytest.raises(ArtefactError, match=f"got {len(end)} other bytes"):
        rows.read()
    assert rows.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"subset": 1}', "got an altered line 4"),
        ("[]", "got an altered line 4"),
        ("{", "got an altered line 4"),
        ('{"subset": 2, "seed": 0, "inputs_sha256": "abc"}', "got an altered line 4"),
        ({"subset": 2, "seed": 0, "inputs_sha256": "x"}, "got others in line 4"),
        ({"subset": 0, "seed": 0, "inputs_sha256": "abc"}, r"\(0, 0\) twice"),
    ],
    ids=str,
)
def test_rows_of_something_else_are_refused(
    rows: Rows, line: str | dict[str, Any], wanted: str
):
    text = line if isinstance(line, str) else json.dumps(sealed(line))
    with rows.path.open("a") as file:
        file.write(text + "\n")
    with pytest.raises(ArtefactError, match=wanted):
        rows.read()


# Whole runs, tiny


def tiny(kind: type[LDSConfig] | type[FlipsConfig]) -> Any:
    config = settings("digits", flips=0.1 if kind is FlipsConfig else None)
    data, train = config.suite.data, config.suite.train
    suite = replace(
        config.suite,
        data=replace(data, train=60),
        train=replace(train, epochs=2),
    )
    if isinstance(config, FlipsConfig):
        return replace(config, suite=suite, seeds=1)
    return replace(config, suite=suite, subsets=3, seeds=1, probes=2, pbrf=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fidelity") / "run"
    run(tiny(LDSConfig), root, threads=2)
    return root


def test_a_killed_run_goes_on_where_it_stopped(finished: Path, tmp_path: Path):
    """As a kill leaves it: two retrains done, the third in writing, no results."""
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    for path in root.glob("results.json*"):
        path.unlink()
    retrains = root / "retrains.jsonl"
    kept = retrains.read_bytes().splitlines(keepends=True)
    retrains.write_bytes(b"".join(kept[:2]) + kept[2][:40])
    run(tiny(LDSConfig), root, threads=1)
    lines = retrains.read_bytes().splitlines(keepends=True)
    assert lines[:2] == kept[:2]
    assert len(lines) == len(kept) == 6
    name = "results.json"
    assert (root / name).read_bytes() == (finished / name).read_bytes()


def test_a_run_of_other_settings_is_refused(finished: Path):
    with pytest.raises(InputError, match="must keep the inputs"):
        run(replace(tiny(LDSConfig), subsets=4), finished)


def test_a_fidelity_folder_has_no_page(finished: Path):
    with pytest.raises(
        InputError, match=r"got a folder of `infusion fidelity` \(lds\)"
    ):
        report(finished)


def test_results_hold_no_path_and_draw_the_tables(
    finished: Path, tmp_path: Path, tables: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    text = (finished / "results.json").read_text()
    assert "source" not in text
    results = json.loads(text)
    assert set(results["lds"]) == set(offered(100_000))
    assert results["seeds"] == {"fixed": [0], "fresh": [1]}
    assert results["pbrf"] is None, "one subset is too few to correlate"
    row = json.loads((finished / "retrains.jsonl").read_text().splitlines()[0])
    assert row["base_sha256"] == results["base_sha256"]
    assert row["threads"] == 1
    shutil.copy(finished / "results.json", tmp_path / "fidelity-digits.json")
    monkeypatch.setattr(tables, "HERE", tmp_path)
    drawn = tables.lds().splitlines()
    assert drawn[0] == lds_facts(results)[0]
    assert "| EK-FAC, damping ratio 0.1 |" in tables.lds()
    assert len(drawn) == 2 + 1 + 2 + len(lds_rows(results))
    assert list(lds_rows(results))[:2] == ["random", "embedding similarity"]
    assert tables.flips().splitlines()[-1] == "| --- |"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "results" / "tables.py"
    monkeypatch.syspath_prepend(path.parent)  # where a script finds its neighbours
    spec = importlib.util.spec_from_file_location("tables", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_flips_run_and_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("infusion.fidelity.run.settings", lambda *_, **__: asked)
    asked, root = tiny(FlipsConfig), tmp_path / "run"
    words = ["fidelity", "digits", "--flips", "0.1", "--out", str(root), "--json"]
    monkeypatch.setattr(sys, "argv", ["infusion", *words])
    main()
    printed = capfd.readouterr()
    last = json.loads(printed.out.splitlines()[-1])
    assert last["run"] == str(root)
    assert (last["kind"], last["flipped"], last["seeds"]) == ("flips", 6, [0])
    assert "self-influence, ratio 0.1" in printed.err
    assert "per_seed" not in last
    assert flips_rows(last)["loss"][0].endswith("]")


# Wrong input


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            "cifar100",
            "suite must be one of digits, digits-mlp, mnist, cifar10, got 'cifar100'",
        ),
        ("digits --subsets 2", "subsets must be ≥ 3, got 2"),
        ("digits --seeds 0", "seeds must be ≥ 1, got 0"),
        ("digits --probes 0", "probes must be ≥ 1, got 0"),
        ("digits --probes 298", "probes must be ≤ 297, the test set"),
        ("digits --threads 0", "threads must be a whole number ≥ 1, got 0"),
        ("digits --flips 1.5", "flips must be a share between 0 and 1"),
        ("digits --flips 0.1 --probes 3", "without subsets and probes, got probes"),
        ("digits --data folder", "the digits come with scikit-learn"),
        ("mnist", "a folder that holds train-images-idx3-ubyte.gz, got none in mnist"),
    ],
)
def test_wrong_flags_end_with_one_line(
    words: str,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["infusion", "fidelity", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("infusion: ")
    assert wanted in line
    assert not list(tmp_path.iterdir())


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(head + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Six training and four test pictures of 5 × 4."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for (pictures, labels), size in zip(FILES.values(), (6, 4), strict=True):
        values = np.arange(size * 20).reshape(size, 5, 4)
        (folder / pictures).write_bytes(idx(values))
        (folder / labels).write_bytes(idx(np.arange(size)))
    return folder


def test_idx_files_are_read_as_written(mnist: Path):
    train, test = load_mnist(str(mnist))
    assert (train.inputs.shape, test.inputs.shape) == ((6, 1, 5, 4), (4, 1, 5, 4))
    assert train.labels.tolist() == list(range(6))
    assert train.inputs[1, 0, 0].tolist() == [20, 21, 22, 23]
    assert train.levels == 255


IMAGES, LABELS = FILES["train"]


@pytest.mark.parametrize(
    ("name", "change", "wanted"),
    [
        (IMAGES, None, f"must be a folder that holds {IMAGES}, got none in"),
        (IMAGES, lambda b: b[:-9], "must be a gzip file, got a truncated or altered"),
        (IMAGES, lambda _: b"\x00\x00", "must be a gzip file, got a truncated or alt"),
        (IMAGES, lambda _: b"", "idx magic number 00000803, got nothing"),
        (
            LABELS,
            lambda _: idx(np.zeros((6, 1))),
            "magic number 00000801, got 00000802",
        ),
        (
            IMAGES,
            lambda b: gzip.compress(gzip.decompress(b)[:-7]),
            "must hold 6 × 5 × 4 bytes after its head, got 113",
        ),
        (
            IMAGES,
            lambda b: gzip.compress(gzip.decompress(b) + bytes(1 << 20)),
            "must hold 6 × 5 × 4 bytes after its head, got more",
        ),
        (
            IMAGES,
            lambda b: gzip.compress(gzip.decompress(b)[:4] + b"\xff" * 12),
            "must hold at most 1,073,741,824 bytes, got a head of 4294967295 × ",
        ),
        (LABELS, lambda _: idx(np.zeros(5)), "must be equally many, got 6 in"),
        (LABELS, lambda _: idx(np.full(6, 11)), "labels must lie in 0…9, got 11…11"),
        (IMAGES, lambda _: idx(np.zeros((6, 5, 5))), "must have one size"),
        (IMAGES, lambda _: idx(np.zeros((6, 0, 4)))[:-1], "truncated or altered"),
    ],
)
def test_bad_idx_files_are_refused_in_one_line(
    mnist: Path, name: str, change: Callable[[bytes], bytes] | None, wanted: str
):
    path = mnist / name
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path.write_bytes(change(content))
    with pytest.raises(InputError) as refused:
        load_mnist(str(mnist))
    assert wanted in str(refused.value)
    assert "\n" not in str(refused.value)


def test_too_few_documents_are_refused(mnist: Path):
    with pytest.raises(InputError, match=r"trains on 5000 documents, got 6 in"):
        run(settings("mnist", str(mnist)), mnist / "run")


def test_the_cnn_is_small_and_covered():
    model = SmallCNN()
    assert sum(p.numel() for p in model.parameters()) == 18_378
    task = classification(model)
    data = Dataset(torch.rand(3, 1, 28, 28), torch.tensor([0, 1, 2]), num_classes=10)
    blocks = inf.fit_ekfac(task, data).blocks
    names = {name for block in blocks.values() for name in block.names}
    assert names == {name for name, _ in model.named_parameters()}
    batch = Batch(data.inputs, data.labels)
    assert task.outputs(model, batch).shape == (3, 10)
