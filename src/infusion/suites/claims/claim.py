"""What a claim is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from infusion.suites.claims.found import Found, Trials

Bound = tuple[Literal["ours", "low", "high"], Literal[">", "<", "≥", "≤"], float]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        number: Of the paper's claim, or ``G1``… for a goal of this project.
        text: What is claimed.
        paper: The paper's figure, or the goal.
        suite: Whose rows decide it.
        ours: What those rows say.
        bound: It holds where this end of the 95 % interval lies beyond a limit. Counts,
            extremes and goals for a mean are judged by the value itself, ``"ours"``.
            None where something is only to be known.
        least: Pairs without which it is not judged, however narrow the interval.
        preset: Whose rows, where not those that are asked for.
        beside: Other presets, whose trials of the same suite and scale are called
            ``"PRESET: TRIAL"``.
    """

    number: str
    text: str
    paper: str
    suite: str
    ours: Callable[[Trials], Found]
    bound: Bound | None
    least: int = 12
    preset: str | None = None
    beside: tuple[str, ...] = ()


POSITIVE: Bound = ("low", ">", 0.0)
NEGATIVE: Bound = ("high", "<", 0.0)
