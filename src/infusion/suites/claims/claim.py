"""What a claim is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from infusion.suites.claims.found import Found, Trials

Json = dict[str, Any]
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


def goal(number: str, text: str, wanted: str, **found: Any) -> Json:
    """State a goal that files of ``benchmarks/`` decide.

    Args:
        number: ``G1``…
        text: What is wanted.
        wanted: How much of it.
        found: What is known of the rest.

    Returns:
        A JSON value as of :func:`infusion.suites.claims.judged.claims`, not measured
        unless ``found`` says otherwise.
    """
    unknown = ("ours", "low", "high", "setting", "hardware", "source")
    return {
        "id": number,
        "claim": text,
        "paper": wanted,
        **dict.fromkeys(unknown),
        "n": 0,
        "seeds": [],
        "verdict": "not measured",
        **found,
    }
