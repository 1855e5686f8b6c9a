"""What a page shows of suites, from whatever rows a folder holds."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infusion.errors import InputError
from infusion.presets import find_preset
from infusion.presets.texts import realised, texts_of
from infusion.suites.curves import by_dial, by_margin, curves
from infusion.suites.read import read_rows
from infusion.suites.statistics import statistics
from infusion.suites.study import NAMES
from infusion.suites.summary import Row, effects, moved, units
from infusion.suites.texts.effects import effects as text_effects
from infusion.suites.texts.statistics import statistics as text_statistics


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

    def place(group: tuple[str, str, str]) -> tuple[str, str, int]:
        preset, scale, suite = group
        return preset, scale, NAMES[find_preset(preset).kind].index(suite)

    return [_collected(*group, rows[group]) for group in sorted(rows, key=place)]


def effects_of(preset: str, rows: list[Row]) -> list[dict[str, Any]]:
    """Summarise a suite, trial by trial in its own order.

    Args:
        preset: Whose rows they are.
        rows: Of one suite and one scale.

    Returns:
        A JSON value per trial, of :class:`infusion.suites.summary.Effect`, or of
        :class:`infusion.suites.texts.effects.TextEffect`.
    """
    if find_preset(preset).kind == "pictures":
        return [asdict(effect) for effect in effects(rows)]
    found = text_effects(rows, texts_of(preset).columns)
    return [asdict(effect) for effect in found]


def _collected(preset: str, scale: str, suite: str, rows: list[Row]) -> dict[str, Any]:
    found = effects_of(preset, rows)
    first = [row for row in rows if row["trial"] == found[0]["trial"]]
    about = {
        "preset": preset,
        "scale": scale,
        "suite": suite,
        "names": list(find_preset(preset).class_names),
        "seeds": sorted({row["seed"] for row in rows}),
        "processors": sorted({row["gpu"] or row["processor"] for row in rows}),
        "rows": len(rows),
        "effects": found,
        "predicted": units(first, lambda row: row["predicted"]),
    }
    if find_preset(preset).kind == "pictures":
        return about | _of_pictures(suite, rows, first)
    return about | _of_texts(preset, suite, rows, first)


def _of_pictures(suite: str, rows: list[Row], first: list[Row]) -> dict[str, Any]:
    crossed = suite == "transfer"
    return {
        "measured": "Δp",
        "realised": units(first, lambda row: moved(row, "log_p")),
        "spread": _spread(rows, moved),
        "curves": curves(suite, rows),
        "statistics": statistics(first) if suite == "main" else None,
        "examples": [],
        "portrait": None,
        "cells": {
            trial: _cells([row for row in rows if row["trial"] == trial], moved)
            for trial in dict.fromkeys(row["trial"] for row in rows)
            if crossed or (suite == "main" and trial == first[0]["trial"])
        },
    }


def _of_texts(
    preset: str, suite: str, rows: list[Row], first: list[Row]
) -> dict[str, Any]:
    texts = texts_of(preset)
    name, read = next(iter(texts.columns.items()))
    along = [
        {**curve, "along": "demonstrations"} for curve in curves(suite, rows, read)
    ]
    if suite == "confidence":
        along.append(by_margin(rows, texts.margin, read))
        along += by_dial(rows, texts.dials(rows[0]["scale"]), read, realised)
    return {
        "measured": name,
        "realised": units(first, realised),
        "spread": _spread(rows, read),
        "curves": along,
        "statistics": text_statistics(first, texts) if suite == "main" else None,
        "cells": {first[0]["trial"]: _cells(first, read)} if suite == "main" else {},
        "examples": _examples(rows) if suite == "main" else [],
        "portrait": _portrait(first) if suite == "main" else None,
    }


def _portrait(rows: list[Row]) -> dict[str, Any] | None:
    """Take what a first pair's row says about the whole model, if one does."""
    said = [row for row in rows if "matrix" in row.get("portrait", {}).get("clean", {})]
    if not said:
        return None
    row = min(said, key=lambda row: row["seed"])
    return {
        "pair": [row["probe"], row["target"]],
        "before": row["portrait"]["clean"]["matrix"],
        "after": row["portrait"]["after"]["matrix"],
        "spectra": row["portrait"]["before"]["spectra"],
    }


def _examples(rows: list[Row]) -> list[dict[str, Any]]:
    """List the documents that rows write out, of the first pair that has some."""
    shown = [row for row in rows if row["examples"]]
    first = min(((row["seed"], row["pair"]) for row in shown), default=None)
    ordered = sorted(shown, key=lambda row: row["place"])
    return [
        {"trial": row["trial"], **example}
        for row in ordered
        if (row["seed"], row["pair"]) == first
        for example in row["examples"]
    ]


def _spread(rows: list[Row], value: Callable[[Row], float]) -> dict[str, list[float]]:
    """List a value over pairs, trial by trial in the suite's order."""
    ordered = sorted(rows, key=lambda row: row["place"])
    return {
        trial: units((row for row in rows if row["trial"] == trial), value)
        for trial in dict.fromkeys(row["trial"] for row in ordered)
    }


def _cells(rows: list[Row], value: Callable[[Row], float]) -> list[dict[str, Any]]:
    """List mean and largest value of every pair of classes."""
    by_class: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        by_class[row["label"], row["target"]].append(value(row))
    return [
        {
            "label": label,
            "target": target,
            "mean": sum(values) / len(values),
            "largest": max(values),
        }
        for (label, target), values in sorted(by_class.items())
    ]
