"""Where a suite runs, and who watches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infusion.runs.parallel import Engine, Failed
from infusion.suites.subjects import Home


@dataclass(frozen=True)
class Follow:
    """Who watches a suite while it runs.

    Attributes:
        on_row: Called with each finished row.
        on_failed: Called with each job that was given up.
    """

    on_row: Callable[[dict[str, Any]], None] = lambda _: None
    on_failed: Callable[[Failed], None] = lambda _: None


NOBODY = Follow()


@dataclass(frozen=True)
class Site:
    """Where a suite runs.

    Attributes:
        home: Suite folder.
        engine: Where its jobs run.
        follow: Who watches.
    """

    home: Home
    engine: Engine
    follow: Follow
