"""Run a suite, or read what is there, and show it: table, page, one line of JSON."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from infusion.configs import RunConfig
from infusion.report.suites import suite_table, suites_page
from infusion.runs.places import backend_of
from infusion.suites.board import board
from infusion.suites.collected import collect, effects_of
from infusion.suites.run import run_suite
from infusion.suites.sweep import RESULTS, Sweep, check_folder, sweep
from infusion.suites.tally import Tally

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


def show_sweep(
    asked: Sweep, root: Path, *, on: str, workers: int, screen: IO[str]
) -> dict[str, Any]:
    """Sweep, and show what came out.

    Args:
        asked: What to do.
        root: Folder of the sweep.
        on: Where jobs run, see :func:`infusion.runs.places.backend_of`.
        workers: How many at a time.
        screen: Open for writing.

    Returns:
        JSON value: folder, rows, how many were given up, why it ended early, effects.
    """
    config = asked.config
    check_folder(asked, root)
    total = asked.expected
    with (
        backend_of(on, workers, device=config.device) as backend,
        board(f"{config.preset} {asked.suite}", total) as show,
    ):

        def on_change(tally: Tally) -> None:
            said = None if tally.effect is None else asdict(tally.effect)
            show((len(tally.rows), tally.running, len(tally.failed), said))

        tally = sweep(asked, root, backend, on_change=on_change)
    found = effects_of(config.preset, tally.rows) if tally.rows else []
    if found:
        suite_table(f"{config.preset}, suite {asked.suite}", found, screen)
    early = f", ended early: {tally.reason}" if tally.reason else ""
    failed = len(tally.failed)
    screen.write(f"{len(tally.rows):,} rows, {failed} given up{early}\n")
    screen.write(f"rows: {root / RESULTS}\n")
    return {
        "run": str(root),
        "rows": len(tally.rows),
        "failed": failed,
        "reason": tally.reason,
        "effects": found,
    }


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
