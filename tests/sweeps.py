"""A small sweep, and what came out of one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.suites.sweep import FAILURES, RESULTS, Sweep

from .test_suites import tiny

ASKED = Sweep(replace(tiny(2), threads=2), "controls", (0, 1))
WORKS = 2 * 2 * 4
"""Rows: base models, pairs, trials."""


def files(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in (RESULTS, FAILURES)}


def rows(root: Path, name: str = RESULTS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / name).read_text("utf-8").splitlines()]


def infusion(*flags: object, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "infusion", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
