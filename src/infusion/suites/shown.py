"""Run a suite, or read what is there, and show it: table, page, one line of JSON."""

import json
import sys
from pathlib import Path

from infusion.configs import RunConfig
from infusion.report.suites import suite_table, suites_page
from infusion.suites.collected import collect, effects_of
from infusion.suites.run import run_suite

PAGE = "suites.html"


def show_suite(
    config: RunConfig, suite: str, root: Path, *, only: str, as_json: bool
) -> None:
    """Run a suite and show all its rows, the page with those of other suites too.

    Args:
        config: See :func:`infusion.suites.run.run_suite`.
        suite: Likewise.
        root: Likewise.
        only: Likewise.
        as_json: Print one JSON object on standard output, the rest on standard error.
    """
    rows = run_suite(config, suite, root, only=only)
    found = effects_of(config.preset, rows)
    screen = sys.stderr if as_json else sys.stdout
    suite_table(f"{config.preset} {config.scale}, suite {suite}", found, screen)
    suites_page(collect(root), root / PAGE)
    screen.write(f"page: {root / PAGE}\n")
    if as_json:
        value = {"suite": suite, "run": str(root), "rows": len(rows), "effects": found}
        sys.stdout.write(json.dumps(value) + "\n")


def holds_suites(folder: Path) -> bool:
    """Tell whether a folder is of suites.

    Args:
        folder: Of a run, or of results.

    Returns:
        True where it holds rows.
    """
    return any(folder.glob("rows/*.jsonl")) or any(folder.glob("*-*/*.jsonl"))


def show_page(folder: Path, *, as_json: bool) -> None:
    """Draw the page of a folder of suites.

    Args:
        folder: Of a suite's run, or of results.
        as_json: Print one JSON object instead of the page's path.
    """
    found, page = collect(folder), folder / PAGE
    suites_page(found, page)
    if as_json:
        line = json.dumps({"suites": found, "report": str(page)})
    else:
        line = f"page: {page}"
    sys.stdout.write(line + "\n")
