"""A small sweep, and what came out of one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.runs.config_files import to_yaml
from infusion.suites.sweep import FAILURES, RESULTS, Sweep

from .test_suites import tiny

ASKED = Sweep(replace(tiny(2), threads=2), "controls", (0, 1))
WORKS = 2 * 2 * 4
"""Rows: base models, pairs, trials."""


def files(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in (RESULTS, FAILURES)}


def rows(root: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / name).read_text("utf-8").splitlines()]


@contextmanager
def infusion(*flags: object) -> Iterator[subprocess.Popen[str]]:
    """Start the command; a test that fails does not leave it running."""
    with subprocess.Popen(
        [sys.executable, "-m", "infusion", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def flags_of_sweep(folder: Path, on: str) -> list[object]:
    """What :data:`ASKED` is called on the command line; it writes into ``out``."""
    config = folder / "config.yaml"
    config.write_text(to_yaml(ASKED.config))
    flags = ["sweep", "--config", config, "--suite", "controls", "--on", on]
    return [*flags, "--pairs", 2, "--seeds", 0, 1, "--out", folder / "out"]
