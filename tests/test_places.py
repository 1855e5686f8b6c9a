"""Where jobs run: the same results wherever, and what is lost is told."""

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from infusion.errors import DivergedError, InputError
from infusion.presets.context import Pair
from infusion.runs import reaper, shipping
from infusion.runs.cluster import TRIES, RayTasks, on_ray
from infusion.runs.parallel import (
    Backend,
    Engine,
    LostPlaceError,
    LostWorkerError,
    Work,
    processes,
)
from infusion.runs.places import backend_of
from infusion.runs.shipping import TOKEN, Shipped, run_there
from infusion.suites.sweep import sweep

from .sweeps import ASKED, files, flags_of_sweep, infusion

pytestmark = pytest.mark.usefixtures("importable")


@pytest.fixture(scope="module")
def ray() -> Iterator[Backend]:
    """A local Ray of two workers, which leaves nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="swp", dir="/tmp") as place,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(tempfile, "tempdir", place)
        with on_ray(None, 2) as backend:
            assert len(reaper.processes_of(place)) > len(reaper.DAEMONS)
            assert reaper.MARK not in os.environ, "what a driver starts is its own"
            patch.undo()
            yield backend
        assert not list(Path(place).iterdir())
        assert reaper.processes_of(place) == []


def run_at(
    where: str, request: pytest.FixtureRequest, run: Callable[[Backend], None]
) -> None:
    """Run what needs a backend on Ray, in two processes, or in this one."""
    if where == "ray":
        run(request.getfixturevalue("ray"))
        return
    with processes(2 if where == "processes" else 1) as backend:
        run(backend)


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


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["ray", "processes", "here"])
def test_a_full_disk_ends_the_sweep_at_once(where: str, request: pytest.FixtureRequest):
    """It is not the fault of a job, and every other would meet it."""

    def run(backend: Backend) -> None:
        with pytest.raises(OSError, match="No space left"):
            Engine(backend, 2)("all", calls(full, [(k,) for k in range(4)], print))

    run_at(where, request, run)


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


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def is_listening(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


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
    flags += ["--object-store-memory", str(200 << 20), "--temp-dir", str(place / "ray")]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **HEAD_ENVIRONMENT},
    )
    deadline = time.monotonic() + 90
    try:
        while not is_listening(outer):
            assert head.poll() is None, "the head ended"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{outer}"
    finally:
        ended = head.poll() is not None
        started = [] if ended else psutil.Process(head.pid).children(recursive=True)
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
    with infusion(*flags) as driver:
        _, heard = driver.communicate(timeout=240)
    assert driver.returncode == 0, heard
    assert files(out) == files(whole)
    assert not list(out.rglob(TOKEN)), "no file of its own is left"


def test_why_a_cluster_is_not_joined_is_told(monkeypatch: pytest.MonkeyPatch):
    ray, asked = pytest.importorskip("ray"), count()

    def init(**_: Any) -> None:
        next(asked)
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr(ray, "init", init)
    told = "got ray://127.0.0.1:10001: ray client connection timeout; start one with"
    with (
        pytest.raises(InputError, match=f"{told} .* set RAY_AUTH_MODE=token"),
        on_ray("ray://127.0.0.1:10001", 1),
    ):
        pass
    assert next(asked) == 1, "more tries would take longer, for nothing"
