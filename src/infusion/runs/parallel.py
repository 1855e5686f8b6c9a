"""Jobs side by side: one process and one thread each.

One thread per job is faster on the whole than all threads on one job, and makes the
bits independent of how many run at once.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from infusion.errors import InfusionError
from infusion.memory import keep_freed_memory
from infusion.runs.progress import progress


def _start_worker() -> None:
    """End with the parent, whatever ends it."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes run this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def side_by_side(
    label: str,
    job: Callable[..., Any],
    arguments: list[tuple[Any, ...]],
    *,
    workers: int,
    on_result: Callable[[Any], None] = lambda _: None,
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
    if workers == 1:
        with progress(label, len(arguments)) as advance:
            for given in arguments:
                on_result(job(*given))
                advance(1)
        return
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(arguments)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )
    with pool, progress(label, len(arguments)) as advance:
        futures = [pool.submit(job, *given) for given in arguments]
        try:
            for future in as_completed(futures):
                on_result(future.result())
                advance(1)
        except BrokenProcessPool as error:
            raise InfusionError(
                f"every worker must live to the end of its job, got one killed during "
                f"{label!r}, perhaps for want of memory; close other programs and run "
                "the same command again, or choose fewer --threads and another --out"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
