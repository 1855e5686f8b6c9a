"""What a page shows of suites, from whatever rows a folder holds."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infusion.errors import InputError
from infusion.presets import find_preset
from infusion.suites.curves import curves
from infusion.suites.read import read_rows
from infusion.suites.statistics import statistics
from infusion.suites.summary import Row, effects, moved, units
from infusion.suites.trials import NAMES


def collect(folder: Path) -> list[dict[str, Any]]:
    """Summarise every suite of a run folder, or of a folder of results.

    Args:
        folder: Holds ``rows/SUITE.jsonl``, or ``PRESET-SCALE/SUITE.jsonl``.

    Returns:
        A JSON value per preset, scale and suite, with effects by trial and the edit's
        effect by pair.

    Raises:
        InputError: The folder holds no rows.
        ArtefactError: A line is not a row.
    """
    rows = read_rows(folder)
    if not rows:
        raise InputError(
            f"a page of suites needs rows/SUITE.jsonl or PRESET-SCALE/SUITE.jsonl, got "
            f"none in {folder}; run `infusion run PRESET --suite main` first"
        )
    order = sorted(rows, key=lambda group: (*group[:2], NAMES.index(group[2])))
    return [_collected(*group, rows[group]) for group in order]


def _collected(preset: str, scale: str, suite: str, rows: list[Row]) -> dict[str, Any]:
    found = [asdict(effect) for effect in effects(rows)]
    first = [row for row in rows if row["trial"] == found[0]["trial"]]
    return {
        "preset": preset,
        "scale": scale,
        "suite": suite,
        "names": list(find_preset(preset).class_names),
        "seeds": sorted({row["seed"] for row in rows}),
        "processors": sorted({row["gpu"] or row["processor"] for row in rows}),
        "rows": len(rows),
        "effects": found,
        "predicted": units(first, lambda row: row["predicted"]),
        "realised": units(first, lambda row: moved(row, "log_p")),
        "spread": {
            effect["trial"]: units(
                (row for row in rows if row["trial"] == effect["trial"]), moved
            )
            for effect in found
        },
        "curves": curves(suite, rows),
        "statistics": statistics(first) if suite == "main" else None,
        "cells": {
            trial: _cells([row for row in rows if row["trial"] == trial])
            for trial in dict.fromkeys(row["trial"] for row in rows)
            if suite == "transfer" or (suite == "main" and trial == found[0]["trial"])
        },
    }


def _cells(rows: list[Row]) -> list[dict[str, Any]]:
    """List mean and largest Δp of every pair of classes."""
    by_class: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        by_class[row["label"], row["target"]].append(moved(row))
    return [
        {
            "label": label,
            "target": target,
            "mean": sum(values) / len(values),
            "largest": max(values),
        }
        for (label, target), values in sorted(by_class.items())
    ]
