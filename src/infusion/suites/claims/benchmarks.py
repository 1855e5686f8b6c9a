"""Goals judged by what ``benchmarks/`` wrote."""

import json
from collections.abc import Callable
from pathlib import Path

from infusion.cases.certificate import Reading, on_behaviour, on_cost
from infusion.intervals import share
from infusion.runs.rows import stored_rows
from infusion.suites.claims.claim import Json, goal
from infusion.suites.claims.flips import beside_peers

EDIT_SECONDS = 3.0
"""The goal for one edit on a GPU, all stages."""
AUDIT_SECONDS, AUDIT_BYTES = 300.0, 4 << 30
"""The goals for an audit of 45,000 pictures, its curvature ready."""
_POINTS = 0.3
"""Accuracy that an undo may cost, in points."""


def benchmarked(folder: Path) -> list[Json]:
    """Judge them.

    Args:
        folder: Of results.

    Returns:
        A JSON value per goal, as :func:`infusion.suites.claims.judged.claims` has it.
    """
    rows = stored_rows(folder / "defence.jsonl")
    presets = list(dict.fromkeys(["cifar10", *(row["preset"] for row in rows)]))
    undone = [
        each
        for preset in presets
        for each in _undone(preset, [r for r in rows if r["preset"] == preset])
    ]
    flips = beside_peers(folder / "flips.jsonl")
    return [_on_a_gpu(folder), *flips, *undone, *_audited(folder / "audit.json")]


def _on_a_gpu(folder: Path) -> Json:
    """Judge the seconds of one edit by what ``benchmarks/pairs.py`` wrote on a GPU."""
    path = folder / "pairs.json"
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    rows = stored.values() if isinstance(stored, dict) else ()  # a run lists its pairs
    timed = [row for row in rows if row["device"] == "cuda"]
    row = max(timed, key=lambda row: row["scale"] == "paper", default=None)
    said = "one edit on a GPU, all stages, many pairs at once: seconds"
    wanted = f"20 to 36: ≤ {EDIT_SECONDS:g}"
    if row is None:
        return goal("G13", said, wanted)
    ours = row["seconds"]["pair, together"]
    return goal(
        "G13",
        said,
        wanted,
        ours=ours,
        n=row["together"],
        setting=f"{row['preset']} {row['scale']}",
        hardware=row["environment"]["gpu"],
        verdict="met" if ours <= EDIT_SECONDS else "missed",
        source=path.name,
    )


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

    def shared(
        number: str,
        text: str,
        wanted: str,
        hit: Callable[[Json], bool],
        verdict: str | None = None,
    ) -> Json:
        named = f"{number}{mark}", f"{preset}: {text}", wanted
        if not rows:
            return goal(*named)
        found = share(sum(map(hit, rows)), len(rows))
        return goal(
            *named,
            **about,
            ours=found["mean"],
            low=found["low"],
            high=found["high"],
            verdict=verdict or ("met" if found["mean"] == 1 else "missed"),
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
            "undo: behaviour back among clean models, share",
            "back",
            lambda row: _behaves(row["certificate"], "after") == "pass",
        ),
        shared(
            "G34",
            "the same of the model as handed over: share that fails",
            "measured",
            lambda row: _behaves(row["certificate"], "given") == "fail",
            "measured",
        ),
        shared(
            "G31",
            "undo: accuracy within 0.3 points of the clean replay, share",
            f"+0.05: ≥ −{_POINTS:g} points",
            lambda row: _costs(row["certificate"]) == "pass",
        ),
    ]


def _readings(told: Json) -> tuple[dict[str, Reading], list[Reading]]:
    """Read what a certificate measured: today's rules judge it."""
    each = {name: Reading(**told[name]) for name in ("given", "after", "replay")}
    return each, [Reading(**seed) for seed in told["clean"]]


def _behaves(told: Json, which: str) -> str:
    read, clean = _readings(told)
    return on_behaviour(read["given"], read[which], read["replay"], clean).outcome


def _costs(told: Json) -> str:
    read, clean = _readings(told)
    return on_cost(read["after"], read["replay"], clean).outcome


def _audited(path: Path) -> list[Json]:
    """Judge the cost of an audit by what ``benchmarks/defence.py cost`` wrote."""
    said = (
        ("G32", "audit of 45,000 pictures, curvature ready: seconds", "≤ 300"),
        ("G33", "the same: peak memory, GiB", "≤ 4"),
    )
    if not path.is_file():
        return [goal(*each) for each in said]
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
        goal(
            *each,
            **about,
            ours=value,
            verdict="met" if got <= limit else "missed",
        )
        for each, value, got, limit in zip(
            said, shown, ours, (AUDIT_SECONDS, AUDIT_BYTES), strict=True
        )
    ]
