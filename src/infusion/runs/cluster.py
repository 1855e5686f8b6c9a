"""Jobs on Ray: on a local one of our own, or on a cluster that is there already."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infusion.errors import InputError, check_installed, one_line
from infusion.runs import reaper
from infusion.runs.parallel import (
    Backend,
    Given,
    Job,
    LostPlaceError,
    LostWorkerError,
)
from infusion.runs.shipping import Shipped, remove, run_there

STORE_BYTES = 1 << 30
"""Object store of a local Ray: it holds no artefacts, which workers read in place."""
GPUS: int | None = None
"""Of a local Ray whose jobs need them; None: as many as there are."""
MISSED = 100
"""Heartbeats that a local Ray may miss: on a busy machine it is slow, not gone, and
whether it is gone this module sees for itself."""
TRIES = 3
"""To join a cluster that answers; by default it gives each half a minute."""
_GRACE = 5.0
"""Seconds for this process to end by itself without Ray."""
_PATIENCE = 2.0
"""Seconds between two looks at whether Ray is there."""
_GONE = (
    "the Ray that jobs run on must live to their end, got it killed; run the same "
    "command to go on"
)


@dataclass
class RayTasks:
    """A task per job, of one core, which Ray itself never tries again.

    Attributes:
        slots: Jobs at a time, as many as have a core, and a GPU where they need one:
            none waits that a budget should have stopped.
        shipped: What workers that do not see the driver's folder have been sent; None
            where all see it.
        alive: Tells whether there still is a cluster.
        gpus: GPUs of a job.
    """

    slots: int
    shipped: Shipped | None
    alive: Callable[[], bool]
    gpus: int = 0
    _running: set[Any] = field(default_factory=set, init=False)

    def submit(self, job: Job, given: Given) -> Hashable:
        """Hand it in with what it reads."""
        import ray

        self._check()
        if self.shipped is None:
            handle = _task(_here, self.gpus).remote(job, given)
        else:
            reads = self.shipped.reads(given, ray.put)
            handle = _task(run_there, self.gpus).remote(job, given, reads)
        self._running.add(handle)
        return handle

    def _check(self) -> None:
        if not self.alive():
            raise LostPlaceError(_GONE)

    def finished(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for the first, for as long as there is a cluster."""
        import ray

        done: list[Any] = []
        while not done:
            self._check()
            done = ray.wait(list(handles), num_returns=1, timeout=_PATIENCE)[0]
        return done

    def result(self, handle: Any) -> Any:
        """Fetch what the job returned, and the files that it made elsewhere."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        self._running.discard(handle)
        try:
            found, made = ray.get(handle)
        except RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise
        except RayError as error:
            raise LostWorkerError(
                "every worker must live to the end of its job, got one lost "
                f"({type(error).__name__}), perhaps for want of memory; run the same "
                "command again"
            ) from error
        if self.shipped is not None:
            self.shipped.keep(made)
        return found

    def close(self) -> None:
        """End what runs, and remove what other machines hold."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self.shipped is None:
            return
        names = self.shipped.forget()
        if not self.alive():
            return
        with suppress(ConnectionError, RayError):  # gone meanwhile, or too busy
            for handle in self._running:
                ray.cancel(handle, force=True)
            there = [
                NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
                for node in ray.nodes()
                if node["Alive"]
            ]
            task = ray.remote(num_cpus=0)(remove)
            handles = [task.options(scheduling_strategy=s).remote(names) for s in there]
            ray.get(handles, timeout=_GRACE)


@cache
def _task(function: Job, gpus: int = 0) -> Any:
    """Make a task of a function, which goes to the cluster once."""
    import ray

    # Ray ends a worker of a GPU after max_calls jobs, one unless 0 says never
    return ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, max_calls=0)(function)


def _here(job: Job, given: Given) -> tuple[Any, dict[Path, bytes]]:
    return job(*given), {}


@contextmanager
def on_ray(address: str | None, workers: int, *, gpus: int = 0) -> Iterator[Backend]:
    """Start a local Ray, or join a cluster.

    A local one is gone with this process, however that ends, and so are its files.

    Args:
        address: Of the cluster, such as ``ray://HOST:10001``; None for a local Ray.
        workers: Cores of a local one.
        gpus: GPUs that each job needs, 0 or 1.

    Yields:
        Where jobs run.

    Raises:
        InputError: Ray is not installed, or there is no cluster, or it has too little.
    """
    check_installed("ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _local(workers, gpus) if address is None else _joined(address) as alive:
        import ray

        there = ray.cluster_resources()
        slots = min(int(there.get(name, 0)) for name in ("CPU", "GPU")[: 1 + gpus])
        if slots < 1:
            raise InputError(
                f"a cluster must have a core{' and a GPU' * gpus} for jobs, got "
                f"{there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs at "
                f"{address or 'this machine'}; add nodes"
            )
        if gpus:
            _check_alike()
        shipped = None if address is None else Shipped(gpu=gpus > 0)
        tasks = RayTasks(slots, shipped, alive, gpus)
        try:
            yield tasks
        finally:
            tasks.close()


def _check_alike() -> None:
    """Refuse a machine whose GPUs would round differently."""
    import torch

    count = torch.cuda.device_count()
    kinds = {torch.cuda.get_device_name(number) for number in range(count)}
    if len(kinds) > 1:
        raise InputError(
            f"GPUs of one machine must be of one kind, got {', '.join(sorted(kinds))}; "
            "choose some with CUDA_VISIBLE_DEVICES"
        )


@contextmanager
def _local(workers: int, gpus: int) -> Iterator[Callable[[], bool]]:
    import ray

    # short, as sockets are named in it; real, as open files are known by it
    folder = os.path.realpath(tempfile.mkdtemp(prefix="infusion-ray-"))
    undertaker = subprocess.Popen(
        [sys.executable, reaper.__file__, folder],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert undertaker.stdin is not None
    over, most = threading.Event(), 0

    def alive() -> bool:
        """Tell whether no daemon is gone; those still to be started are not."""
        nonlocal most
        now = len(reaper.daemons_of(folder))
        most = max(most, min(now, len(reaper.DAEMONS)))  # more while one forks
        return now >= most

    threading.Thread(target=_watch, args=(alive, over), daemon=True).start()
    try:
        with _own_signals(), _started(), _marked(folder):
            ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=GPUS if gpus else 0,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
                _system_config={"health_check_failure_threshold": MISSED},
            )
        yield alive
    finally:
        if alive():  # else shutdown may wait for what is gone, and is watched
            over.set()
        ray.shutdown()
        over.set()
        _task.cache_clear()
        shutil.rmtree(folder, ignore_errors=True)
        undertaker.stdin.close()
        undertaker.wait()


@contextmanager
def _marked(folder: str) -> Iterator[None]:
    """Mark what is started meanwhile as that Ray's: it is to end with it."""
    os.environ[reaper.MARK] = folder
    try:
        yield
    finally:
        del os.environ[reaper.MARK]


@contextmanager
def _started() -> Iterator[None]:
    """Say in one line that a local Ray does not start, as when it is killed then."""
    try:
        yield
    except Exception as error:  # Ray raises whatever its part of that moment does
        raise LostPlaceError(
            f"a Ray of this machine must start, got {type(error).__name__}: "
            f"{one_line(error)}; run the same command to go on"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Let SIGTERM do what it did: Ray would end this process in its own way."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        here = threading.current_thread() is threading.main_thread()
        if here and before is not None:  # None: not of Python's making
            signal.signal(signal.SIGTERM, before)


def _watch(alive: Callable[[], bool], over: threading.Event) -> None:
    """End this process where Ray is gone and the main thread waits for it in vain."""
    while not over.wait(_PATIENCE):
        if not alive():
            if not over.wait(_GRACE):
                sys.stderr.write(f"infusion: {_GONE}\n")
                sys.stderr.flush()
                os._exit(2)
            return


def _check_address(address: str) -> None:
    """Refuse what is none, at which Ray would knock for half a minute."""
    try:
        parts = urlsplit(address)
        good = bool(parts.hostname and parts.port)
    except ValueError:
        good = False
    if not good:
        raise InputError(
            f"--on must be the address of a running cluster, ray://HOST:PORT, got "
            f"{address}; start one with `ray start --head`, or use --on local"
        )


def _join(address: str) -> None:
    """Join; a busy cluster may need longer to start a driver's server than it waits."""
    import ray

    for left in reversed(range(TRIES)):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionAbortedError as error:
            said = str(error).strip().splitlines()[-1]  # of the cluster's traceback
            if not left:
                raise InputError(
                    f"a cluster must let this driver in, {address} refused {TRIES} "
                    f"times: {said}; wait until it is less busy, or look into its logs"
                ) from error
            sys.stderr.write(f"{address} is asked again, it said: {said}\n")
        except (ConnectionError, ValueError, ImportError, TimeoutError) as error:
            raise InputError(
                f"--on must be the address of a running cluster, got {address}: "
                f"{one_line(error)}; start one with `ray start --head`, set "
                "RAY_AUTH_MODE=token where it asks for one, or use --on local"
            ) from error
        else:
            return


@contextmanager
def _joined(address: str) -> Iterator[Callable[[], bool]]:
    import ray

    _check_address(address)
    with _own_signals():
        _join(address)
    try:
        yield ray.is_initialized
    finally:
        ray.shutdown()
        _task.cache_clear()
