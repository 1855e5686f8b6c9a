"""Progress bars with an estimate, on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@lru_cache(maxsize=2)
def _console_on(stream: object) -> "Console":
    from rich.console import Console

    return Console(file=stream)  # pyright: ignore[reportArgumentType]


def console() -> "Console":
    """Return the one console on standard error: what is drawn live there nests."""
    return _console_on(sys.stderr)


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left while a block runs.

    Args:
        label: What is being done.
        total: Units of work, None where nobody knows; nothing is shown for 0.

    Yields:
        Call it with the units just done.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), disable=total == 0) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
