"""The table on screen."""

from typing import Any

HEADINGS = (
    "work",
    "threads",
    "by",
    "seconds",
    "CPU s",
    "× faster",
    "memory",
    "agreement",
    "forwards",
    "floor s",
)
LEGEND = (
    "× faster: the peer's median wall time over ours, and the goal; memory: what our "
    "work held over what the peer's held; agreement: ‖ours − theirs‖ / ‖theirs‖ of "
    "the scores; forwards: our time in plain forward passes over the same documents; "
    "floor: operations of the method over the measured rate of matrix products."
)


def print_table(rows: list[dict[str, Any]], *, stderr: bool = False) -> None:
    """Print one line per row, then what each column means.

    Args:
        rows: From ``rows.rows``.
        stderr: Print on standard error.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=stderr, width=132)
    table = Table()
    for heading in HEADINGS:
        table.add_column(
            heading, justify="left" if heading in {"work", "by"} else "right"
        )
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    console.print(LEGEND, highlight=False)
    for line in sorted({row["missing"] for row in rows if row["missing"]}):
        console.print(f"missing: {line}", highlight=False, soft_wrap=True)
    for row in rows:
        if row["failed"]:
            text = f"failed: {row['contender']}, {row['title']}: {row['failed']}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Format one row under ``HEADINGS``.

    Args:
        row: From ``rows.rows``.

    Returns:
        Text of each cell.
    """
    title = row["title"]
    if row["share"] is not None:
        title += f": 1/{round(1 / row['share'])}"
    if row["missing"] or row["failed"]:
        said = "missing" if row["missing"] else "failed"
        blanks = [""] * (len(HEADINGS) - 4)
        return (title, str(row["threads"]), row["contender"], said, *blanks)
    ratio = _number(row["time_ratio"], "{:.2f}")
    if row["goal"] is not None:
        ratio += f" (≥ {row['goal']:g})"
    return (
        title,
        str(row["threads"]),
        row["contender"],
        _number(row["seconds"], "{:.2f}"),
        _number(row["cpu_seconds"], "{:.2f}"),
        ratio,
        _number(row["memory_ratio"], "{:.2f}"),
        _number(row["agreement"], "{:.1e}"),
        _number(row["forward_passes"], "{:.1f}"),
        _number(row["floor_seconds"], "{:.2f}"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
