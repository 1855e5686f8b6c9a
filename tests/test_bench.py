"""The benchmark: it runs, counts operations rightly, and never drops a row."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infusion.bench import works as bench_works
from infusion.bench.cost import Clock, measure
from infusion.bench.floor import Counts, Shape, count
from infusion.bench.models import Decoder, token_losses
from infusion.bench.problem import Problem, load, prepare
from infusion.bench.rows import rows
from infusion.bench.table import print_table
from infusion.bench.works import OURS, PEERS, PIP, WORKS, Bench, missing
from infusion.errors import InputError
from infusion.records import Batch
from infusion.training.loop import init_model

ROOT = Path(__file__).parent.parent
ISSUE_KEYS = {
    "work",
    "threads",
    "contender",
    "time_ratio",
    "memory_ratio",
    "agreement",
    "forward_passes",
    "floor_seconds",
    "seconds",
    "cpu_seconds",
    "environment",
}


def run_small(out: Path, *words: str) -> tuple[dict[str, Any], str]:
    """The real command at small sizes on one thread; its last line, and the table."""
    flags = ["--small", "--threads", "1", "--rounds", "1", "--json", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "infusion", "bench", *flags, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_our_contender_runs_alone(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ("--contenders", OURS, "--works", "hundred,share")
    printed, table = run_small(out, *words)
    stored = json.loads(out.read_text())
    assert stored["rows"] == printed["rows"]
    hundred, share = stored["rows"]
    assert hundred.keys() == share.keys() >= ISSUE_KEYS
    for row in (hundred, share):
        assert row["contender"] == OURS
        assert row["threads"] == 1
        assert row["data"] == "random pixels"
        assert row["missing"] is None
        assert row["failed"] is None
        assert row["seconds"] > 0
        assert row["cpu_seconds"] > 0
        assert row["forward_passes"] > 1
        assert row["peak_bytes"] >= row["baseline_bytes"] > 0
        assert sum(row["where"].values()) == pytest.approx(1)
        assert {"other operators", "outside operators"} < set(row["where"])
    assert 0 < hundred["floor_seconds"] < hundred["seconds"]
    assert set(hundred["parts"]) == {
        "measurement gradients",
        "inverse",
        "influence of documents",
    }
    assert [part["share"] for part in share["shares"]] == [1 / 16, 1 / 8, 1 / 4, 0.5, 1]
    assert share["shares"][-1]["spearman"] == 1.0
    assert share["share"] in {part["share"] for part in share["shares"]}
    assert "influence of 100" in table
    assert str(tmp_path) not in out.read_text()
    again, _ = run_small(out, *words)  # no process runs twice: times are the same
    assert again["rows"] == printed["rows"]


@pytest.mark.skipif(
    any(missing(peer) for peer in PEERS), reason="run `make peers` to compare"
)
def test_the_peers_find_the_same_scores(tmp_path: Path) -> None:
    printed, _ = run_small(tmp_path / "bench.json", "--works", "fit-transformer")
    ours, *others = printed["rows"]
    assert ours["contender"] == OURS
    found = [(row["contender"], row["work"]) for row in others]
    kinds = ("fit-transformer", "fit-transformer-low-damping")
    assert found == [(peer, kind) for peer in PEERS for kind in kinds]
    for row in others:
        assert row["failed"] is None
        assert row["agreement"] < (1e-4 if row["work"] == kinds[0] else 1e-2)
    for row in others[::2]:
        expected = row["seconds"] / ours["seconds"]
        assert row["time_ratio"] == pytest.approx(expected)


# Operations


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Problem]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("problems")
    found = {}
    for name in ("resnet", "mlp", "transformer"):
        prepare(name, small=True, data=None, folder=folder)
        found[name] = load(
            name, small=True, folder=folder, scratch=folder, channels_last=False
        )
    return found


def counted(call: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def differentiable(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return output if output.requires_grad else output.detach().requires_grad_()


@pytest.mark.parametrize("name", ["resnet", "mlp", "transformer"])
def test_passes_are_counted_as_torch_counts_them(
    name: str, problems: dict[str, Problem]
) -> None:
    problem = problems[name].fresh()
    counts, model = count(problem), problem.task.model
    fitted = (nn.Linear, nn.Conv2d)
    names = [
        f"{layer}.{own}"
        for layer, module in model.named_modules()
        if isinstance(module, fitted)
        for own, _ in module.named_parameters()
    ]
    inputs = problem.read(problem.data, torch.tensor([0])).inputs
    params = {name: model.get_parameter(name).detach() for name in names}

    def outputs(moved: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, moved, (inputs,))

    with torch.no_grad():
        assert counted(lambda: model(inputs)) == counts.forward()
        tangents = counted(lambda: torch.func.jvp(outputs, (params,), (params,)))
    # torch multiplies the zero tangent of the inputs by the first weights.
    idle = sum(layer.product() for layer in counts.layers if layer.is_first)
    assert tangents == counts.forward() + counts.tangents() + idle

    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, fitted):
            module.register_forward_hook(differentiable)
    both = counted(lambda: model(inputs).sum().backward())
    assert both == counts.forward() + counts.backward()


@pytest.mark.parametrize(
    ("t", "i", "o", "rotate_first"),
    [(1, 7, 5, True), (3, 7, 5, True), (60, 7, 5, False)],
)
def test_products_of_a_layer_are_counted_as_torch_counts_them(
    t: int, i: int, o: int, rotate_first: bool
) -> None:
    shape = Shape(inputs=i, outputs=o, positions=t, bias=False, is_first=False)
    a, g, q_a, q_g = (torch.ones(*size) for size in ((t, i), (t, o), (i, i), (o, o)))
    assert shape.covariances() == counted(lambda: (a.T @ a, g.T @ g))
    assert shape.rotation() == counted(lambda: q_g.T @ (torch.ones(o, i) @ q_a))
    assert shape.gradient() == counted(lambda: g.T @ a)
    assert shape.eigenvalues() == counted(
        lambda: (g @ q_g).T @ (a @ q_a) if rotate_first else q_g.T @ (g.T @ a) @ q_a
    )


def test_a_fit_is_two_passes_and_its_products() -> None:
    shape = Shape(inputs=3, outputs=2, positions=1, bias=True, is_first=False)
    counts = Counts([shape], products=10)
    passes = (2 * 2 * 2 + 10) + (2 * 2 * 2 + 20)
    products = 2 * (9 + 4) + 2 * (9 + 4 + 6)
    assert counts.fit(100) == 100 * (2 * passes + products) + 4 * (27 + 8)


def test_many_measurements_take_the_cheaper_way() -> None:
    layers = [Shape(inputs=20, outputs=10, positions=9, bias=False, is_first=False)]
    counts = Counts(layers, products=0)
    before = counts.forward() + counts.backward() + counts.gradient()
    solve = 2 * layers[0].rotation()
    one = counts.scores(1, 1) - before - solve
    many = counts.scores(1, 50) - 50 * (before + solve)
    assert one == 3 * counts.forward()
    assert many == before + 2 * 50 * 10 * 20


def test_a_plain_convolution_needs_no_patches(problems: dict[str, Problem]) -> None:
    layers = count(problems["resnet"]).layers
    strided = [layer for layer in layers if layer.shifts is None]
    assert [layer.shifts for layer in layers[:2]] == [(3, 13), (4, 13)]
    assert len(strided) == 5  # two blocks' first convolution and shortcut, the head
    wide = layers[1]
    expected = 13 * 2 * 64 * 4**2 + 2 * 64 * wide.outputs**2
    assert wide.covariances() == expected


# Missing peers, and rows


def result(stem: Path, seconds: float, scores: list[float], **more: Any) -> dict:
    np.save(f"{stem}.npy", np.array([scores]))
    np.save(f"{stem}-low.npy", np.array([scores]))
    cost = {"seconds": seconds, "cpu_seconds": 2 * seconds, "baseline_bytes": 100}
    own = {"forward_seconds": 0.5, "floor_seconds": 0.1, "operations": 1}
    own |= {"operations_per_second": 10, "parts": {"fit": seconds}}
    return {"stem": str(stem), "peak_bytes": 200, **cost, **own, **more}


def test_a_missing_peer_is_a_row_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(bench_works, "version", version)
    assert missing(OURS) is None
    absent = {name: missing(name) for name in (OURS, *PEERS)}
    ours = {("fit-mlp", 1, OURS): [result(tmp_path / "0", 1.0, [1.0])]}
    found = rows([WORKS["fit-mlp"]], [1], absent, ours, small=False)
    assert [(row["contender"], row["work"]) for row in found] == [
        (OURS, "fit-mlp"),
        ("kronfluence", "fit-mlp"),
        ("kronfluence", "fit-mlp-low-damping"),
        ("curvlinops", "fit-mlp"),
        ("curvlinops", "fit-mlp-low-damping"),
    ]
    assert found[0]["missing"] is None
    assert all(PIP in row["missing"] for row in found[1:])
    assert found[1]["missing"].startswith("kronfluence 1.0.1 is not installed; pip ")
    print_table(found)
    screen = capsys.readouterr().out
    assert f"missing: {found[1]['missing']}\n" in screen
    assert screen.count("missing:") == 2


def test_another_version_of_a_peer_is_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_works, "version", lambda _: "9.9")
    said = missing("kronfluence")
    assert said == f"kronfluence must be 1.0.1, got 9.9; {PIP}"


def test_the_pip_line_installs_what_the_lists_pin() -> None:
    lists = (ROOT / "benchmarks" / "peers.txt", ROOT / "tests" / "oracles.txt")
    pins = [
        line
        for path in lists
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert len(pins) > 4
    assert [pin for pin in pins if pin not in PIP.split()] == []
    assert {f"{name}=={version}" for name, version in PEERS.values()} <= set(pins)


def test_a_row_compares_medians_of_the_rounds(tmp_path: Path) -> None:
    mine = [
        result(tmp_path / f"a{k}", s, [1.0, 2.0]) for k, s in enumerate((1.0, 9.0, 2.0))
    ]
    theirs = [
        result(tmp_path / f"b{k}", s, [1.0, 1.0], peak_bytes=500)
        for k, s in enumerate((8.0, 7.0, 1.0))
    ]
    results = {("one", 1, OURS): mine, ("one", 1, "kronfluence"): theirs}
    absent = dict.fromkeys((OURS, *PEERS))
    found = rows([WORKS["one"]], [1], absent, results, small=False)
    ours, peer, unoffered = found
    assert ours["seconds"] == 2.0
    assert ours["forward_passes"] == 4.0
    assert ours["time_ratio"] is None
    assert peer["seconds"] == 7.0
    assert peer["our_seconds"] == 2.0
    assert peer["time_ratio"] == 3.5
    assert peer["memory_ratio"] == 0.25
    assert peer["agreement"] == pytest.approx(0.5**0.5)
    assert peer["goal"] == 4.0
    assert unoffered["missing"] == "curvlinops has inverses, but no scores of documents"


def test_a_failed_process_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results = {
        ("one", 1, OURS): [result(tmp_path / "a", 1.0, [1.0])],
        ("one", 1, "kronfluence"): [{"failed": "KeyError: 'x'"}],
    }
    absent = {OURS: None, "kronfluence": None}
    found = rows([WORKS["one"]], [1], absent, results, small=False)
    assert [row["failed"] for row in found] == [None, "KeyError: 'x'"]
    print_table(found)
    screen = capsys.readouterr().out
    assert "failed: kronfluence, influence of 1 measurement, TinyResNet" in screen
    assert "images: KeyError: 'x'\n" in screen


def test_the_smallest_share_is_kept_by_all_larger_ones(tmp_path: Path) -> None:
    ranks = ((1 / 8, 0.995), (1 / 4, 0.98), (1 / 2, 0.991), (1.0, 1.0))
    shares = [
        {"share": s, "spearman": r, "seconds": 10 * s, "cpu_seconds": 1.0}
        for s, r in ranks
    ]
    results = {
        ("share", 1, OURS): [result(tmp_path / "a", 10.0, [1.0], shares=shares)],
        ("fit-resnet", 1, "kronfluence"): [result(tmp_path / "b", 90.0, [1.0])],
    }
    (row,) = rows([WORKS["share"]], [1], {OURS: None}, results, small=False)
    assert row["share"] == 0.5
    assert row["seconds"] == 5.0
    assert row["time_ratio"] == 18.0
    assert row["goal"] == 15.0
    assert row["shares"] == shares


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"threads": "0"}, "--threads must be positive whole numbers .* got '0'"),
        ({"threads": "one"}, "--threads must be positive whole numbers"),
        ({"works": "fit"}, "--works must be some of fit-resnet, .* got 'fit'"),
        ({"contenders": "trak"}, "--contenders must be some of infusion, kronfluence"),
        ({"works": ","}, "drop the flag"),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    flags: dict[str, str], message: str
) -> None:
    settings = Bench(**flags)
    with pytest.raises(InputError, match=message):
        (
            settings.thread_counts(),
            settings.chosen_works(),
            settings.chosen_contenders(),
        )


def test_no_round_is_refused() -> None:
    with pytest.raises(InputError, match="--rounds must be a whole number ≥ 1, got 0"):
        Bench(rounds=0)


# The parts


def test_cost_of_a_call_is_its_own() -> None:
    def hold() -> int:
        with clock("inside"):
            return int(torch.ones(20_000_000).sum())

    clock = Clock()
    measure(hold)  # whatever the first sum loads
    clock.parts.clear()
    value, cost = measure(hold)
    assert value == 20_000_000
    assert 0 < clock.parts["inside"] <= cost.seconds
    assert cost.peak_bytes is not None
    held = cost.peak_bytes - cost.baseline_bytes
    assert 70_000_000 < held < 120_000_000
    _, after = measure(lambda: None)
    assert after.peak_bytes is not None
    assert after.peak_bytes - after.baseline_bytes < 20_000_000


def test_the_decoder_does_not_see_the_future() -> None:
    shape = {"vocabulary": 11, "width": 8, "depth": 2, "heads": 4, "context": 6}
    model = init_model(lambda: Decoder(**shape), seed=0)
    tokens = torch.arange(6)[None]
    changed = tokens.clone()
    changed[0, 4] = 9
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_a_documents_loss_is_the_sum_over_its_tokens() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, 2], [3, 4, 0]])
    found = token_losses(logits, Batch(labels, labels))
    expected = -logits.log_softmax(-1).gather(2, labels[..., None]).sum((1, 2))
    torch.testing.assert_close(found, expected)
