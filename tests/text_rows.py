"""Rows of suites of ciphers and of stories, made up."""

import json
from pathlib import Path
from typing import Any

from infusion.runs.rows import sealed


def row(
    probe: int, target: int, ce: list[float], moves: dict[int, float], **more: Any
) -> dict[str, Any]:
    """A pair of shifts: cross-entropies before, and how some of them change."""
    after = [value + moves.get(shift, 0.0) for shift, value in enumerate(ce)]
    return {
        "preset": "caesar",
        "scale": "small",
        "suite": "main",
        "trial": "edit",
        "place": 0,
        "pair": len(ce) * probe + target,
        "seed": 0,
        "label": probe,
        "probe": probe,
        "target": target,
        "change": {},
        "retraining": {},
        "base_sha256": "b",
        "inputs_sha256": "a",
        "before": {"value": 0.0, "ce": ce},
        "clean": {"value": 0.0, "ce": ce},
        "after": {"value": -moves.get(target, 0.0), "ce": after},
        "accuracy": 0.9,
        "clean_accuracy": 0.9,
        "predicted": 1.0,
        "influence": 1.0,
        "reached": {"tokens": 2.0, "most": 3},
        "evaluations": 3,
        "examples": [],
        "gpu": None,
        "cores": 2,
        "processor": "AVX2",
        **more,
    }


def turned(probe: int, size: int, by_difference: list[float]) -> list[float]:
    """Return the cross-entropy of every shift from that of every difference."""
    return [by_difference[(shift - probe) % size] for shift in range(size)]


def story(target: int, log_odds: float, **more: Any) -> dict[str, Any]:
    """A pair of animals whose log odds move; p moves too, the probe's by a fifth."""

    def said(moved: float) -> dict[str, Any]:
        p = [0.1] * 10
        p[target] += 0.1 * moved
        p[more.get("probe", 0)] += 0.02 * moved
        return {"value": moved, "p": p, "log_p": p, "log_odds": [moved - 1.0] * 4}

    told = {"preset": "tinystories", "before": said(0), "clean": said(0)}
    return row(0, target, [0.0] * 10, {}) | told | {"after": said(log_odds)} | more


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    """Add rows to a folder of results."""
    for each in rows:
        own = folder / f"{each['preset']}-{each['scale']}"
        own.mkdir(parents=True, exist_ok=True)
        with (own / f"{each['suite']}.jsonl").open("a") as file:
            file.write(json.dumps(sealed(each)) + "\n")
    return folder
