"""What a sweep has done so far, and when it begins nothing any more."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infusion.intervals import Interval
from infusion.suites.summary import Row, interval, units

_NARROW = "the interval is narrower than ±{:g}"
FEWEST = 10
"""Pairs before an interval may end a sweep."""


@dataclass
class Tally:
    """What a sweep has done so far.

    Attributes:
        rows: Finished, those of earlier calls too.
        failed: Given up, as ``failures.jsonl`` has them.
        reason: Why nothing is begun any more; empty while something is.
        running: Jobs under way.
        effect: Of the first trial, once there are :data:`FEWEST` pairs.
    """

    rows: list[Row]
    failed: list[dict[str, Any]]
    reason: str = ""
    running: int = 0
    effect: Interval | None = None


@dataclass(kw_only=True)
class Watch:
    """Keeps the tally, and says when nothing is begun any more.

    Attributes:
        measure: Of a row, which is averaged.
        budget: Seconds; None for no end.
        narrow: Half-width of the interval that is enough; None for none.
        on_change: Called with the tally when it changes.
        tally: What is done.
    """

    measure: Callable[[Row], float]
    budget: float | None
    narrow: float | None
    on_change: Callable[[Tally], None]
    tally: Tally = field(default_factory=lambda: Tally([], []))
    _began: float = field(default_factory=time.monotonic)
    _pairs: int = 0
    _looked: int = 0

    def start(self, rows: list[Row]) -> None:
        """Take over what earlier calls have done."""
        self.tally.rows = rows
        self._looked = self._pairs = sum(row["place"] == 0 for row in rows)
        self._look()
        self.on_change(self.tally)

    def stopped(self) -> bool:
        """Tell whether nothing is begun any more, and note why."""
        budget, tally = self.budget, self.tally
        if budget is not None and time.monotonic() - self._began > budget:
            tally.reason = tally.reason or f"--budget of {budget:g} s is used up"
        return bool(tally.reason)

    def on_row(self, row: Row) -> None:
        """Count a row; where a twentieth more pairs are done, average them again."""
        self.tally.rows.append(row)
        self._pairs += row["place"] == 0
        if row["place"] == 0 and self._pairs >= 1.05 * self._looked:
            self._looked = self._pairs
            self._look()
        self.on_change(self.tally)

    def on_running(self, count: int) -> None:
        """Note how many jobs are under way."""
        self.tally.running = count
        self.on_change(self.tally)

    def _look(self) -> None:
        self.tally.effect = found = _first_effect(self.tally.rows, self.measure)
        if self.narrow is None or found is None:
            return
        if _half_width(found) <= self.narrow:
            self.tally.reason = _NARROW.format(self.narrow)


def _first_effect(rows: list[Row], measure: Callable[[Row], float]) -> Interval | None:
    """Average the suite's first trial.

    Args:
        rows: So far.
        measure: Of a row.

    Returns:
        Mean and interval; None without :data:`FEWEST` pairs.
    """
    first = [row for row in rows if row["place"] == 0]
    enough = len(units(first, measure)) >= FEWEST
    return interval(first, measure) if enough else None


def _half_width(found: Interval) -> float:
    """Half of an interval, infinite where it has no ends."""
    if found.low is None or found.high is None:
        return float("inf")
    return (found.high - found.low) / 2
