"""What a sweep has done so far, in a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infusion.report.suites import ranged

if TYPE_CHECKING:
    from rich.table import Table

_EVERY = 30.0
"""Seconds between two lines where nobody watches a terminal."""
Said = tuple[int, int, int, dict[str, float | None] | None]
"""Rows done, jobs under way and given up, the first trial's effect so far."""


@contextmanager
def board(title: str, total: int) -> Iterator[Callable[[Said], None]]:
    """Show a table that keeps up with a sweep, on standard error.

    Args:
        title: What is swept.
        total: Rows to do, those done before included.

    Yields:
        Call it with what is done. In a terminal the table is drawn again; elsewhere a
        line is written now and then.
    """
    from rich.live import Live

    from infusion.runs.progress import console

    began, first, told = time.monotonic(), [-1], [0.0]

    def cells(said: Said) -> list[tuple[str, str]]:
        done, running, failed, effect = said
        if first[0] < 0:
            first[0] = done  # before this sweep began
        spent, new = time.monotonic() - began, done - first[0]
        left = max(0, total - done - failed)
        rate = spent / new if new else None
        return [
            ("done", f"{done:,} of {total:,}"),
            ("running", str(running)),
            ("failed", str(failed)),
            ("effect", "–" if effect is None else ranged(effect, 3)),
            ("left", "–" if rate is None else f"{left * rate / 60:.1f} min"),
        ]

    screen = console()
    if not screen.is_terminal:

        def line(said: Said) -> None:
            if time.monotonic() - told[0] > _EVERY:
                told[0] = time.monotonic()
                text = ", ".join(f"{name} {value}" for name, value in cells(said))
                sys.stderr.write(f"{title}: {text}\n")

        yield line
        return
    with Live(console=screen, refresh_per_second=2) as live:
        yield lambda said: live.update(_table(title, cells(said)))


def _table(title: str, cells: list[tuple[str, str]]) -> "Table":
    from rich.table import Table

    table = Table(title=title)
    for name, _ in cells:
        table.add_column(name)
    table.add_row(*(value for _, value in cells))
    return table
