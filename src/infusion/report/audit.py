"""What an audit shows: the table it ends with, and its page."""

from pathlib import Path
from typing import IO, Any

from infusion.report.templates import template
from infusion.runs.store import Store, write_whole

SHOWN = 200
"""Changed rows on the page; ``issues.csv`` has all."""
_IN_TABLE = 12
MARKS = {
    "pass": "pass",
    "warn": "WARN",
    "fail": "FAIL",
    "not applicable": "n/a",
    "skipped": "skipped",
}


def audit_table(found: dict[str, Any], file: IO[str]) -> None:
    """Print findings and the first rows that changed.

    Args:
        found: What ``audit.json`` holds.
        file: Open for writing.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, emoji=False)
    changes = found["changes"]
    if changes:
        more = len(changes) - _IN_TABLE
        title = "rows that are not as sealed" + (
            f", {_IN_TABLE} of {len(changes):,}" if more > 0 else ""
        )
        table = Table(title=title)
        for heading in ("change", "row", "label"):
            table.add_column(heading)
        for change in changes[:_IN_TABLE]:
            table.add_row(*(Text(cell) for cell in change_cells(change)))
        console.print(table)
    for finding in found["findings"]:
        line = f"{finding['code']} {MARKS[finding['outcome']]}  {finding['title']}: "
        console.print(Text(line + finding["evidence"]))


def change_cells(change: dict[str, Any]) -> list[str]:
    """Write one change out.

    Args:
        change: From ``audit.json``.

    Returns:
        What happened, where, and the label, before and after where it differs.
    """
    before, after = change["before"], change["after"]
    row = after or before
    place = row["file"] if row["row"] is None else f"{row['file']}, row {row['row']}"
    label = "–" if row["label"] is None else row["label"]
    if before and after and before["label"] != after["label"]:
        label = f"{before['label']} → {label}"
    return [change["kind"], place, label]


def audit_page(root: Path) -> Path:
    """Draw the page of an audit.

    Args:
        root: Folder with a finished ``audit.json``.

    Returns:
        Path of ``report.html`` inside the folder.

    Raises:
        ArtefactError: The audit is unfinished or was altered.
    """
    results = Store(root).read_json("audit.json")
    rows = [change_cells(change) for change in results["changes"][:SHOWN]]
    text = template("audit.html").render(results=results, rows=rows, marks=MARKS)
    page = root / "report.html"
    write_whole(page, text.encode())
    return page
