"""Jobs side by side: one process and one thread each.

One thread per job is faster on the whole than all threads on one job, and makes the
bits independent of how many run at once.
"""

import errno
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

from infusion.errors import InfusionError
from infusion.memory import keep_freed_memory
from infusion.runs.progress import progress

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk is full, or may not be written to."""
Job = Callable[..., Any]
Given = tuple[Any, ...]


class LostWorkerError(InfusionError):
    """A worker ended before its job did."""


class LostPlaceError(InfusionError):
    """Where jobs run is gone: nothing can be tried again there."""


@runtime_checkable
class Backend(Protocol):
    """Where jobs run; a handle stands for one that was handed in."""

    @property
    def slots(self) -> int:
        """Jobs to have handed in at a time."""
        ...

    def submit(self, job: Job, given: Given) -> Hashable:
        """Hand a job in."""
        ...

    def finished(self, handles: Sequence[Any]) -> list[Any]:
        """Wait until some have ended, and list those."""
        ...

    def result(self, handle: Any) -> Any:
        """Return what a job returned, or raise what it raised."""
        ...


@dataclass(frozen=True)
class Failed:
    """A job that was given up.

    Attributes:
        work: The call.
        error: What it raised at last.
        attempts: How often it was tried.
    """

    work: "Work"
    error: str
    attempts: int


def _never() -> bool:
    return False


def _ignore(_: Any) -> None:
    return


@dataclass(frozen=True)
class Work:
    """A call to make.

    Attributes:
        stage: What it belongs to.
        job: A module-level function.
        given: Its arguments.
        on_result: Called in this process with what it returned.
        concerns: Names of what cannot be done without it.
    """

    stage: str
    job: Job
    given: Given
    on_result: Callable[[Any], None] = _ignore
    concerns: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Engine:
    """Makes calls, several at a time.

    Attributes:
        backend: Where.
        retries: How often a job that failed is tried again before it is given up and
            the others go on; None where the first failure ends the run.
        stopped: Asked before each job whether to hand in no more.
        on_running: Called with the number of jobs under way when it changes.
    """

    backend: Backend
    retries: int | None = None
    stopped: Callable[[], bool] = _never
    on_running: Callable[[int], None] = lambda _: None

    def __call__(
        self,
        label: str,
        works: list[Work],
        on_seconds: Callable[[str, float], None] = lambda *_: None,
    ) -> list[Failed]:
        """Do all works, in their order as far as there are slots.

        A worker that is lost may take the jobs beside it along. So none is to blame
        unless it ran alone, as those that were lost in company do next.

        Args:
            label: Shown beside the progress bar.
            works: Calls to make, which do not wait for each other.
            on_seconds: Called with the stage of each that ended well and its time.

        Returns:
            The jobs that were given up.

        Raises:
            LostPlaceError: There is nowhere left to run.
            OSError: The disk is full or read-only, or a connection is lost.
            InfusionError: A worker was killed, or whatever a job raised, where nothing
                is tried again; the jobs that finished before are kept.
        """
        queue = _Queue(deque(_Try(work) for work in works))
        failed: list[Failed] = []
        with progress(label, len(works)) as advance:
            while queue.running or (queue.more and not self.stopped()):
                self._hand_in(queue)
                alone = len(queue.running) == 1
                for handle in self.backend.finished(list(queue.running)):
                    tried = queue.running.pop(handle)
                    if not self._is_ended(handle, tried, queue, alone):
                        continue
                    if tried.error:
                        failed.append(tried.given_up())
                    else:
                        on_seconds(tried.work.stage, time.monotonic() - tried.began)
                    advance(1)
                self.on_running(len(queue.running))
        left = [*queue.suspects, *queue.waiting]
        return failed + [each.given_up() for each in left if each.error]

    def _is_ended(
        self, handle: Any, tried: "_Try", queue: "_Queue", alone: bool
    ) -> bool:
        """Take a result over; False where it failed and is to be tried again."""
        try:
            found = self.backend.result(handle)
        except Exception as error:
            if self.retries is None or _ends_all(error):
                raise
            tried.error = _said(error)
            if isinstance(error, LostWorkerError) and not alone:
                queue.suspects.append(tried)
                return False
            tried.failures += 1
            if tried.failures <= self.retries:
                queue.waiting.append(tried)
                return False
            return True
        tried.work.on_result(found)
        tried.error = ""
        return True

    def _hand_in(self, queue: "_Queue") -> None:
        """Hand in as many as there are slots, or one that is suspected, alone."""
        slots = 1 if queue.suspects else self.backend.slots
        while queue.more and len(queue.running) < slots and not self.stopped():
            if queue.suspects and queue.running:
                return
            tried = (queue.suspects or queue.waiting).popleft()
            tried.began = time.monotonic()
            handle = self.backend.submit(tried.work.job, tried.work.given)
            queue.running[handle] = tried
            self.on_running(len(queue.running))


@dataclass
class _Try:
    """A job and what came of it so far."""

    work: Work
    failures: int = 0
    error: str = ""
    began: float = 0.0

    def given_up(self) -> Failed:
        return Failed(self.work, self.error, max(1, self.failures))


@dataclass
class _Queue:
    """Jobs to do: new ones, those lost in company, and those under way by handle."""

    waiting: deque[_Try]
    suspects: deque[_Try] = field(default_factory=deque)
    running: dict[Any, _Try] = field(default_factory=dict)

    @property
    def more(self) -> bool:
        return bool(self.suspects or self.waiting)


def _ends_all(error: Exception) -> bool:
    """Tell whether every other job would fail alike: no place, no disk, no network."""
    disk = isinstance(error, OSError) and error.errno in _DISK
    return disk or isinstance(error, (LostPlaceError, ConnectionError))


def _said(error: Exception) -> str:
    """Say an error in one line."""
    said = " ".join(str(error).split())
    return (
        said if isinstance(error, InfusionError) else f"{type(error).__name__}: {said}"
    )


class InThisProcess:
    """One job at a time, here."""

    slots = 1

    def submit(self, job: Job, given: Given) -> Hashable:
        """Keep it until somebody waits for it."""
        return partial(job, *given)

    def finished(self, handles: Sequence[Any]) -> list[Any]:
        """Call all of them finished: they run when their result is asked for."""
        return list(handles)

    def result(self, handle: Any) -> Any:
        """Run it, and compute with as many threads as before afterwards."""
        import torch

        threads = torch.get_num_threads()
        try:
            return handle()
        finally:
            torch.set_num_threads(threads)


@dataclass
class Processes:
    """Worker processes, started when they are first needed and kept.

    Attributes:
        slots: How many.
    """

    slots: int
    _pool: ProcessPoolExecutor | None = field(default=None, init=False)

    def submit(self, job: Job, given: Given) -> Hashable:
        """Hand it to the pool, a new one if a worker of the last was killed."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self.slots,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
        try:
            return self._pool.submit(job, *given)
        except BrokenProcessPool:
            self._pool = None
            return self.submit(job, given)

    def finished(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for the first."""
        return list(wait(handles, return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future[Any]) -> Any:
        """Unpack what the worker sent."""
        try:
            return handle.result()
        except BrokenProcessPool as error:
            raise LostWorkerError(
                "every worker must live to the end of its job, got one killed, perhaps "
                "for want of memory; close other programs and run the same command "
                "again, or choose fewer --threads and another --out"
            ) from error

    def close(self) -> None:
        """Hand in no more and wait for what runs."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def kill(self) -> None:
        """End what runs."""
        if self._pool is not None:  # kill_workers(), from Python 3.14 on
            workers = self._pool._processes  # pyright: ignore[reportPrivateUsage]
            for worker in list((workers or {}).values()):
                worker.kill()


def _start_worker() -> None:
    """End with the parent, whatever ends it."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes run this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def processes(workers: int) -> Iterator[Backend]:
    """Open as many worker processes.

    Args:
        workers: How many; a single one is this process.

    Yields:
        Where jobs run.

    Raises:
        KeyboardInterrupt: Raised inside; whatever runs is killed.
    """
    if workers == 1:
        yield InThisProcess()
        return
    pool = Processes(workers)
    try:
        yield pool
    except KeyboardInterrupt:
        pool.kill()
        raise
    finally:
        pool.close()


def side_by_side(
    label: str,
    job: Job,
    arguments: list[Given],
    *,
    workers: int,
    on_result: Callable[[Any], None] = _ignore,
) -> None:
    """Call a function once per tuple of arguments, several processes at a time.

    Args:
        label: Shown beside the progress bar.
        job: A module-level function.
        arguments: One tuple per call.
        workers: Processes at a time; a single one is this process.
        on_result: Called in this process with what each call returned, as they come.

    Raises:
        InfusionError: A worker was killed; or whatever a job raised, the jobs that
            finished before are kept.
    """
    if not arguments:
        return
    with processes(min(workers, len(arguments)) if workers > 1 else 1) as backend:
        Engine(backend)(
            label, [Work(label, job, each, on_result) for each in arguments]
        )
