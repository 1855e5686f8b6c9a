"""Sweeps whose driver or cluster ends: nothing is left, and they go on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infusion.runs import reaper
from infusion.runs.config_files import to_yaml
from infusion.runs.shipping import TOKEN
from infusion.suites.sweep import RESULTS

from .sweeps import ASKED, WORKS, files, infusion, rows

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short path for temporary files: the names of sockets have a limit."""
    with tempfile.TemporaryDirectory(prefix="swp", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def leftovers(place: Path) -> list[str]:
    """Name what is left in a folder for temporary files, and what had files there."""
    folders = [str(path) for path in place.glob("infusion*")]
    alive = reaper.processes_of(str(place / "infusion"))
    return folders + [f"process {number}" for number in alive]


def flags_of_sweep(folder: Path, on: str) -> list[object]:
    """What :data:`ASKED` is called on the command line; it writes into ``out``."""
    config = folder / "config.yaml"
    config.write_text(to_yaml(ASKED.config))
    flags = ["sweep", "--config", config, "--suite", "controls", "--on", on]
    return [*flags, "--pairs", 2, "--seeds", 0, 1, "--out", folder / "out"]


def written(out: Path) -> int:
    found = out.glob("seed-*/rows/controls.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in found)


def under_way(flags: list[object], out: Path, least: int) -> subprocess.Popen[str]:
    """Start a sweep, and wait until so many of its rows are on the disk."""
    driver, deadline = infusion(*flags), time.monotonic() + 120
    while written(out) < least:
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
    assert 0 < len(rows(out)) < WORKS, "what is done is listed"


def ray_killed(driver: subprocess.Popen[str], _: Path, place: Path) -> None:
    (folder,) = place.glob("infusion-ray-*")
    daemons = reaper.daemons_of(str(folder))
    assert len(daemons) == 2
    for number in daemons:
        os.kill(number, signal.SIGKILL)
    _, heard = driver.communicate(timeout=60)
    assert driver.returncode == 2, heard
    assert "must live to their end, got it killed" in heard.splitlines()[-1]


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
        end(under_way(flags, out, written(out) + 1), out, place)
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
