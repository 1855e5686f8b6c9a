"""What an audit shows: the table it ends with, and its page."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from infusion.report.templates import template
from infusion.runs.store import Store, write_whole

if TYPE_CHECKING:
    from rich.table import Table

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
    if found["kind"] == "suspicion":
        console.print(_ranked_table(found))
    changes = found.get("changes", [])
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
        console.print(Text(finding_line(finding)))
    if found.get("judged"):
        console.print(Text(judged_line(found["judged"])))


def finding_line(finding: dict[str, Any]) -> str:
    """Write one finding out.

    Args:
        finding: Of an audit or a certificate.

    Returns:
        Code, outcome, what was checked and what was seen.
    """
    mark = MARKS[finding["outcome"]]
    return f"{finding['code']} {mark}  {finding['title']}: {finding['evidence']}"


def judged_line(judged: dict[str, Any]) -> str:
    """Say how well an audit did, where the truth is known.

    Args:
        judged: From ``audit.json``.

    Returns:
        One sentence.
    """
    recall = ", ".join(
        f"{found:.0%} in the first {float(share):.1%}"
        for share, found in judged["recall"].items()
    )
    return (
        f"by the truth: {judged['found']} of {judged['edited']} edited documents "
        f"flagged, {judged['falsely']} others; AUROC {judged['auroc']:.3f}, average "
        f"precision {judged['average_precision']:.3f}; {recall}"
    )


def _ranked_table(found: dict[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    shown = found["ranked"][:_IN_TABLE]
    table = Table(
        title=f"{found['flagged']:,} of {found['rows']:,} documents flagged; the most "
        "suspicious"
    )
    for heading in ("document", "label", "score, 1 is good", "by"):
        table.add_column(heading)
    for row in shown:
        cells = str(row["index"]), row["label"], f"{row['score']:.3f}", row["rule"]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def certificate_table(found: dict[str, Any], file: IO[str]) -> None:
    """Print what a certificate says.

    Args:
        found: What ``certificate.json`` holds.
        file: Open for writing.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, emoji=False)
    given, after = found["given"], found["after"]
    console.print(
        Text(
            f"log p({found['unwanted']}): {given['log_p']:+.2f} as given, "
            f"{after['log_p']:+.2f} after; accuracy {given['accuracy']:.2%} as given, "
            f"{after['accuracy']:.2%} after"
        )
    )
    for finding in found["findings"]:
        console.print(Text(finding_line(finding)))
    outcomes = [finding["outcome"] for finding in found["findings"]]
    without = outcomes.count("not applicable")
    said = f"certificate: {MARKS[found['verdict']]}"
    if without:
        said += f", by {len(outcomes) - without} of {len(outcomes)} checks; the others "
        said += "are not applicable"
    console.print(Text(said))


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
    if results["kind"] == "suspicion":
        text = _suspicion_page(root, results)
    else:
        rows = [change_cells(change) for change in results["changes"][:SHOWN]]
        text = template("audit.html").render(results=results, rows=rows, marks=MARKS)
    page = root / "report.html"
    write_whole(page, text.encode())
    return page


def _suspicion_page(root: Path, results: dict[str, Any]) -> str:
    from infusion.report import figures
    from infusion.report.pictures import png_uri, values

    pictures: Sequence[str | None] = [None] * len(results["ranked"])
    if (root / "shown.safetensors").exists():
        inputs = Store(root).read_tensors("shown.safetensors")["inputs"].numpy()
        low, high = results["valid"] or (0.0, 1.0)
        shown = values(inputs, results["levels"])
        pictures = [png_uri(each, (low, high)) for each in shown]
    drawn = results["distribution"]
    judged = results["judged"]
    return template("suspicion.html").render(
        results=results,
        marks=MARKS,
        ranked=list(zip(results["ranked"], pictures, strict=True)),
        pictured=pictures[0] is not None,
        histogram=figures.suspicion(drawn["edges"], drawn["counts"]),
        curve=figures.precision_recall(judged["curve"]) if judged else None,
        said=judged_line(judged) if judged else None,
    )
