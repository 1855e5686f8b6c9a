"""Claims and goals in a terminal."""

from typing import IO, Any


def claims_table(found: list[dict[str, Any]], file: IO[str]) -> None:
    """Print a line per claim.

    Args:
        found: From :func:`infusion.suites.claims.judged.claims`.
        file: Open for writing.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title="claims of arXiv 2602.09987, and goals")
    for heading in ("", "claim", "paper or goal", "ours", "n", "setting", "verdict"):
        table.add_column(heading)
    for row in found:
        table.add_row(*claim_cells(row))
    Console(file=file, emoji=False, width=140).print(table)


def claim_cells(row: dict[str, Any]) -> list[str]:
    """Write one claim out.

    Args:
        row: A claim as judged.

    Returns:
        Number, claim, the paper's figure, ours, pairs, setting, verdict.
    """
    return [
        row["id"],
        row["claim"],
        row["paper"],
        _said(row),
        str(row["n"]),
        row["setting"] or "–",
        row["verdict"],
    ]


def _said(row: dict[str, Any]) -> str:
    if row["ours"] is None:
        return "–"
    if row["low"] is None or row["high"] is None:
        return f"{row['ours']:.3g}"
    return f"{row['ours']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
