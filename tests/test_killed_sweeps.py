"""Sweeps whose driver or cluster ends: nothing is left, and they go on."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infusion.runs import reaper
from infusion.suites.sweep import RESULTS

from .sweeps import WORKS, files, flags_of_sweep, infusion, rows


def leftovers(place: Path) -> list[str]:
    """Name what is left in a folder for temporary files, and whatever was to use it."""
    folders = [str(path) for path in place.glob("real/infusion*")]
    alive = reaper.processes_of(str(place), "TMPDIR")
    return folders + [f"process {number}" for number in alive]


def written(out: Path) -> int:
    found = out.glob("seed-*/rows/controls.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in found)


@contextmanager
def under_way(flags: list[object], out: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a sweep, and wait until one more of its rows is on the disk."""
    before, deadline = written(out), time.monotonic() + 120
    with infusion(*flags) as driver:
        while written(out) == before:
            assert time.monotonic() < deadline
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.02)
        yield driver


def wait_for_nothing(place: Path) -> None:
    """Agents of Ray would end by themselves in a minute or two."""
    deadline = time.monotonic() + 30
    while leftovers(place):
        assert time.monotonic() < deadline, leftovers(place)
        time.sleep(0.1)


def test_an_agent_whose_title_hides_its_environment_is_found(place: Path):
    log = place / "real" / "infusion-ray-x" / "agent.log"
    log.parent.mkdir()
    with log.open("w") as file:
        agent, reader = (
            subprocess.Popen([title, "60"], executable="sleep", stdout=file, env={})
            for title in ("ray::DashboardAgent", "tail")
        )
    try:
        for folder in (log.parent, place / "real" / "infusion"):
            assert reaper.processes_of(str(folder)) == [agent.pid]
        shutil.rmtree(log.parent)
        assert leftovers(place) == [f"process {agent.pid}"]
        assert reaper.processes_of(str(place / "real" / "infusion-ray-y")) == []
    finally:
        for process in (agent, reader):
            process.kill()
            process.wait()


def killed(driver: subprocess.Popen[str], out: Path, _: Path) -> None:
    driver.kill()
    driver.communicate(timeout=60)
    assert not (out / RESULTS).exists()


def terminated(driver: subprocess.Popen[str], out: Path, _: Path) -> None:
    driver.terminate()
    _, heard = driver.communicate(timeout=60)
    assert driver.returncode == 143
    last = heard.splitlines()[-1]
    assert last == "infusion: terminated; run the same command to go on"
    assert len(rows(out)) == written(out) < WORKS, "what is done is listed"


def ray_killed(driver: subprocess.Popen[str], _: Path, place: Path) -> None:
    (folder,) = place.glob("real/infusion-ray-*")
    daemons = reaper.daemons_of(str(folder))
    assert len(daemons) >= 2  # more while one forks
    for number in daemons:
        os.kill(number, signal.SIGKILL)
    _, heard = driver.communicate(timeout=60)
    assert driver.returncode == 2, heard
    assert "must live to their end, got it killed" in heard.splitlines()[-1]


# killed is the first: nothing but the end of a sweep lists its results
ENDINGS = {
    "local": (killed, terminated, ray_killed),
    "processes": (killed, terminated),
}


@pytest.mark.parametrize("on", ENDINGS)
def test_a_sweep_leaves_nothing_and_goes_on_however_it_ends(
    on: str, whole: Path, tmp_path: Path, place: Path
):
    """Each time one of its rows is new; the last time it is left alone."""
    flags, out = flags_of_sweep(tmp_path, on), tmp_path / "out"
    for end in ENDINGS[on]:
        with under_way(flags, out) as driver:
            assert len(leftovers(place)) >= 3, "the driver and two workers, at least"
            end(driver, out, place)
        wait_for_nothing(place)
    with infusion(*flags, "--json") as again:
        said, heard = again.communicate(timeout=240)
    assert again.returncode == 0, heard
    assert json.loads(said.splitlines()[-1])["rows"] == WORKS
    assert files(out) == files(whole)
    assert leftovers(place) == []
