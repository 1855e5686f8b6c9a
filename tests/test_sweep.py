"""Sweeps: what is written, given up, refused, and when they end."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from infusion.command.cli import main
from infusion.errors import (
    ArtefactError,
    DivergedError,
    InputError,
    TooFewPairsError,
)
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import alone_in
from infusion.runs.parallel import Engine, processes
from infusion.runs.rows import sealed
from infusion.runs.store import write_whole
from infusion.suites import run as run_module
from infusion.suites import stages, tally
from infusion.suites.run import run_suite
from infusion.suites.subjects import Home
from infusion.suites.sweep import FAILURES, RESULTS, TIMES, Sweep, sweep

from .sweeps import ASKED, WORKS, files, infusion, rows


def test_results_are_sorted_and_times_are_apart(whole: Path):
    found = rows(whole)
    keys = [(row["seed"], row["pair"], row["place"]) for row in found]
    assert keys == sorted(keys)
    assert len(keys) == len(set(keys)) == WORKS
    assert "seconds" not in found[0]
    times = rows(whole, TIMES)
    assert [row["trial"] for row in times] == [row["trial"] for row in found]
    assert all(row["seconds"] > 0 for row in times)
    assert rows(whole, FAILURES) == []


def test_a_pair_that_fails_is_recorded_and_comes_back(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right, tries = stages.measured, []

    def wrong(home: Any, works: Any) -> Any:
        if works[0][0].index == 1 and works[0][1].name == "noise L2":
            tries.append(1)
            raise DivergedError("a loss must be finite, got nan")
        return right(home, works)

    monkeypatch.setattr(stages, "measured", wrong)
    with processes(1) as backend:
        found = sweep(ASKED, tmp_path, backend)
        assert len(rows(tmp_path)) == WORKS - 2
        assert len(tries) == 2 * (1 + ASKED.retries)
        failed = rows(tmp_path, FAILURES)
        assert [(row["seed"], row["pair"], row["trial"]) for row in failed] == [
            (0, 1, "noise L2"),
            (1, 1, "noise L2"),
        ]
        assert failed[0]["error"] == "a loss must be finite, got nan"
        assert failed[0]["attempts"] == 3
        assert len(found.failed) == 2
        monkeypatch.setattr(stages, "measured", right)
        sweep(ASKED, tmp_path, backend)
    assert files(tmp_path) == files(whole)


def test_a_pair_that_cannot_be_crafted_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right = stages.craft

    def wrong(home: Any, pairs: Any, changes: Any) -> Any:
        if pairs[0].index == 0:
            raise DivergedError("a score must be finite, got nan")
        return right(home, pairs, changes)

    monkeypatch.setattr(stages, "craft", wrong)
    with processes(1) as backend:
        sweep(replace(ASKED, seeds=(0,)), tmp_path, backend)
    assert {row["pair"] for row in rows(tmp_path)} == {1}
    failed = {(f["stage"], f["pair"], f["trial"]) for f in rows(tmp_path, FAILURES)}
    names = {row["trial"] for row in rows(tmp_path)}
    assert failed == {("craft", 0, name) for name in names}


def test_a_change_that_cannot_be_crafted_is_given_up_and_the_others_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Edits made before it in the same job are kept."""
    right = stages.craft

    def wrong(home: Any, pairs: Any, changes: Any) -> Any:
        right(home, pairs, changes[:1])
        if len(changes) > 1:
            raise DivergedError("an edit must be finite, got nan")

    monkeypatch.setattr(stages, "craft", wrong)
    with processes(1) as backend:
        found = sweep(replace(ASKED, seeds=(0,)), tmp_path, backend)
    done = {(row["pair"], row["trial"]) for row in rows(tmp_path)}
    given_up = {(f["pair"], f["trial"]) for f in rows(tmp_path, FAILURES)}
    assert len(done) == 2, "one trial of each pair"
    assert len(given_up) == len(found.failed) == WORKS / 2 - 2
    assert not done & given_up


def of_rows(found: list[dict[str, Any]]) -> dict[Any, Any]:
    return {(row["pair"], row["trial"]): {**row, "seconds": 0} for row in found}


def test_a_suite_of_several_blocks_goes_on_between_any_two_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Blocks overlap: one is scored, one crafted for and one retrained on at a time."""
    monkeypatch.setattr(run_module, "TOGETHER", {False: 2})
    config = replace(ASKED.config, pairs=5)
    wanted = of_rows(run_suite(config, "main", tmp_path / "whole"))
    assert len(wanted) == 5 * 2
    root, left = tmp_path / "parts", count(4, 5)
    done: dict[Any, Any] = {}
    with processes(1) as backend:
        while len(done) < len(wanted):
            asked = iter(range(next(left)))  # several times a job

            def stopped(asked: Iterator[int] = asked) -> bool:
                return next(asked, None) is None

            before = len(done)
            engine = Engine(backend, 0, stopped)
            done = of_rows(run_suite(config, "main", root, engine=engine))
            assert len(done) >= before
    assert done == wanted


def test_scores_that_fail_take_only_their_block_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run_module, "TOGETHER", {False: 2})
    right = stages.score

    def wrong(home: Any, pairs: Any, *which: Any) -> Any:
        if pairs[0].index == 2:
            raise DivergedError("a score must be finite, got nan")
        return right(home, pairs, *which)

    monkeypatch.setattr(stages, "score", wrong)
    asked = Sweep(replace(ASKED.config, pairs=3), "main", (0,))
    with processes(1) as backend:
        sweep(asked, tmp_path, backend)
        assert {row["pair"] for row in rows(tmp_path)} == {0, 1}
        failed = rows(tmp_path, FAILURES)
        assert {(each["stage"], each["pair"]) for each in failed} == {("score", 2)}
        assert len(failed) == 2, "each trial of the pair"
        monkeypatch.setattr(stages, "score", right)
        sweep(asked, tmp_path, backend)
    assert {row["pair"] for row in rows(tmp_path)} == {0, 1, 2}
    assert rows(tmp_path, FAILURES) == []


def test_a_base_model_that_fails_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right = run_module.replay

    def wrong(home: Any, specs: Any) -> Any:
        if home.config.seed == 0:
            raise DivergedError("a loss must be finite, got nan")
        return right(home, specs)

    monkeypatch.setattr(run_module, "replay", wrong)
    with processes(1) as backend:
        found = sweep(ASKED, tmp_path, backend)
    assert {row["seed"] for row in rows(tmp_path)} == {1}
    (failed,) = rows(tmp_path, FAILURES)
    assert (failed["stage"], failed["seed"], failed["pair"]) == ("base model", 0, None)
    assert "nothing can be compared: a loss must be finite" in failed["error"]
    assert failed["attempts"] == 1 + ASKED.retries
    assert len(found.failed) == 1


def test_a_base_model_of_fewer_pairs_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    right = run_module._run_suite

    def fewer(site: Any, suite: str, pairs: int, *more: Any) -> Any:
        if site.home.config.seed == lacking:
            raise TooFewPairsError("pairs must be ≤ 1")
        return right(site, suite, pairs, *more)

    monkeypatch.setattr(run_module, "_run_suite", fewer)
    with processes(1) as backend:
        lacking = 1
        sweep(ASKED, tmp_path / "second", backend)
        assert {row["seed"] for row in rows(tmp_path / "second")} == {0}
        (failed,) = rows(tmp_path / "second", FAILURES)
        assert (failed["seed"], failed["error"]) == (1, "pairs must be ≤ 1")
        lacking = 0
        with pytest.raises(TooFewPairsError):
            sweep(ASKED, tmp_path / "first", backend)


def test_what_leads_out_of_the_folder_is_not_written_through(
    whole: Path, tmp_path: Path
):
    shutil.copytree(whole, tmp_path / "copy")
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs, without an end of line")
    links = ("seed-0/rows/controls.jsonl", ".lock")
    for name in links:
        link = tmp_path / "copy" / name
        link.unlink()
        link.symlink_to(outside)
        with (
            processes(1) as backend,
            pytest.raises(ArtefactError, match="must be a file of its own, got a link"),
        ):
            sweep(ASKED, tmp_path / "copy", backend)
        assert outside.read_bytes() == b"theirs, without an end of line"


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        (lambda _: [], "must hold rows of a suite, got an altered line 1"),
        (lambda row: {**row, "pair": "0"}, "must hold rows of a suite"),
        (lambda row: {**row, "after": {"p": "0.5"}}, "must hold rows of a suite"),
        (lambda row: {**row, "accuracy": float("nan")}, "must hold rows of a suite"),
        (lambda row: {**row, "trial": ["edit"]}, "must hold rows of a suite"),
        (lambda row: {**row, "seed": 7}, "must hold rows of seed 0, those of a suite"),
        (lambda row: {**row, "suite": "main"}, "must hold rows of seed 0, those of"),
    ],
)
def test_rows_of_others_are_refused(
    altered: Any, said: str, whole: Path, tmp_path: Path
):
    """With a right hash of their own, too, which anybody can compute."""
    shutil.copytree(whole, tmp_path / "copy")
    path = tmp_path / "copy" / "seed-0" / "rows" / "controls.jsonl"
    lines = path.read_text("utf-8").splitlines()
    row = json.loads(lines[0])
    del row["row_sha256"]
    wrong = altered(row)
    lines[0] = json.dumps(sealed(wrong) if isinstance(wrong, dict) else wrong)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    before = files(tmp_path / "copy")
    with processes(1) as backend, pytest.raises(ArtefactError, match=said):
        sweep(replace(ASKED, budget=0.0), tmp_path / "copy", backend)
    assert files(tmp_path / "copy") == before


@pytest.mark.parametrize("failing", [None, 0])
def test_rows_that_hide_others_do_not_make_a_whole_sweep(
    failing: int | None, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A pair that there is not, under the probe and target of one that there is.

    Nor does a base model that fails now and has rows of earlier calls count twice.
    """
    right = run_module._run_suite

    def wrong(site: Any, *more: Any) -> Any:
        if site.home.config.seed == failing:
            raise DivergedError("a loss must be finite, got nan")
        return right(site, *more)

    monkeypatch.setattr(run_module, "_run_suite", wrong)
    shutil.copytree(whole, tmp_path / "copy")
    path = tmp_path / "copy" / "seed-1" / "rows" / "controls.jsonl"
    lines = path.read_text("utf-8").splitlines()
    row = json.loads(lines[0])
    del row["row_sha256"]
    lines[0] = json.dumps(sealed({**row, "pair": 500}))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    with (
        processes(1) as backend,
        pytest.raises(ArtefactError, match="must end with 16 rows or failures, got 15"),
    ):
        sweep(ASKED, tmp_path / "copy", backend)


def test_a_refused_sweep_leaves_results_as_they_were(whole: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(whole, root)
    config = tmp_path / "config.yaml"
    config.write_text(to_yaml(ASKED.config))
    flags = ["--suite", "controls", "--on", "processes", "--workers", "1"]
    flags += ["--config", str(config), "--out", str(root)]
    for wrong, said in (
        (["--pairs", "0"], "--pairs must be a whole number ≥ 1, got 0"),
        (["--pairs", "2", "--seeds", "0", "-1"], "--seeds must be a whole number ≥ 0"),
    ):
        with infusion("sweep", *flags, *wrong) as done:
            _, heard = done.communicate(timeout=60)
        assert done.returncode == 2
        assert said in heard
        assert heard.count("\n") == 1
        assert files(root) == files(whole)
    rows_of_seed = root / "seed-0" / "rows" / "controls.jsonl"
    lines = rows_of_seed.read_bytes().splitlines(keepends=True)
    rows_of_seed.write_bytes(b"".join(lines[:-1]))
    edits = sorted(root.glob("seed-0/edits/pair-001-*.safetensors"))
    for path in edits:
        path.write_bytes(b"altered")
    with processes(1) as backend, pytest.raises(ArtefactError):
        sweep(replace(ASKED, retries=0), root, backend)
    assert files(root) == files(whole)


def test_results_of_others_are_not_written_over(tmp_path: Path):
    (tmp_path / RESULTS).write_text("mine")
    with (
        processes(1) as backend,
        pytest.raises(InputError, match=r"got .* with a results.jsonl and no config"),
    ):
        sweep(ASKED, tmp_path, backend)
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]


def test_a_folder_in_the_way_is_named(tmp_path: Path):
    (tmp_path / RESULTS).mkdir()
    with pytest.raises(OSError, match="directory") as caught:
        write_whole(tmp_path / RESULTS, b"")
    assert caught.value.filename == str(tmp_path / RESULTS)
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]


def test_it_ends_early_and_forgets_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(whole, tmp_path / "copy")
    with processes(1) as backend:
        none = sweep(replace(ASKED, budget=0.0), tmp_path / "new", backend)
        assert none.rows == []
        assert none.reason == "--budget of 0 s is used up"
        kept = sweep(replace(ASKED, budget=0.0), tmp_path / "copy", backend)
        assert len(kept.rows) == WORKS
        assert files(tmp_path / "copy") == files(whole)
        fewer = replace(ASKED, config=replace(ASKED.config, pairs=1))
        assert len(sweep(fewer, tmp_path / "copy", backend).rows) == WORKS / 2
        monkeypatch.setattr(tally, "FEWEST", 2)
        narrow = replace(ASKED, narrow=1.0)
        some = sweep(narrow, tmp_path / "narrow", backend)
        assert some.reason == "the interval is narrower than ±1"
        assert 2 <= len(some.rows) < WORKS
        again = sweep(narrow, tmp_path / "narrow", backend)
        assert len(again.rows) == len(some.rows), "it was enough already"
        with pytest.raises(InputError, match="must keep the inputs it was started"):
            sweep(replace(ASKED, suite="main"), tmp_path / "narrow", backend)


def test_a_line_that_was_not_finished_is_done_again(whole: Path, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "copy")
    path = tmp_path / "copy" / "seed-0" / "rows" / "controls.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    half = tmp_path / "copy" / "seed-0" / "scores" / ".pair-000.safetensors.123.part"
    half.write_bytes(b"half")
    with processes(1) as backend:
        sweep(ASKED, tmp_path / "copy", backend)
    assert files(tmp_path / "copy") == files(whole)
    assert not half.exists()


def test_half_files_of_killed_workers_are_gone_in_the_end(tmp_path: Path):
    with alone_in(tmp_path):
        (tmp_path / ".times.json.123.part").write_bytes(b"half")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_the_documented_ways_to_read_results(
    whole: Path, capsys: pytest.CaptureFixture[str]
):
    """With pandas and with polars, as docs/scale.md shows."""
    text = (Path(__file__).parent.parent / "docs" / "scale.md").read_text("utf-8")
    codes = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(codes) == 2
    found = rows(whole)
    trials = list(dict.fromkeys(row["trial"] for row in found))
    for code in codes:
        exec(compile(code, "scale.md", "exec"), {"RESULTS": str(whole / RESULTS)})
        said = capsys.readouterr().out
        assert all(trial in said for trial in trials)
    import pandas as pd
    import polars as pl

    one = pd.read_json(whole / RESULTS, lines=True)
    other = pl.read_ndjson(whole / RESULTS, infer_schema_length=None)
    hashes = [row["row_sha256"] for row in found]
    assert one["row_sha256"].tolist() == other["row_sha256"].to_list() == hashes


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"seeds": (0, 0)}, "--seeds must be some, all different, got"),
        ({"seeds": ()}, "--seeds must be some"),
        ({"retries": -1}, "--retries must be ≥ 0, got -1"),
        ({"budget": float("nan")}, "--budget must be ≥ 0, got nan"),
        ({"narrow": -0.1}, "--narrow must be ≥ 0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str, tmp_path: Path):
    with processes(1) as backend, pytest.raises(InputError, match=said):
        sweep(replace(ASKED, **wrong), tmp_path / "new", backend)
    assert not (tmp_path / "new").exists()


def test_a_suite_that_is_none_is_refused_before_documents_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def read(*_: object) -> None:
        raise AssertionError("documents were read")

    monkeypatch.setattr(Home, "run", read)
    with pytest.raises(InputError, match="--suite must be one of main, controls"):
        replace(ASKED, suite="nonsense")
    with pytest.raises(InputError, match="--suite must be one of main, controls"):
        run_suite(ASKED.config, "nonsense", tmp_path / "new")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", "soon"], "--budget must be like 90s, 30m or 2h, got 'soon'"),
        (["--on", "nowhere"], "--on must be local, processes or ray://HOST:PORT"),
        (["--workers", "0"], "--workers must be"),
        (["--suite", "nonsense"], "--suite must be one of main, controls, copies"),
    ],
)
def test_flags_of_a_sweep_are_checked(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    words = ["infusion", "sweep", "digits", "--out", str(tmp_path / "new"), *flags]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    heard = capfd.readouterr().err
    assert heard.count("\n") == 1
    assert message in heard
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed(tmp_path: Path):
    flags = ["--device", "cuda", "--out", tmp_path / "new"]
    with infusion("sweep", "digits", *flags) as done:
        _, heard = done.communicate(timeout=60)
    assert done.returncode == 2
    assert heard.count("\n") == 1
    assert "must have a core and a GPU for jobs, got 2 cores" in heard
    assert not (tmp_path / "new").exists()
