"""Rows of suites, from a run's folder or from committed results."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from infusion.errors import ArtefactError, InputError
from infusion.presets import find_preset
from infusion.runs.files import ALTERED, check_size
from infusion.runs.rows import opened
from infusion.suites.study import NAMES
from infusion.suites.summary import Row

_READ = (
    "preset", "scale", "suite", "trial", "place", "pair", "probe", "label", "target",
    "seed", "change", "retraining", "before", "clean", "after", "accuracy",
    "clean_accuracy", "predicted", "influence", "reached", "evaluations", "base_sha256",
    "inputs_sha256", "gpu", "cores", "processor",
)  # fmt: skip
"""What a row must hold."""
_WHOLE = ("seed", "pair", "place")
"""What must be a whole number."""
_MEASURED = ("before", "clean", "after", "accuracy", "clean_accuracy")
"""What must be finite numbers, by name and in lists."""


def read_rows(folder: Path) -> dict[tuple[str, str, str], list[Row]]:
    """Read rows: ``PRESET-SCALE/SUITE*.jsonl`` of results, ``rows/`` of a run.

    Args:
        folder: Of results, or of a suite's run.

    Returns:
        By preset, scale and suite; one trial of one pair of one base model counts once,
        whatever folder it was run in. A GPU rounds otherwise, so that its trials are
        rows of their own; where values are averaged a pair still counts once.

    Raises:
        ArtefactError: A line is not a row or was altered, or rows of one trial differ
            in its settings or in their results.
    """
    found: dict[tuple[str, str, str], dict[Any, Row]] = defaultdict(dict)
    settings: dict[Any, Any] = {}
    base: dict[Any, str] = {}
    paths = [*folder.glob("*-*/*.jsonl"), *folder.glob("rows/*.jsonl")]
    for path in sorted(paths):
        check_size(path)
        content = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(content.splitlines(), 1):
            row = _row(path, number, line)
            row["source"] = path.relative_to(folder).as_posix()
            group = row["preset"], row["scale"], row["suite"]
            asked = {"change": row["change"], "retraining": row["retraining"]}
            if settings.setdefault((*group, row["trial"]), asked) != asked:
                raise ArtefactError(
                    f"rows of one trial must share its settings, got others under "
                    f"{row['trial']!r} in line {number} of {path}; keep them apart"
                )
            own_settings = row.get("settings_sha256")  # of rows since they have one
            if own_settings and base.setdefault(group, own_settings) != own_settings:
                raise ArtefactError(
                    "rows of one suite must share recipe, Fisher and damping, got "
                    f"others in line {number} of {path}; keep them apart"
                )
            model = row["seed"], row["base_sha256"], row["gpu"]
            own = *model, row["probe"], row["target"], row["trial"]
            before = found[group].setdefault(own, row)
            if before["after"] != row["after"]:
                raise ArtefactError(
                    "one trial of one pair must have one result, got two of "
                    f"{row['trial']!r} that differ, the second in line {number} of "
                    f"{path}; remove one"
                )
    return {group: list(rows.values()) for group, rows in found.items()}


def _row(path: Path, number: int, line: str) -> Row:
    row: Row = {}
    try:
        row = opened(json.loads(line))
        missing = [name for name in _READ if name not in row]
        known = not missing and row["suite"] in NAMES[find_preset(row["preset"]).kind]
        known = known and all(type(row[name]) is int for name in _WHOLE)
        known = known and type(row["trial"]) is str
        known = known and all(_are_numbers(row[name]) for name in _MEASURED)
    except (*ALTERED, InputError):
        known = False
    if not known:
        raise ArtefactError(
            f"{path} must hold rows of a suite, got an altered line {number}; restore "
            "or remove it"
        )
    return row


def _are_numbers(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_are_numbers, value.values()))
    if isinstance(value, list):
        return all(map(_are_numbers, value))
    return type(value) in (int, float) and math.isfinite(value)
