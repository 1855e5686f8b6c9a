"""Wall time, processor time, peak memory and operators of one call in this process."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from infusion.memory import give_back

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
REPEATS = 7
OPERATORS = 8
RESET_PEAK = "5"  # proc(5): the peak resident set becomes the current one


@dataclass
class Clock:
    """Splits a call into named parts.

    Attributes:
        parts: Seconds by name.
    """

    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the wall time of a block to a part."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.parts[name] = self.parts.get(name, 0.0) + spent


@dataclass(frozen=True)
class Cost:
    """What one call took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Of all threads.
        peak_bytes: Largest resident set during the call; ``None`` where the system
            cannot forget an earlier, larger one.
        baseline_bytes: Resident set before the call: interpreter, libraries, model,
            documents, and what the warm-up left.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    baseline_bytes: int


def measure(call: Callable[[], Any]) -> tuple[Any, Cost]:
    """Run a call once.

    Args:
        call: Warmed up by the caller.

    Returns:
        Its value and its cost.
    """
    gc.collect()
    give_back()  # so that the baseline is what is in use
    was_reset = _forget_peak()
    baseline = resident()
    earlier = peak()
    cpu, wall = time.process_time(), time.perf_counter()
    value = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    highest = peak()
    known = was_reset or highest > earlier
    return value, Cost(wall, cpu, highest if known else None, baseline)


def resident() -> int:
    """Return the bytes held now, or the most ever held where only that is known.

    Returns:
        Bytes.
    """
    return _status("VmRSS") or _maxrss()


def peak() -> int:
    """Return the most bytes held since the start or the last reset.

    Unlike ``ru_maxrss``, Linux's ``VmHWM`` does not count the parent's memory, which a
    child shares between fork and exec.

    Returns:
        Bytes.
    """
    return _status("VmHWM") or _maxrss()


def _maxrss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(name + ":")]
    return int(values[0]) * 1024 if values else None


def _forget_peak() -> bool:
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


class _Times(TorchDispatchMode):
    """Adds up the wall time of every operator that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, float] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket)
        spent = time.perf_counter() - start
        self.spent[name] = self.spent.get(name, 0.0) + spent
        return out


def operators(call: Callable[[], Any]) -> dict[str, float]:
    """Run a call and say where its wall time goes.

    Args:
        call: Runs on the CPU.

    Returns:
        Share of the operators that take most, of all others together, and of what runs
        outside operators: Python, autograd, and this measurement.
    """
    with _Times() as times:
        start = time.perf_counter()
        call()
        total = time.perf_counter() - start
    most = sorted(times.spent.items(), key=lambda item: -item[1])
    shares = {name: spent / total for name, spent in most[:OPERATORS]}
    shares["other operators"] = sum(spent for _, spent in most[OPERATORS:]) / total
    return shares | {"outside operators": 1 - sum(shares.values())}


def product_rate(size: int) -> float:
    """Measure the rate of square float32 matrix products on this process's threads.

    Args:
        size: Rows.

    Returns:
        Operations per second, the best of a few.
    """
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        torch.mm(left, right)
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
