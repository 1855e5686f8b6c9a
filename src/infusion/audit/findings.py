"""What an audit says: one finding per check, and a verdict over all of them."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "warn", "fail", "not applicable", "skipped"]
_WORST_FIRST: tuple[Outcome, ...] = ("fail", "warn", "pass")


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        code: Stable name, ``A001``…
        title: What was checked.
        outcome: ``"not applicable"`` where there is nothing to check, ``"skipped"``
            where it was not asked for: neither is a pass.
        evidence: One sentence with what was seen.
    """

    code: str
    title: str
    outcome: Outcome
    evidence: str


def verdict(findings: list[Finding]) -> Outcome:
    """Put findings together.

    Args:
        findings: Any number.

    Returns:
        The worst outcome of those that were checked; ``"skipped"`` where none was.
    """
    outcomes = {finding.outcome for finding in findings}
    for outcome in _WORST_FIRST:
        if outcome in outcomes:
            return outcome
    return "skipped"
