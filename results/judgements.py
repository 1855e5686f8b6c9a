"""Tables of claims and goals, as the rows of this folder judge them."""

from functools import cache
from typing import Any

from layout import HERE, markdown

from infusion.report.claims import claim_cells
from infusion.suites.claims.judged import claims

HEADINGS = ["", "claim", "paper or goal", "ours [95 %]", "n", "setting", "verdict"]
PRESETS = ("cifar10", "digits", "caesar", "tinystories")
"""Columns of what an auditor finds."""
BOUND, OURS, PAIRS, VERDICT = 2, 3, 4, 6
"""Places of cells of a claim."""


def of_the_paper() -> str:
    """Return the paper's claims."""
    rows = [row for row in _judged() if not row["id"].startswith("G")]
    return "\n".join(markdown(HEADINGS, [claim_cells(row) for row in rows]))


def goals() -> str:
    """Return our goals but those of audits."""
    rows = [
        row for row in _judged() if row["id"].startswith("G") and not _preset_of(row)
    ]
    return "\n".join(markdown(HEADINGS, [claim_cells(row) for row in rows]))


def defence() -> str:
    """Return goals of audits and undoing, a column per preset."""
    lines: dict[str, dict[str, Any]] = {}
    for row in _judged():
        if preset := _preset_of(row):
            lines.setdefault(row["id"].rstrip("cdt"), {})[preset] = row
    cells = []
    for name, found in lines.items():
        first = claim_cells(next(iter(found.values())))
        claim = first[1].partition(": ")[2]
        cells.append(
            [name, claim, first[BOUND], *(_cell(found.get(p)) for p in PRESETS)]
        )
    return "\n".join(markdown(["", "", "goal", *PRESETS], cells))


@cache
def _judged() -> list[dict[str, Any]]:
    return claims(HERE)


def _preset_of(row: dict[str, Any]) -> str | None:
    """Tell which preset a goal of audits is of."""
    preset = row["claim"].partition(": ")[0]
    return preset if row["id"].startswith("G") and preset in PRESETS else None


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    cells = claim_cells(row)
    if row["ours"] is None:
        return cells[VERDICT]
    return f"{cells[OURS]}, n {cells[PAIRS]}: {cells[VERDICT]}"
