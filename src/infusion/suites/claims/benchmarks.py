"""Goals judged by what ``benchmarks/`` wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infusion.cases.certificate import Reading, on_behaviour, on_cost
from infusion.intervals import share
from infusion.runs.rows import opened

EDIT_SECONDS = 3.0
"""The goal for one edit on a GPU, all stages."""
AUDIT_SECONDS, AUDIT_BYTES = 300.0, 4 << 30
"""The goals for an audit of 45,000 pictures, its curvature ready."""
_POINTS = 0.3
"""Accuracy that an undo may cost, in points."""
Json = dict[str, Any]


def benchmarked(folder: Path) -> list[Json]:
    """Judge them.

    Args:
        folder: Of results.

    Returns:
        A JSON value per goal, as :func:`infusion.suites.claims.judged.claims` has it.
    """
    rows = _defended(folder / "defence.jsonl")
    presets = list(dict.fromkeys(["cifar10", *(row["preset"] for row in rows)]))
    undone = [
        goal
        for preset in presets
        for goal in _undone(preset, [r for r in rows if r["preset"] == preset])
    ]
    return [_on_a_gpu(folder), *undone, *_audited(folder / "audit.json")]


def _goal(number: str, text: str, goal: str, **found: Any) -> Json:
    """Fill in what is not known."""
    nothing = dict.fromkeys(("ours", "low", "high", "setting", "hardware", "source"))
    return {
        "id": number,
        "claim": text,
        "paper": goal,
        **nothing,
        "n": 0,
        "seeds": [],
        "verdict": "not measured",
        **found,
    }


def _on_a_gpu(folder: Path) -> Json:
    """Judge the seconds of one edit by what ``benchmarks/pairs.py`` wrote on a GPU."""
    path = folder / "pairs.json"
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    rows = stored.values() if isinstance(stored, dict) else ()  # a run lists its pairs
    timed = [row for row in rows if row["device"] == "cuda"]
    row = max(timed, key=lambda row: row["scale"] == "paper", default=None)
    said = "one edit on a GPU, all stages, many pairs at once: seconds"
    goal = f"20 to 36: ≤ {EDIT_SECONDS:g}"
    if row is None:
        return _goal("G13", said, goal)
    ours = row["seconds"]["pair, together"]
    return _goal(
        "G13",
        said,
        goal,
        ours=ours,
        n=row["together"],
        setting=f"{row['preset']} {row['scale']}",
        hardware=row["environment"]["gpu"],
        verdict="met" if ours <= EDIT_SECONDS else "missed",
        source=path.name,
    )


def _defended(path: Path) -> list[Json]:
    if not path.is_file():
        return []
    return [opened(json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _undone(preset: str, rows: list[Json]) -> list[Json]:
    """Judge seals, undo and certificates by what ``benchmarks/defence.py`` wrote."""
    mark = "" if preset == "cifar10" else preset[0]
    about: Json = {}
    if rows:
        about = {
            "n": len(rows),
            "seeds": sorted({row["seed"] for row in rows}),
            "setting": f"{preset} {rows[0]['scale']}",
            "hardware": ", ".join(
                sorted({f"{row['cores']} cores, {row['processor']}" for row in rows})
            ),
            "source": "defence.jsonl",
        }

    def shared(number: str, text: str, goal: str, hit: Callable[[Json], bool]) -> Json:
        if not rows:
            return _goal(f"{number}{mark}", f"{preset}: {text}", goal)
        found = share(sum(map(hit, rows)), len(rows))
        return _goal(
            f"{number}{mark}",
            f"{preset}: {text}",
            goal,
            **about,
            ours=found["mean"],
            low=found["low"],
            high=found["high"],
            verdict="met" if found["mean"] == 1 else "missed",
        )

    return [
        shared(
            "G28",
            "a seal names all edited rows and no other: share of edits",
            "100 %, 0 false",
            lambda row: row["named"] == row["edited"] and not row["falsely"],
        ),
        shared(
            "G29",
            "undo: bytes identical, share of edits",
            "100 %",
            lambda row: row["identical"],
        ),
        shared(
            "G30",
            "undo: behaviour back in the band of clean seeds, share",
            "back",
            lambda row: _behaves(row["certificate"]) == "pass",
        ),
        shared(
            "G31",
            "undo: accuracy within 0.3 points of the clean replay, share",
            f"+0.05: ≥ −{_POINTS:g} points",
            lambda row: _costs(row["certificate"]) == "pass",
        ),
    ]


def _readings(told: Json) -> tuple[Reading, Reading, Reading, list[Reading]]:
    """Read what a certificate measured: today's rules judge it."""
    given, after, replay = (Reading(**told[n]) for n in ("given", "after", "replay"))
    return given, after, replay, [Reading(**each) for each in told["clean"]]


def _behaves(told: Json) -> str:
    given, after, _, clean = _readings(told)
    return on_behaviour(given, after, clean).outcome


def _costs(told: Json) -> str:
    _, after, replay, clean = _readings(told)
    return on_cost(after, replay, clean).outcome


def _audited(path: Path) -> list[Json]:
    """Judge the cost of an audit by what ``benchmarks/defence.py cost`` wrote."""
    said = (
        ("G32", "audit of 45,000 pictures, curvature ready: seconds", "≤ 300"),
        ("G33", "the same: peak memory, GiB", "≤ 4"),
    )
    if not path.is_file():
        return [_goal(*each) for each in said]
    row = json.loads(path.read_text("utf-8"))
    here = row["environment"]
    about = {
        "n": row["documents"],
        "setting": "cifar10 paper",
        "hardware": f"{row['threads']} cores, {here['processor']}",
        "source": path.name,
    }
    ours = row["seconds"], row["peak_bytes"]
    shown = ours[0], ours[1] / (1 << 30)
    return [
        _goal(
            *each,
            **about,
            ours=value,
            verdict="met" if got <= limit else "missed",
        )
        for each, value, got, limit in zip(
            said, shown, ours, (AUDIT_SECONDS, AUDIT_BYTES), strict=True
        )
    ]
