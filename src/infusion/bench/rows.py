"""From what the processes returned to rows: medians, ratios, agreement."""

from statistics import median
from typing import Any

import numpy as np

from infusion.bench.settings import settings
from infusion.bench.works import LOW_DAMPING, OURS, Work

Results = dict[tuple[str, int, str], list[dict[str, Any]]]
"""Work, threads and contender to what each of its processes returned."""

RIVAL = "kronfluence"
SPEARMAN = 0.99
UNOFFERED = {"scores": "has inverses, but no scores of documents"}
EMPTY = dict.fromkeys(
    (
        "goal",
        "seconds",
        "seconds_each",
        "cpu_seconds",
        "our_seconds",
        "our_cpu_seconds",
        "time_ratio",
        "cpu_ratio",
        "memory_ratio",
        "peak_bytes",
        "baseline_bytes",
        "agreement",
        "forward_passes",
        "floor_seconds",
        "operations",
        "operations_per_second",
        "parts",
        "where",
        "share",
        "shares",
        "missing",
        "failed",
    )
)


def rows(
    works: list[Work],
    threads: list[int],
    absent: dict[str, str | None],
    results: Results,
    *,
    small: bool,
) -> list[dict[str, Any]]:
    """Make one row per work, thread count and contender, and those that follow.

    Args:
        works: What was asked for.
        threads: Thread counts.
        absent: Contender to why it did not run; ``None`` where it did.
        results: Of the processes.
        small: Whether sizes were shrunk: there is no goal then.

    Returns:
        JSON values. Seconds are medians over rounds; a ratio above 1 of time and one
        below 1 of memory speak for this package.
    """
    found = []
    for work in works:
        title = f"{work.title}, {settings(small=small)[work.setting].title}"
        for count in threads:
            for name, why in absent.items():
                head = EMPTY | {
                    "work": work.name,
                    "title": title,
                    "setting": work.setting,
                    "threads": count,
                    "contender": name,
                }
                if name not in work.contenders:
                    why = UNOFFERED.get(work.stage)
                    found += [head | {"missing": f"{name} {why}"}] if why else []
                    continue
                if why is not None:
                    found += _empty_rows(work, head, missing=why)
                    continue
                found += _rows(work, head, results, with_goal=not small)
    return found


def _rows(
    work: Work, head: dict[str, Any], results: Results, *, with_goal: bool
) -> list[dict[str, Any]]:
    count, name = head["threads"], head["contender"]
    theirs, ours = (results[work.name, count, who] for who in (name, OURS))
    broken = [run["failed"] for run in (*theirs, *ours) if "failed" in run]
    if broken:
        return _empty_rows(work, head, failed=broken[0])
    if with_goal and count == 1 and name == (OURS if work.stage == "shares" else RIVAL):
        head["goal"] = work.goal
    if work.stage == "shares":
        return [head | _smallest_share(ours, results, count)]
    row = head | _costs(theirs) | _yardsticks(ours)
    if name == OURS:
        return [row | {"where": theirs[0].get("where")}]
    row |= _compared(theirs, ours) | {"agreement": _agreement(theirs[0], ours[0], "")}
    if work.stage != "fit":
        return [row]
    low = {"agreement": _agreement(theirs[0], ours[0], "-low")}
    return [row, head | _at_low_damping(work, head) | low]


def _empty_rows(work: Work, head: dict[str, Any], **why: str) -> list[dict[str, Any]]:
    """Say of every row of a work why it could not be measured."""
    also = work.stage == "fit" and head["contender"] != OURS
    low = [head | _at_low_damping(work, head) | why] if also else []
    return [head | why, *low]


def _at_low_damping(work: Work, head: dict[str, Any]) -> dict[str, Any]:
    about = head["title"].removeprefix(f"{work.title}, ")
    title = f"scores at damping {LOW_DAMPING:g}, {about}"
    return {"work": f"{work.name}-low-damping", "title": title, "goal": None}


def _costs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    names = runs[0]["parts"]
    return {
        "seconds": _median(runs, "seconds"),
        "seconds_each": [run["seconds"] for run in runs],
        "cpu_seconds": _median(runs, "cpu_seconds"),
        "peak_bytes": _median(runs, "peak_bytes"),
        "baseline_bytes": _median(runs, "baseline_bytes"),
        "parts": {k: median(run["parts"][k] for run in runs) for k in names},
    }


def _compared(
    theirs: list[dict[str, Any]], ours: list[dict[str, Any]]
) -> dict[str, Any]:
    seconds, cpu = _median(ours, "seconds"), _median(ours, "cpu_seconds")
    held, their_held = _held(ours), _held(theirs)
    return {
        "our_seconds": seconds,
        "our_cpu_seconds": cpu,
        "time_ratio": _median(theirs, "seconds") / seconds,
        "cpu_ratio": _median(theirs, "cpu_seconds") / cpu,
        "memory_ratio": held / their_held if held and their_held else None,
    }


def _held(runs: list[dict[str, Any]]) -> float | None:
    """Return the bytes a work held above what was there before it."""
    peak = _median(runs, "peak_bytes")
    return None if peak is None else float(peak - _median(runs, "baseline_bytes"))


def _median(runs: list[dict[str, Any]], key: str) -> Any:
    values = [run[key] for run in runs]
    return None if None in values else median(values)


def _yardsticks(ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Read our time in forward passes, and the arithmetic floor of the method."""
    keys = ("floor_seconds", "operations", "operations_per_second")
    passes = [run["seconds"] / run["forward_seconds"] for run in ours]
    return {"forward_passes": median(passes)} | {k: _median(ours, k) for k in keys}


def _agreement(theirs: dict[str, Any], ours: dict[str, Any], name: str) -> float:
    """Return ``‖ours − theirs‖ / ‖theirs‖`` of all scores, in float64."""
    wanted, got = (
        np.load(f"{run['stem']}{name}.npy").astype(np.float64) for run in (theirs, ours)
    )
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def _smallest_share(
    ours: list[dict[str, Any]], results: Results, threads: int
) -> dict[str, Any]:
    """Find the share from which on every larger one keeps the ranks too."""
    tried = ours[0]["shares"]
    kept = len(tried) - 1
    while kept and tried[kept - 1]["spearman"] >= SPEARMAN:
        kept -= 1
    runs = [run | run["shares"][kept] for run in ours]
    row = _costs(runs) | {"forward_passes": _yardsticks(runs)["forward_passes"]}
    row |= {
        "where": ours[0].get("where"),
        "shares": tried,
        "share": tried[kept]["share"],
    }
    full = results.get(("fit-resnet", threads, RIVAL), [])
    if full and not any("failed" in run for run in full):
        row["time_ratio"] = _median(full, "seconds") / row["seconds"]
    return row
