"""The doctor's findings in a terminal."""

from typing import IO, Any

MARKS = {"ok": "ok", "warning": "[bold red]warning[/]", "not applicable": "–"}


def doctor_table(found: dict[str, Any], file: IO[str]) -> None:
    """Print coverage, costs and checks.

    Args:
        found: From ``infusion.presets.examine``.
        file: Open for writing.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, emoji=False)
    covered = sum(layer["parameters"] for layer in found["layers"])
    title = Text(f"{found['subject']}: {covered:,} parameters in curvature")
    table = Table(title=title)
    for heading in ("layer", "type", "parameters", "matrix"):
        table.add_column(
            heading, justify="right" if heading == "parameters" else "left"
        )
    for layer in found["layers"]:
        rows, columns = layer["factors"]
        name = " = ".join(layer["modules"])
        count, shape = f"{layer['parameters']:,}", f"{rows} × {columns}"
        table.add_row(name or "(model)", layer["type"], count, shape)
    for kind in ("skipped", "refused"):
        for name, count in found[kind].items():
            table.add_row(name, kind, f"{count:,}", "")
    if found["frozen"]:
        table.add_row("", "frozen", f"{found['frozen']:,}", "")
    console.print(table)
    if found["stages"]:
        console.print(_costs(found))
    if "run" in found:
        console.print(_run(found["run"]))
    for finding in found["findings"]:
        console.print(
            f"{finding['code']} {MARKS[finding['outcome']]}  {finding['title']}: ",
            end="",
        )
        console.print(finding["evidence"], markup=False, highlight=False)


def _costs(found: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"costs over {found['n']:,} documents")
    for heading in ("stage", "GFLOP", "MiB"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in found["stages"]:
        operations, memory = stage["operations"] / 1e9, stage["memory"] / 2**20
        table.add_row(stage["name"], f"{operations:,.1f}", f"{memory:,.0f}")
    return table


def _run(cost: dict[str, Any]) -> Any:
    from rich.table import Table

    size, stages = cost["size"], cost["seconds"]
    title = "a run of {documents:,} documents, {epochs} epochs and {pairs} pairs"
    table = Table(title=title.format(**size))
    table.add_column("stage")
    table.add_column("minutes", justify="right")
    for stage, seconds in {**stages, "together": cost["total"]}.items():
        table.add_row(stage, f"{seconds / 60:,.1f}")
    table.add_row("largest process, GiB", f"{cost['peak'] / 2**30:,.2f}")
    return table
