"""Where jobs run, by name: on Ray, in processes here, or on a cluster."""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from infusion.errors import InputError, check_whole
from infusion.runs.cluster import on_ray
from infusion.runs.parallel import Backend, processes


def backend_of(
    on: str, workers: int, *, device: str = "cpu"
) -> AbstractContextManager[Backend]:
    """Open where jobs run.

    Args:
        on: ``local``, a Ray of our own, or processes where Ray is not installed;
            ``processes``; or the address of a Ray cluster, ``ray://HOST:PORT``.
        workers: Of one core each, where they are our own.
        device: ``cuda`` gives each job a GPU, on Ray, or the only process all of them.

    Returns:
        Context of the backend.

    Raises:
        InputError: There is no such place.
    """
    check_whole("--workers", workers)
    gpus = int(device == "cuda")
    if on in PLACES:
        return PLACES[on](workers, gpus)
    if on.startswith("ray://"):
        return on_ray(on, workers, gpus=gpus)
    raise InputError(
        f"--on must be {', '.join(PLACES)} or ray://HOST:PORT, got {on!r}; "
        "use --on local on this machine"
    )


def _local(workers: int, gpus: int) -> AbstractContextManager[Backend]:
    if importlib.util.find_spec("ray") is None:
        sys.stderr.write("Ray is not installed: jobs run in processes here\n")
        return _processes(workers, gpus)
    return on_ray(None, workers, gpus=gpus)


def _processes(workers: int, gpus: int) -> AbstractContextManager[Backend]:
    return processes(1 if gpus else workers)


PLACES: dict[str, Callable[[int, int], AbstractContextManager[Backend]]] = {
    "local": _local,
    "processes": _processes,
}
"""By name: workers and GPUs of a job to where jobs run."""
