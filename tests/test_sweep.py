"""Sweeps: the same results wherever they run and whatever is killed."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from infusion.command.cli import main
from infusion.errors import (
    ArtefactError,
    DivergedError,
    InputError,
    TooFewPairsError,
)
from infusion.presets.context import Pair
from infusion.runs import reaper, shipping
from infusion.runs.cluster import TRIES, RayTasks, on_ray
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import alone_in
from infusion.runs.parallel import (
    Backend,
    Engine,
    LostPlaceError,
    LostWorkerError,
    Work,
    processes,
)
from infusion.runs.places import backend_of
from infusion.runs.rows import sealed
from infusion.runs.shipping import TOKEN, Shipped, run_there
from infusion.runs.store import write_whole
from infusion.suites import run as run_module
from infusion.suites import stages, tally
from infusion.suites.run import run_suite
from infusion.suites.subjects import Home
from infusion.suites.sweep import FAILURES, RESULTS, TIMES, Sweep, sweep

from .test_suites import tiny

ASKED = Sweep(replace(tiny(2), threads=2), "controls", (0, 1))
WORKS = 2 * 2 * 4
"""Rows: base models, pairs, trials."""


def files(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in (RESULTS, FAILURES)}


def rows(root: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / name).read_text("utf-8").splitlines()]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import the jobs of this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in this process, never interrupted."""
    root = tmp_path_factory.mktemp("sweep") / "whole"
    with processes(1) as backend:
        sweep(ASKED, root, backend)
    return root


@pytest.fixture(scope="module")
def ray() -> Iterator[Backend]:
    """A local Ray of two workers, which leaves nothing."""
    with on_ray(None, 2) as backend:
        folder = Path(os.environ[reaper.MARK])
        yield backend
    assert not folder.exists()
    assert reaper.processes_of(str(folder)) == []


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path for temporary files: the names of sockets have a limit."""
    with tempfile.TemporaryDirectory(prefix="swp", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def run_at(
    where: str, request: pytest.FixtureRequest, run: Callable[[Backend], None]
) -> None:
    """Run what needs a backend on Ray, in two processes, or in this one."""
    if where == "ray":
        run(request.getfixturevalue("ray"))
        return
    with processes(2 if where == "processes" else 1) as backend:
        run(backend)


def leftovers(place: Path) -> list[str]:
    """Name what is left in a folder for temporary files, and what had files there."""
    folders = [str(path) for path in place.glob("infusion*")]
    alive = reaper.processes_of(str(place / "infusion"))
    return folders + [f"process {number}" for number in alive]


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


def test_two_workers_of_ray_write_the_same_bytes(
    whole: Path, ray: Backend, tmp_path: Path
):
    sweep(ASKED, tmp_path, ray)
    assert files(tmp_path) == files(whole)


def test_two_processes_write_the_same_bytes(whole: Path, tmp_path: Path):
    with processes(2) as backend:
        sweep(ASKED, tmp_path, backend)
    assert files(tmp_path) == files(whole)


def calls(job: Any, given: Any, on_result: Any) -> list[Work]:
    return [Work("stage", job, each, on_result) for each in given]


def once_killed(mark: Path, value: int) -> int:
    """Kill the worker the first time."""
    if value == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def never(value: int) -> int:
    if value == 1:
        raise DivergedError("a loss became NaN,\n got nan")
    return value


@pytest.mark.parametrize("where", ["ray", "processes"])
def test_a_worker_killed_in_the_middle_of_a_job(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
):
    given = [(tmp_path / "mark", value) for value in range(6)]

    def run(backend: Backend) -> None:
        found: list[int] = []
        with pytest.raises(LostWorkerError, match="must live to the end of its job"):
            Engine(backend)("strict", calls(once_killed, given, found.append))
        (tmp_path / "mark").unlink()
        found = []
        assert (
            Engine(backend, 1)("patient", calls(once_killed, given, found.append)) == []
        )
        assert sorted(found) == list(range(6))
        (tmp_path / "mark").unlink()
        (lost,) = Engine(backend, 0)(
            "hasty", calls(once_killed, given[1:2], found.append)
        )
        assert (lost.work.stage, lost.work.given, lost.attempts) == (
            "stage",
            given[1],
            1,
        )
        assert "got one" in lost.error

    run_at(where, request, run)


@pytest.mark.parametrize("where", ["ray", "processes", "here"])
def test_a_failed_job_is_tried_again_and_the_others_go_on(
    where: str, request: pytest.FixtureRequest
):
    found: list[int] = []

    def run(backend: Backend) -> None:
        engine = Engine(backend, 2)
        (failed,) = engine("all", calls(never, [(k,) for k in range(4)], found.append))
        assert sorted(found) == [0, 2, 3]
        assert failed.error == "a loss became NaN, got nan"
        assert (failed.attempts, failed.work.given) == (3, (1,))

    run_at(where, request, run)


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


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["ray", "processes", "here"])
def test_a_full_disk_ends_the_sweep_at_once(where: str, request: pytest.FixtureRequest):
    """It is not the fault of a job, and every other would meet it."""

    def run(backend: Backend) -> None:
        with pytest.raises(OSError, match="No space left"):
            Engine(backend, 2)("all", calls(full, [(k,) for k in range(4)], print))

    run_at(where, request, run)


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


def test_rows_that_hide_others_do_not_make_a_whole_sweep(whole: Path, tmp_path: Path):
    """A pair that there is not, under the probe and target of one that there is."""
    shutil.copytree(whole, tmp_path / "copy")
    path = tmp_path / "copy" / "seed-0" / "rows" / "controls.jsonl"
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
        _, heard = (done := infusion("sweep", *flags, *wrong)).communicate(timeout=60)
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


@pytest.mark.parametrize(
    "address", ["ray://", "ray://127.0.0.1", "ray://127.0.0.1:99999", "ray://[::1"]
)
def test_what_is_no_address_is_refused_at_once(address: str):
    with (
        pytest.raises(InputError, match="must be the address of a running cluster"),
        on_ray(address, 1),
    ):
        pass


def test_without_ray_it_says_where_jobs_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with backend_of("local", 1) as backend:
        assert backend.slots == 1
    assert capsys.readouterr().err == (
        "Ray is not installed: jobs run in processes here\n"
    )


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


def killer(mark: Path, value: int) -> int:
    """Kill the worker whenever the value is 1, while others work."""
    if value == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    return value


def test_a_job_that_kills_its_workers_takes_no_other_along(tmp_path: Path):
    found: list[int] = []
    given = [(tmp_path, value) for value in range(4)]
    with processes(2) as backend:
        (failed,) = Engine(backend, 1)("deadly", calls(killer, given, found.append))
    assert sorted(found) == [0, 2, 3]
    assert (failed.work.given[1], failed.attempts) == (1, 2)


@dataclass(frozen=True)
class Folder:
    root: Path


def made_elsewhere(home: Folder, pairs: list[Pair]) -> list[str]:
    """Write a file of a pair, and die after it the first time."""
    place = home.root / "edits" / f"pair-{pairs[0].index:03d}.txt"
    tried = place.exists()
    place.parent.mkdir(exist_ok=True)
    place.write_text((home.root / "base" / "model.txt").read_text())
    if not tried:
        raise DivergedError("the first try")
    return sorted(p.name for p in home.root.rglob("*") if p.is_file())


class OutOfSight(Shipped):
    """Workers that do not see the driver's folder."""

    def reads(self, given: Any, put: Any) -> Any:
        found = super().reads(given, put)
        (found.root / TOKEN).write_text("not for you")
        return found


def token_of(tasks: RayTasks) -> str:
    assert tasks.shipped is not None
    (token,) = tasks.shipped._tokens.values()
    return token


def test_workers_elsewhere_get_what_they_read_and_send_what_they_made(
    ray: Any, tmp_path: Path
):
    for name in ("base/model.txt", "edits/pair-001-a.txt", "edits/pair-002-a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "main.jsonl").write_text("not read")
    tasks = RayTasks(2, OutOfSight(), ray.alive)
    found: list[list[str]] = []
    given = [(Folder(tmp_path), [Pair(1, 0, 0, 1)])]
    assert Engine(tasks, 1)("ship", calls(made_elsewhere, given, found.append)) == []
    assert found == [["model.txt", "pair-001-a.txt", "pair-001.txt"]]
    assert (tmp_path / "edits" / "pair-001.txt").read_text() == "base/model.txt"
    (copy,) = Path(tempfile.gettempdir()).glob(f"infusion-{token_of(tasks)}")
    tasks.close()
    assert not copy.exists()
    assert not (tmp_path / TOKEN).exists()


def test_what_a_killed_driver_left_elsewhere_is_removed_by_the_next(
    ray: Any, tmp_path: Path
):
    old = Path(tempfile.gettempdir()) / f"infusion-{'5' * 32}"
    (old / "base").mkdir(parents=True)
    (tmp_path / TOKEN).write_text("5" * 32)
    tasks = RayTasks(2, Shipped(), ray.alive)
    given, found = [(Folder(tmp_path), 1)], []
    assert Engine(tasks, 0)("ship", calls(second, given, found.append)) == []
    tasks.close()
    assert found == [1]
    assert not old.exists()
    (tmp_path / TOKEN).write_text("../../home")
    assert "../../home" not in str(named_by(Shipped(), tmp_path))


def second(_: Folder, value: int) -> int:
    return value


def named_by(shipped: Shipped, root: Path) -> list[str]:
    shipped.reads((Folder(root),), lambda content: content)
    return shipped.forget()


def test_a_machine_with_another_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its bits would be others; jobs of a processor do not mind."""
    given: Any = (Folder(tmp_path), 1)
    ours = Shipped().reads(given, lambda content: content)
    gpus = Shipped(gpu=True).reads(given, lambda content: content)
    there = {**shipping.environment(), "gpu": "another"}
    monkeypatch.setattr(shipping, "environment", lambda: there)
    with pytest.raises(LostPlaceError, match=r"processor, gpu, got .*another"):
        run_there(second, given, gpus)
    token = tmp_path / TOKEN
    token.write_text(ours.token)
    assert run_there(second, given, ours) == (1, {})


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


def infusion(*flags: object, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "infusion", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def flags_of_sweep(folder: Path, on: str) -> list[object]:
    """What :data:`ASKED` is called on the command line; it writes into ``out``."""
    config = folder / "config.yaml"
    config.write_text(to_yaml(ASKED.config))
    flags = ["sweep", "--config", config, "--suite", "controls", "--on", on]
    return [*flags, "--pairs", 2, "--seeds", 0, 1, "--out", folder / "out"]


def under_way(flags: list[object], out: Path, least: int) -> subprocess.Popen[str]:
    """Start a sweep, and wait until so many of its rows are on the disk."""
    driver, deadline = infusion(*flags), time.monotonic() + 120
    written = out / "seed-0" / "rows" / "controls.jsonl"
    while not written.exists() or written.read_text().count("\n") < least:
        assert time.monotonic() < deadline
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.02)
    return driver


def wait_for_nothing(place: Path) -> None:
    """Agents of Ray would end by themselves in a minute or two."""
    deadline = time.monotonic() + 30
    while leftovers(place):
        assert time.monotonic() < deadline, leftovers(place)
        time.sleep(0.1)


def test_an_agent_whose_title_hides_its_environment_is_found(place: Path):
    log = place / "infusion-ray-x" / "agent.log"
    log.parent.mkdir()
    with log.open("w") as file:
        agent, reader = (
            subprocess.Popen([title, "60"], executable="sleep", stdout=file, env={})
            for title in ("ray::DashboardAgent", "tail")
        )
    try:
        for folder in (log.parent, place / "infusion"):
            assert reaper.processes_of(str(folder)) == [agent.pid]
        shutil.rmtree(log.parent)
        assert leftovers(place) == [f"process {agent.pid}"]
        assert reaper.processes_of(str(place / "infusion-ray-y")) == []
    finally:
        for process in (agent, reader):
            process.kill()
            process.wait()


@pytest.mark.parametrize("on", ["local", "processes"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_an_ended_driver_leaves_nothing_and_the_sweep_goes_on(
    on: str, sent: signal.Signals, whole: Path, tmp_path: Path, place: Path
):
    flags, out = flags_of_sweep(tmp_path, on), tmp_path / "out"
    driver = under_way(flags, out, 2)
    driver.send_signal(sent)
    _, heard = driver.communicate()
    if sent == signal.SIGTERM:
        assert driver.returncode == 143
        last = heard.splitlines()[-1]
        assert last == "infusion: terminated; run the same command to go on"
        assert 0 < len(rows(out)) < WORKS, "what is done is listed"
    else:
        assert not (out / RESULTS).exists()
    wait_for_nothing(place)
    again = infusion(*flags, "--json")
    said, heard = again.communicate(timeout=240)
    assert again.returncode == 0, heard
    assert json.loads(said.splitlines()[-1])["rows"] == WORKS
    assert files(out) == files(whole)
    assert leftovers(place) == []


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


# Beside other tests a driver's server takes longer to start than Ray waits for it.
HEAD_ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120",
}


@pytest.fixture
def cluster(place: Path) -> Iterator[str]:
    """A Ray that is there already, to be reached by its address."""
    pytest.importorskip("grpc")
    outer, inner = free_port(), free_port()
    flags = ["--head", "--block", "--num-cpus", "2", "--port", str(inner)]
    flags += ["--ray-client-server-port", str(outer), "--include-dashboard", "false"]
    flags += ["--min-worker-port", "0", "--max-worker-port", "0"]
    flags += ["--object-store-memory", str(200 << 20), "--temp-dir", str(place / "r")]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **HEAD_ENVIRONMENT},
    )
    deadline = time.monotonic() + 90
    while head.poll() is None and time.monotonic() < deadline:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", outer)) == 0:
                break
        time.sleep(0.2)
    yield f"ray://127.0.0.1:{outer}"
    started = psutil.Process(head.pid).children(recursive=True)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.kill()
    head.wait()
    assert psutil.wait_procs(started, timeout=30)[1] == []


def test_a_cluster_is_reached_by_its_address(
    cluster: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    flags, out = flags_of_sweep(tmp_path, cluster), tmp_path / "out"
    _, heard = (driver := infusion(*flags)).communicate(timeout=240)
    assert driver.returncode == 0, heard
    assert files(out) == files(whole)
    assert not list(out.rglob(TOKEN)), "no file of its own is left"


def test_a_killed_cluster_ends_the_sweep_and_it_goes_on(
    whole: Path, tmp_path: Path, place: Path
):
    flags, out = flags_of_sweep(tmp_path, "local"), tmp_path / "out"
    driver = under_way(flags, out, 1)
    (folder,) = place.glob("infusion-ray-*")
    killed = reaper.daemons_of(str(folder))
    assert len(killed) == 2
    for number in killed:
        os.kill(number, signal.SIGKILL)
    _, heard = driver.communicate(timeout=60)
    assert driver.returncode == 2, heard
    assert "must live to their end, got it killed" in heard.splitlines()[-1]
    wait_for_nothing(place)
    again = infusion(*flags)
    _, heard = again.communicate(timeout=240)
    assert again.returncode == 0, heard
    assert files(out) == files(whole)


REFUSED = """Initialization failure from server:
Traceback (most recent call last):
  File "/somewhere/long/ray/util/client/server/proxier.py", line 780, in Datapath
    raise RuntimeError(
RuntimeError: Proxy failed to Connect to backend!
"""
"""What Ray says where a driver's server did not start in time."""


@pytest.mark.parametrize("busy", [0, TRIES - 1, TRIES])
def test_a_busy_cluster_is_asked_again(
    busy: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ray, asked = pytest.importorskip("ray"), count()

    def init(**_: Any) -> None:
        if next(asked) < busy:
            raise ConnectionAbortedError(REFUSED)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 5.0})
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    reason = "RuntimeError: Proxy failed to Connect to backend!"
    told = f"^a cluster must let .*:10001 refused {TRIES} times: {reason}; wait"
    wanted = pytest.raises(InputError, match=told)
    refused = wanted if busy == TRIES else nullcontext()
    with refused, on_ray("ray://127.0.0.1:10001", 1) as backend:
        assert backend.slots == 5
    assert next(asked) == min(busy + 1, TRIES)
    said = f"ray://127.0.0.1:10001 is asked again, it said: {reason}\n"
    assert capsys.readouterr().err == said * min(busy, TRIES - 1)


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
    done = infusion("sweep", "digits", *flags)
    _, heard = done.communicate(timeout=60)
    assert done.returncode == 2
    assert heard.count("\n") == 1
    assert "must have a core and a GPU for jobs, got 2 cores" in heard
    assert not (tmp_path / "new").exists()
