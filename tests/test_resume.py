"""A run killed anywhere goes on where it stopped and ends with the same bytes.

What is on disk changes at writes alone, so a process that dies before, halfway through
or after the write of a file leaves every state that a kill between two writes could.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import psutil
import pytest

from .test_cli import (
    FinishedRun,
    command,
    environment,
    finished_run,
    tiny_config,
    tree,
)

When = Literal["before", "halfway", "after"]

# Reads "NAME WHEN" lines; for each, a fork runs the command and dies at that write with
# its workers, which import this script too. Forking saves the imports.
CRASHING = """
import os, signal, sys
from infusion.runs import store

whole = store.write_whole

def die(*_):
    os.killpg(0, signal.SIGKILL)

def write_whole(path, content):
    name, when = os.environ["DIE_AT"].split()
    if not str(path).endswith(name):
        return whole(path, content)
    if when == "before":
        die()
    if when == "halfway":  # in the temporary file, before it is renamed
        os.fsync, content = die, content[: len(content) // 2]
    whole(path, content)
    die()

store.write_whole = write_whole
if __name__ == "__main__":
    import sklearn.datasets
    import infusion.presets.run
    from infusion.command.cli import main

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.setsid()
            os.environ["DIE_AT"] = line
            main()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# One crash after the other in the same folder, each in the next stage.
CRASHES: list[tuple[str, When]] = [
    ("checkpoints/epoch-001.safetensors", "halfway"),
    ("checkpoints/epoch-002.safetensors", "after"),
    ("checkpoints/epoch-003.safetensors", "before"),
    ("accuracy.json", "after"),
    ("pairs.json.record.json", "halfway"),
    ("curvature/ekfac.safetensors", "after"),
    ("scores/pair-001.safetensors", "halfway"),
    ("edits/pair-001.safetensors.record.json", "after"),
    ("retrain/pair-000-edit.json", "after"),
    ("retrain/pair-001-noise_l2.json.record.json", "halfway"),
    ("results.json", "after"),
    ("report.html", "halfway"),
]
VARIES = {"times.json", "report.html"}  # the page shows the times


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finished_run(tmp_path_factory.getbasetemp())


def artefacts(root: Path) -> dict[str, str]:
    """Hash of every file that a run's settings decide."""
    found = {n: h for n, h in tree(root).items() if not n.endswith(".part")}
    return {name: value for name, value in found.items() if name not in VARIES}


def words(config: Path, out: Path) -> list[str | Path]:
    return ["run", "--config", config, "--out", out]


def finish(config: Path, out: Path) -> str:
    done = subprocess.run(
        command(*words(config, out)),
        env=environment(),
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_same_run(one: Path, other: Path):
    results = [(root / "results.json").read_bytes() for root in (one, other)]
    assert results[0] == results[1]
    assert artefacts(one) == artefacts(other)
    assert all((one / name).is_file() for name in VARIES)


def test_a_run_killed_in_every_stage_ends_the_same(
    finished: FinishedRun, tmp_path: Path
):
    """Replays the finished run's config in another folder, so that holds as well."""
    script, out = tmp_path / "crashing.py", tmp_path / "run"
    script.write_text(CRASHING)
    config, wanted = finished.root / "config.yaml", artefacts(finished.root)
    with (
        (tmp_path / "stderr").open("w") as log,
        subprocess.Popen(
            [sys.executable, script, *words(config, out)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
        ) as runs,
    ):
        assert runs.stdin
        assert runs.stdout
        for name, when in CRASHES:
            runs.stdin.write(f"{name} {when}\n")
            runs.stdin.flush()
            status = runs.stdout.readline().strip()
            assert status == str(-signal.SIGKILL), (tmp_path / "stderr").read_text()
            assert (out / name).exists() == (when == "after"), name
            left = list(out.rglob(f".{Path(name).name}.*.part"))
            assert bool(left) == (when == "halfway"), name
            kept = artefacts(out)
            assert kept == {n: wanted[n] for n in kept}, f"after {name}"
    printed = finish(config, out)
    assert "train" not in printed, "everything was there but the page"
    assert_same_run(out, finished.root)
    assert not list(out.rglob(".*.part")), "halves are cleared away"


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.skipif(os.cpu_count() == 1, reason="two retrains side by side")
def test_workers_die_with_the_command_and_leave_what_can_go_on(tmp_path: Path):
    tiny = tiny_config(threads=2, pairs=1)
    tiny = replace(
        tiny,
        data=replace(tiny.data, train=60),
        train=replace(tiny.train, epochs=2),
        arms=("edit", "clean_replay", "copies_1"),
    )
    whole = FinishedRun(tmp_path / "whole", tiny)
    config, out = whole.root / "config.yaml", tmp_path / "run"
    shutil.copytree(whole.root, out)
    for made_later in ["retrain/*", "results.json*", "report.html"]:
        for path in out.glob(made_later):
            path.unlink()
    process = subprocess.Popen(
        command(*words(config, out)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: any(out.glob("retrain/*.record.json")), process)
        children = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert len(children) >= 2, "two workers at least"
    _, alive = psutil.wait_procs(children, timeout=3)
    assert alive == []
    assert not (out / "results.json").exists()
    finish(config, out)
    assert_same_run(out, whole.root)
