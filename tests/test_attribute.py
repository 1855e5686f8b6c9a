"""`infusion attribute`: ranked documents, its page, and one line for wrong input."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import infusion as inf
from infusion.configs import AttributeConfig, FitConfig
from infusion.errors import ArtefactError, InputError
from infusion.presets.base import base_model
from infusion.presets.context import Run
from infusion.presets.digits import PRESET
from infusion.presets.own import load_question
from infusion.presets.subjects import run_config
from infusion.report.page import report
from infusion.runs.config_files import read_config, to_yaml
from infusion.runs.store import Store
from infusion.seeding import derive

from .browser import Chromium, Page, number_faults
from .test_bad_input import Refused, refused
from .test_cli import Call, call, tree
from .test_page import (
    assert_self_contained,
    browser,
    decode,
    faults,
    needs_chromium,
)

# Fixtures of other files.
browser, call, refused = browser, call, refused


def tiny_config(**changes: Any) -> AttributeConfig:
    """The digits in seconds: two pairs, nothing learnt."""
    small = PRESET.configs["small"]
    settings = AttributeConfig(
        preset="digits",
        scale="small",
        data=replace(small.data, train=150),
        train=replace(small.train, epochs=2),
        curvature=FitConfig(fisher="sampled", damping_ratio=0.1, skip=("BatchNorm2d",)),
        self_influence=True,
        pairs=2,
        pair_seed=999,
        threads=1,
        device="cpu",
    )
    return replace(settings, **changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished attribution of the digits, to read only."""
    from infusion.presets.attribute import attribute

    root = tmp_path_factory.mktemp("attributed") / "run"
    attribute(tiny_config(), root)
    return root


def results_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "results.json").read_text("utf-8"))


def rows_of(root: Path) -> list[dict[str, str]]:
    with (root / "attribution.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# A preset


@cache
def trained(root: Path) -> tuple[inf.Task, Run]:
    """The model that was attributed, read back through the run layer."""
    settings = run_config(tiny_config())
    run = Run(settings, PRESET, Store(root), *PRESET.load(settings.data))
    return base_model(run), run


def test_scores_are_those_of_the_functions(finished: Path):
    task, run = trained(finished)
    results, train = results_of(finished), run.train
    curvature = inf.fit_ekfac(
        task, train, fisher="sampled", skip=("BatchNorm2d",),
        seed=derive(0, "curvature"),
    )  # fmt: skip
    for index, row in enumerate(results["measurements"]):
        probe = run.test.batch(torch.tensor([row["probe"]])).inputs[0]
        measurement = inf.log_prob(probe, row["target"])
        ihvp = curvature.solve(inf.gradient(task, measurement), damping_ratio=0.1)
        stored = load_file(finished / "scores/influence.safetensors")
        expected = inf.influence(task, train, ihvp)
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            stored["influence"][index], expected, rtol=1e-3, atol=1e-5 * scale
        )
        value = float(measurement(task.model.eval()).detach())
        assert row["value"] == pytest.approx(value, rel=1e-4)
        assert row["p"] == pytest.approx(np.exp(value), rel=1e-4)
    own = inf.self_influence(task, train, curvature, damping_ratio=0.1)
    stored = load_file(finished / "scores/self_influence.safetensors")
    torch.testing.assert_close(
        stored["self_influence"], own, rtol=1e-3, atol=1e-5 * float(own.max())
    )


def test_the_tables_rank_every_document(finished: Path):
    results, rows = results_of(finished), rows_of(finished)
    scores = load_file(finished / "scores/influence.safetensors")["influence"]
    own = load_file(finished / "scores/self_influence.safetensors")["self_influence"]
    labels = trained(finished)[1].train.labels
    assert list(rows[0]) == [
        "measurement", "rank", "document", "influence", "label", "self_influence",
    ]  # fmt: skip
    for index, measured in enumerate(results["measurements"]):
        part = rows[150 * index : 150 * (index + 1)]
        assert {row["measurement"] for row in part} == {measured["name"]}
        assert [int(row["rank"]) for row in part] == list(range(1, 151))
        documents = [int(row["document"]) for row in part]
        assert sorted(documents) == list(range(150))
        influence = [float(row["influence"]) for row in part]
        assert influence == sorted(influence, reverse=True)
        assert influence == pytest.approx(scores[index][documents].tolist(), rel=1e-6)
        assert [int(row["label"]) for row in part] == labels[documents].tolist()
        assert [float(row["self_influence"]) for row in part] == pytest.approx(
            own[documents].tolist(), rel=1e-6
        )
        for side, step in (("supporting", 1), ("opposing", -1)):
            shown = measured[side]
            assert [d["document"] for d in shown] == documents[::step][: len(shown)]
            assert [d["rank"] for d in shown] == list(range(1, 151))[::step][
                : len(shown)
            ]
            assert all(step * d["influence"] > 0 for d in shown)
    table = pq.read_table(finished / "attribution.parquet").to_pydict()
    assert table["document"] == [int(row["document"]) for row in rows]
    assert table["influence"] == pytest.approx([float(r["influence"]) for r in rows])


def test_results_say_what_was_covered(finished: Path):
    results = results_of(finished)
    task, _ = trained(finished)
    coverage = results["coverage"]
    named = dict(task.model.named_parameters())
    total = sum(p.numel() for p in named.values())
    parts = coverage["parameters"]
    assert parts["covered"] + parts["skipped"] == total
    assert parts["frozen"] == 0
    assert parts["covered"] == sum(lay["parameters"] for lay in coverage["layers"])
    assert parts["skipped"] == sum(lay["parameters"] for lay in coverage["skipped"])
    assert coverage["layers"][0]["name"] == "stem"
    assert (results["n"], results["subject"]) == (150, "digits")


def test_the_page_shows_what_is_stored(finished: Path):
    path = finished / "report.html"
    page, results = Page(path), results_of(finished)
    assert_self_contained(path)
    assert number_faults(page.numbers, finished) == []
    shown = {number["key"] for number in page.numbers}
    for index, row in enumerate(results["measurements"]):
        at = f"measurements.{index}"
        assert {f"{at}.value", f"{at}.probe", f"{at}.p"} <= shown
        for side in ("supporting", "opposing"):
            for place in range(len(row[side])):
                for key in ("document", "influence", "self_influence"):
                    assert f"{at}.{side}.{place}.{key}" in shown
    assert {"n", "coverage.share", "coverage.parameters.skipped"} <= shown
    by_alt = {picture["alt"]: picture["src"] for picture in page.pictures}
    train, test = (getattr(trained(finished)[1], name) for name in ("train", "test"))
    first = results["measurements"][0]
    top = first["supporting"][0]
    drawn = decode(
        by_alt[f"training picture {top['document']}, labelled {top['label']}"]
    )
    stored = train.inputs[top["document"]][0].numpy()
    np.testing.assert_array_equal(np.asarray(drawn), np.round(stored / 16 * 255))
    probe = decode(by_alt["probe of measurement 0"])
    stored = test.inputs[first["probe"]][0].numpy()
    np.testing.assert_array_equal(np.asarray(probe), np.round(stored / 16 * 255))
    assert page.numbers
    text = path.read_text("utf-8")
    assert text.count("<svg") == len(results["measurements"])
    assert "infusion attribute --config config.yaml" in text


def test_a_finished_one_is_not_made_again(
    finished: Path, call: Call, capfd: pytest.CaptureFixture[str]
):
    before, config = tree(finished), finished / "config.yaml"
    assert read_config(config.read_text("utf-8"), AttributeConfig) == tiny_config()
    assert call("attribute", "--config", config, "--out", finished, "--json") == 0
    printed = capfd.readouterr()
    assert tree(finished) == before
    assert "train base model" not in printed.err
    assert f"page: {finished / 'report.html'}" in printed.err
    assert "supporting" in printed.err
    last = json.loads(printed.out.splitlines()[-1])
    results = results_of(finished)
    assert last["measurements"] == results["measurements"]
    assert (last["subject"], last["n"]) == ("digits", 150)
    assert last["parameters"] == results["coverage"]["parameters"]
    assert Path(last["run"]) == finished
    assert Path(last["report"]) == finished / "report.html"


@pytest.mark.parametrize(
    "lost",
    [
        "checkpoints/epoch-002.safetensors",
        "curvature/ekfac.safetensors",
        "scores/influence.safetensors",
        "scores/self_influence.safetensors",
        "shown.safetensors",
        "attribution.parquet",
        "results.json",
    ],
)
def test_one_that_was_killed_goes_on(
    lost: str, finished: Path, tmp_path: Path, call: Call
):
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    files = sorted(finished.rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    later = [str(path.relative_to(finished)) for path in files if path.is_file()]
    for name in later[later.index(f"{lost}.record.json") :]:
        if name != "times.json":
            (root / name).unlink()  # as a kill before its record was written
    assert call("attribute", "--config", finished / "config.yaml", "--out", root) == 0
    varies = {"times.json", "report.html"}  # the page shows the times
    got, wanted = tree(root), tree(finished)
    assert set(got) == set(wanted)
    assert {n for n in got if got[n] != wanted[n]} <= varies


def test_report_draws_it_again(
    finished: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
):
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    (root / "report.html").unlink()
    assert call("report", root, "--json") == 0
    drawn, wanted = ((r / "report.html").read_bytes() for r in (root, finished))
    assert drawn == wanted
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (last["subject"], Path(last["run"])) == ("digits", root)
    (root / "shown.safetensors").write_bytes(b"12")
    with pytest.raises(ArtefactError, match="truncated or altered"):
        report(root)


def test_a_probe_is_asked_about_its_prediction_or_any_class(
    finished: Path, tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
):
    words = ["attribute", "--config", finished / "config.yaml"]
    words += ["--base", finished / "checkpoints", "--probe", "7"]
    label = int(trained(finished)[1].test.labels[7])
    for name, more in (("predicted", ()), ("true", ("--target", label))):
        out = tmp_path / name
        assert call(*words, *more, "--curvature", "kfac", "--out", out, "--json") == 0
        last = json.loads(capfd.readouterr().out.splitlines()[-1])
        (row,) = last["measurements"]
        assert (row["probe"], row["label"]) == (7, label)
        assert row["target"] == (label if more else row["predicted"])
        assert last["curvature"]["kind"] == "kfac"
    got = read_config((out / "config.yaml").read_text("utf-8"), AttributeConfig)
    assert (got.probe, got.target, got.pairs, got.curvature.kind) == (
        7, label, 1, "kfac",
    )  # fmt: skip


def test_flags_reach_the_settings():
    from infusion.presets.asked import asked

    def settings(*given: Any, **flags: Any) -> tuple[AttributeConfig, Path]:
        keywords = dict.fromkeys(
            ("curvature", "fisher", "damping", "damping_ratio", "batch_size")
        )
        return asked(*given, **(keywords | {"skip": ()} | flags))

    got, folder = settings("digits", None, None, damping=1e-6, skip=("fc", "stem"))
    assert (got.curvature.damping, got.curvature.damping_ratio) == (1e-6, None)
    assert got.curvature.skip == ("fc", "stem")
    assert (got.pairs, got.scale, got.curvature.fisher) == (5, "small", "sampled")
    assert folder.parts[0] == "runs"
    assert folder.name.startswith("attribute-digits-small-seed0-")
    got, folder = settings(None, "a.b:c", None, threads=1, self_influence=False)
    assert (got.curvature.damping_ratio, got.curvature.skip, got.threads) == (
        0.1,
        (),
        1,
    )
    assert folder.name.startswith("attribute-a.b.c-")
    got, _ = settings("digits", None, None, curvature="identity", target="3")
    assert (got.curvature.kind, got.curvature.fisher, got.target) == (
        "identity", None, 3,
    )  # fmt: skip


# A model of one's own

OWN = """
import torch
from torch import Tensor, nn
import torch.nn.functional as F
import infusion as inf

torch.manual_seed(0)
IDS = torch.randint(0, 11, (12, 6))
MODEL = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 11))
SCALE = 1.0


def loss(outputs, batch):
    return F.cross_entropy(outputs.mT, batch.labels, reduction="none").sum(1)


def f(model):
    return SCALE * model(IDS[:1])[0, -1].log_softmax(-1)[3]


TASK = inf.Task(MODEL, lambda m, b: m(b.inputs), loss, "categorical")
TRAIN = inf.Dataset(IDS, IDS.roll(-1, 1))


def question(**changes):
    return inf.Question(**({
        "task": TASK,
        "train": TRAIN,
        "measurements": {"[bold]<b>next</b> is 3": f, "not 3": lambda m: -f(m)},
        "describe": lambda i: " ".join(f"<w{t}>" for t in IDS[i].tolist()),
    } | changes))


def plain():
    return question(describe=None)


def values():
    x = torch.randn(9, 60)
    model = nn.Linear(60, 1)

    def loss(outputs, batch):
        return (outputs[:, 0] - batch.labels) ** 2

    task = inf.Task(model, lambda m, b: m(b.inputs), loss)
    return inf.Question(task, inf.Dataset(x, x[:, 0]), {"sum": lambda m: m(x).sum()})


def pictures():
    data = torch.randn(9, 3, 8, 8), torch.arange(9) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    train = inf.Dataset(*data, num_classes=3)
    task = inf.classification(model)
    return inf.Question(task, train, {"up": lambda m: m(data[0]).log_softmax(1)[0, 0]})


def needs(what):
    return question()


def nothing():
    return {"task": TASK}


def unmeasured():
    return question(measurements={})


def listed():
    return question(measurements=[f])


def nameless():
    return question(measurements={"": f})


def vector():
    return question(measurements={"ok": f, "odd": lambda m: m(IDS)[0, 0]})


def number():
    return question(measurements={"odd": lambda m: f(m).item()})


def detached():
    return question(measurements={"odd": lambda m: f(m).detach()})


def infinite():
    return question(measurements={"odd": lambda m: f(m) / 0})


def no_task():
    return question(task=MODEL)


def no_data():
    return question(train=(IDS, IDS))


def no_function():
    return question(describe="text")


def no_text():
    return question(describe=lambda i: i)


def uncovered():
    model = nn.Sequential(nn.Embedding(11, 4), nn.Bilinear(4, 4, 11))
    task = inf.Task(model, lambda m, b: m[1](m[0](b.inputs), m[0](b.inputs)), loss)
    up = lambda m: task.outputs(m, inf.Batch(IDS, IDS)).sum()
    return inf.Question(task, TRAIN, {"up": up})


NOT_CALLABLE = 3
"""


@pytest.fixture
def own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    """Puts a module of one's own into the current folder; gives it by attribute."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "own_questions.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "own_questions", raising=False)

    def get(name: str) -> Any:
        return getattr(sys.modules["own_questions"], name)

    yield get
    sys.modules.pop("own_questions", None)


def loop(own: Callable[[str], Any]) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the measurement and of every document, one at a time."""
    task, train = own("TASK"), own("TRAIN")
    parameters = list(task.model.parameters())

    def flat(value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    documents = []
    for i in range(len(train)):
        batch = train.batch(torch.tensor([i]))
        documents.append(flat(task.loss(task.outputs(task.model, batch), batch).sum()))
    return flat(own("f")(task.model)), documents


def test_own_model_by_gradient_dot_product(
    own: Callable[[str], Any], tmp_path: Path, call: Call
):
    words = ["attribute", "--task", "own_questions:question", "--curvature", "identity"]
    assert call(*words, "--damping", "0.5", "--out", tmp_path / "run") == 0
    measured, documents = loop(own)
    expected = -torch.stack([measured @ g for g in documents]) / 1.5 / len(documents)
    stored = load_file(tmp_path / "run/scores/influence.safetensors")
    torch.testing.assert_close(stored["influence"][0], expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(stored["influence"][1], -expected, rtol=1e-5, atol=1e-7)
    results = results_of(tmp_path / "run")
    first, second = results["measurements"]
    assert (first["value"], second["value"]) == (
        pytest.approx(float(own("f")(own("MODEL")).detach())), -first["value"],
    )  # fmt: skip
    top = first["supporting"][0]
    assert top["document"] == int(expected.argmax())
    assert top["document"] == second["opposing"][0]["document"]
    assert top["text"] == " ".join(
        f"<w{t}>" for t in own("IDS")[top["document"]].tolist()
    )
    assert top["label"] is None
    assert results["curvature"] == {
        "kind": "identity", "fisher": None, "num_documents": 12,
    }  # fmt: skip
    assert list(rows_of(tmp_path / "run")[0]) == [
        "measurement", "rank", "document", "influence",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["own_questions:question"], 0),
        (["own_questions:uncovered"], 1),
        (["own_questions:uncovered", "--skip", "Bilinear"], 0),
        (["own_questions:question", "--skip", "Unknown"], 1),
    ],
    ids=["covered", "refused", "skipped", "unknown"],
)
@pytest.mark.usefixtures("own")
def test_the_doctor_ends_with_1_where_a_fit_would_be_refused(
    words: list[str], status: int, call: Call, capfd: pytest.CaptureFixture[str]
):
    assert call("doctor", "--json", "--task", *words) == status
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert found["fits"] == (status == 0)


@pytest.mark.parametrize("kind", ["diagonal", "kfac", "ekfac"])
def test_own_model_by_every_curvature(
    kind: str, own: Callable[[str], Any], tmp_path: Path, call: Call
):
    out = tmp_path / "run"
    words = ["--task", "own_questions:question", "--curvature", kind, "--self"]
    words += ["--fisher", "empirical", "--skip", "0", "--skip", "3"]
    assert call("attribute", *words, "--out", out) == 0
    task, train = own("TASK"), own("TRAIN")
    curvature = inf.fit_curvature(
        task, train, kind=kind, fisher="empirical", skip=("0", "3")
    )
    ihvp = curvature.solve(inf.gradient(task, own("f")), damping_ratio=0.1)
    stored = load_file(out / "scores/influence.safetensors")["influence"]
    expected = inf.influence(task, train, ihvp)
    torch.testing.assert_close(stored[0], expected, rtol=1e-4, atol=1e-6)
    results = results_of(out)
    assert [layer["name"] for layer in results["coverage"]["layers"]] == ["1"]
    assert [lay["name"] for lay in results["coverage"]["skipped"]] == ["0", "3"]
    assert results["measurements"][0]["supporting"][0]["self_influence"] > 0


@pytest.mark.parametrize(
    ("name", "form", "wanted"),
    [
        ("question", "ids", r"&lt;w\d+&gt; &lt;w\d+&gt;"),
        ("plain", "ids", r">\d+( \d+){5}</p>"),
        ("values", "values", r">-?[\d.e-]+( -?[\d.e-]+){47} … \(60 in all\)</p>"),
        ("pictures", "picture", r'alt="training picture \d, labelled \d"'),
    ],
)
def test_pages_of_ones_own_documents(
    name: str,
    form: str,
    wanted: str,
    own: Callable[[str], Any],
    tmp_path: Path,
    call: Call,
    capfd: pytest.CaptureFixture[str],
):
    root = tmp_path / "run"
    assert call("attribute", "--task", f"own_questions:{name}", "--out", root) == 0
    printed = capfd.readouterr().out
    assert f"own_questions:{name}: EK-FAC of the " in printed
    assert printed.splitlines()[-1] == f"page: {root / 'report.html'}"
    path = root / "report.html"
    page, text = Page(path), path.read_text("utf-8")
    assert results_of(root)["form"] == form
    assert_self_contained(path)
    assert number_faults(page.numbers, root) == []
    assert re.search(wanted, text)
    assert "<b>next" not in text
    if name in ("question", "plain"):
        assert "[bold]<b>next</b> is 3" in printed
    if name == "values":
        assert "of the empirical Fisher" in printed
        assert "own labels" in text


@needs_chromium
@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_opens_in_a_browser(width: int, finished: Path, browser: Chromium):
    path = finished / "report.html"
    visit = browser.visit(path, width=width)
    assert faults(visit, finished) == []
    assert len(visit.pictures) == len(Page(path).pictures) > 0


@needs_chromium
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("name", ["question", "values"])
def test_the_page_of_ones_own_opens_in_a_browser(
    name: str,
    width: int,
    own: Callable[[str], Any],
    tmp_path: Path,
    call: Call,
    browser: Chromium,
):
    root = tmp_path / "run"
    assert call("attribute", "--task", f"own_questions:{name}", "--out", root) == 0
    assert faults(browser.visit(root / "report.html", width=width), root) == []


def test_a_large_page_keeps_its_limit(tmp_path: Path, finished: Path):
    """Forty measurements of colour noise: pictures for the first ones only."""
    root = tmp_path / "run"
    store, results = Store(root), results_of(finished)
    (row, *_) = results["measurements"]
    results["measurements"] = [row] * 40
    results |= {"levels": 255}
    generator = torch.Generator().manual_seed(0)
    documents = sorted(
        {d["document"] for side in ("supporting", "opposing") for d in row[side]}
    )
    noise = torch.randint(0, 256, (len(documents), 3, 64, 64), generator=generator)
    probes = torch.randint(0, 256, (40, 3, 64, 64), generator=generator).byte()
    shown = {
        "documents": torch.tensor(documents), "inputs": noise.byte(), "probes": probes,
    }  # fmt: skip
    scores = torch.randn(40, 150, generator=generator)
    store.tensors("shown.safetensors", 0, lambda: shown)
    store.tensors("scores/influence.safetensors", 0, lambda: {"influence": scores})
    store.derive("results.json", json.dumps(results).encode())
    path = report(root)
    assert_self_contained(path)
    assert path.read_text("utf-8").count("<details") == 16
    assert "of the first 16 measurements" in path.read_text("utf-8")


def test_another_model_is_not_mixed_in(
    own: Callable[[str], Any], tmp_path: Path, call: Call, refused: Refused
):
    words = ["attribute", "--task", "own_questions:question", "--out", tmp_path / "run"]
    assert call(*words) == 0
    before = tree(tmp_path / "run")
    assert call(*words) == 0
    assert tree(tmp_path / "run") == before
    module = sys.modules["own_questions"]
    module.SCALE = 2.0  # another measurement, the same model
    refused("stored scores/influence.safetensors must have been made from", *words)
    module.SCALE = 1.0
    with torch.no_grad():
        own("MODEL")[1].weight += 1
    refused("stored curvature/ekfac.safetensors must have been made from", *words)
    refused("must keep the inputs it was started with", *words, "--seed", "3")
    assert tree(tmp_path / "run") == before


# Wrong input


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Lets values of other types in, as they are outside the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "no_module_of_this_name:question",
            "can be imported, got no no_module_of_this",
        ),
        ("own_questions.inner:question", "can be imported, got no own_questions.inner"),
        (
            "own_questions:absent",
            "got no absent there; it has loss, f, question, plain",
        ),
        ("own_questions:NOT_CALLABLE", "must name a function of own_questions"),
        ("own_questions", "must be module:function, both names, got 'own_questions'"),
        ("own_questions.py:question", "own_questions.py"),
        ("folder/own_questions:question", "must be module:function, both names"),
        ("own_questions:needs", "must take no arguments, got one where .*'what'"),
        ("own_questions:nothing", "must return an infusion.Question, got dict; return"),
        ("own_questions:unmeasured", "hold at least one measurement, got none; add"),
        ("own_questions:listed", "measurements must be a dict .*, got list; give"),
        ("own_questions:nameless", "must be a name and a function .* got '': function"),
        ("own_questions:vector", r"measurement 'odd': .* a scalar .* shape \(11,\)"),
        ("own_questions:number", "'odd': .* a scalar tensor .* got float; do not call"),
        ("own_questions:detached", "measurement 'odd': .* requires_grad=False"),
        ("own_questions:infinite", "measurement 'odd': .* must be finite, got -inf"),
        ("own_questions:no_task", "task must be an infusion.Task, got Sequential"),
        ("own_questions:no_data", "train must be an infusion.Dataset, got tuple"),
        ("own_questions:no_function", "describe must be a function of .* got str"),
        (
            "own_questions:no_text",
            "describe must return a text .* got int for document",
        ),
        ("own_questions:uncovered", r"others with .*: 1 \(Bilinear\): 187; pass"),
        ("own_questions:question --skip Conv2d", r"got \['Conv2d'\] which match none"),
        ("own_questions:question --skip 0 --skip 1 --skip 3", "outside skip, got none"),
        ("own_questions:question --probe 3", "--probe must come with a preset, got a"),
        ("own_questions:question --data x --pairs 2", "--data, --pairs must come with"),
        ("own_questions:question --damping 0", "damping must be > 0 and finite, got"),
        ("own_questions:question --damping 1 --damping-ratio 1", "exactly one of damp"),
        (
            "own_questions:question --threads 0",
            "threads must be a whole number ≥ 1, got 0",
        ),
        (
            "own_questions:question --batch-size 0",
            "batch_size must be a whole number ≥ 1, got 0",
        ),
        ("own_questions:values --fisher sampled", "likelihood"),
        ("own_questions:question --curvature identity --fisher exact", "drop one of"),
        ("own_questions:question --curvature inverse", "invalid choice 'inverse'"),
    ],
)
def test_wrong_questions(
    name: str,
    wanted: str,
    own: Callable[[str], Any],
    tmp_path: Path,
    refused: Refused,
    unchecked: None,
):
    out = tmp_path / "run"
    refused(wanted, "attribute", "--task", *name.split(), "--out", out)
    assert not (out / "scores").exists()


def test_skipping_what_is_uncovered_works(
    own: Callable[[str], Any], tmp_path: Path, call: Call
):
    words = ["--task", "own_questions:uncovered", "--skip", "Bilinear"]
    assert call("attribute", *words, "--out", tmp_path / "run") == 0
    (skipped,) = results_of(tmp_path / "run")["coverage"]["skipped"]
    assert skipped == {"name": "1", "parameters": 187}


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            "",
            "exactly one of PRESET, --task and --config must be given, got None, None",
        ),
        ("digits --task a:b", "exactly one of PRESET, --task and --config"),
        (
            "mnist",
            r"preset must be one of digits, cifar10, .*, got 'mnist'",
        ),
        (
            "digits --probe 297",
            "probe must lie in 0…296, the test set, got 297; choose",
        ),
        ("digits --probe -1", "probe must lie in 0…296, the test set, got -1; choose"),
        ("digits --target cat", "--target must be one of 0, 1, .* got 'cat'; choose"),
        ("digits --pairs 0", "one measurement must be asked for, got 0 pairs and no"),
        ("digits --pairs -1", "pairs must be ≥ 0, got -1"),
        ("digits --pairs 298", "pairs must be ≤ 297, the test set, got 298"),
        (
            "digits --skip Convolution",
            r"got \['Convolution'\] which match none; remove",
        ),
        ("digits --damping -1", r"damping must be > 0 and finite, got -1\.0"),
        ("digits --data somewhere", "digits come with .*, got --data somewhere"),
        ("digits --base /no/such", "--base must hold .* no epoch-009.safetensors"),
        ("digits --pears 3", "meant --pairs; try `infusion attribute --help`"),
        ("--config no.yaml", "--config must name a file, got no.yaml; use RUN"),
        ("--config . --scale paper", "--scale must come with a PRESET, got paper"),
    ],
)
def test_wrong_flags(words: str, wanted: str, refused: Refused, tmp_path: Path):
    refused(wanted, "attribute", *words.split(), "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            {"preset": None},
            "exactly one of config.preset and config.task .* None and N",
        ),
        (
            {"task": "a:b"},
            "exactly one of config.preset and config.task .* digits and a",
        ),
        ({"scale": None, "train": None}, "must hold scale, train, got none"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"scale": "huge"}, "config.scale must be of type .*'huge'"),
        ({"curvature": None}, "config.curvature must have the keys"),
    ],
)
def test_wrong_configs(
    changes: dict[str, Any], wanted: str, refused: Refused, tmp_path: Path
):
    written = yaml.safe_load(to_yaml(tiny_config())) | changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(written), encoding="utf-8")
    refused(wanted, "attribute", "--config", path, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fault_of_ones_own_is_not_hidden(own: Callable[[str], Any], tmp_path: Path):
    folder = tmp_path / "folder"
    (folder / "own_broken.py").write_text("import no_such_thing\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        load_question("own_broken:question")
    with pytest.raises(InputError, match="can be imported, got no own_absent"):
        load_question("own_absent:question")
