"""Every claim and goal, judged by committed rows.

Rows of the paper's scale are taken where there are enough, else those of the small one.
"""

import json
import operator
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infusion.suites.claims import pictures, texts
from infusion.suites.claims.claim import Claim
from infusion.suites.claims.found import NOTHING, Found, Trials
from infusion.suites.read import read_rows
from infusion.suites.summary import Row

EDIT_SECONDS = 3.0
"""The goal for one edit on a GPU, all stages."""


def claims(folder: Path, preset: str = "cifar10") -> list[dict[str, Any]]:
    """Judge every claim and goal by the rows of a results folder.

    Args:
        folder: See :func:`read_rows`.
        preset: Whose rows.

    Returns:
        A JSON value per claim: id, claim, paper, ours, low, high, n, seeds, setting,
        hardware, verdict and source.
    """
    rows = read_rows(folder)
    judged = [
        _judged(claim, rows, claim.preset or preset)
        for claim in [*pictures.CLAIMS, *texts.CLAIMS, *pictures.GOALS]
    ]
    return [*judged, _on_a_gpu(folder)]


def _on_a_gpu(folder: Path) -> dict[str, Any]:
    """Judge the seconds of one edit by what ``benchmarks/pairs.py`` wrote on a GPU."""
    path = folder / "pairs.json"
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    rows = stored.values() if isinstance(stored, dict) else ()  # a run lists its pairs
    timed = [row for row in rows if row["device"] == "cuda"]
    row = max(timed, key=lambda row: row["scale"] == "paper", default=None)
    ours = row["seconds"]["pair, together"] if row else None
    judged = "met" if ours is not None and ours <= EDIT_SECONDS else "missed"
    return {
        "id": "G13",
        "claim": "one edit on a GPU, all stages, many pairs at once: seconds",
        "paper": f"20 to 36: ≤ {EDIT_SECONDS:g}",
        "ours": ours,
        "low": None,
        "high": None,
        "n": row["together"] if row else 0,
        "seeds": [],
        "setting": f"{row['preset']} {row['scale']}" if row else None,
        "hardware": row["environment"]["gpu"] if row else None,
        "verdict": "not measured" if row is None else judged,
        "source": path.name if row else None,
    }


_BEYOND: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    "≥": operator.ge,
    "≤": operator.le,
}
_UNJUDGED = ("not measured", "too few pairs")


def _verdict(claim: Claim, said: Found) -> str:
    value, low, high, n = said
    if value is None:
        return "not measured"
    end, sign, limit = claim.bound
    found = {"ours": value, "low": low, "high": high}[end]
    if found is None or n < claim.least:
        return "too few pairs"
    holds = _BEYOND[sign](found, limit)
    if claim.number.startswith("G"):
        return "met" if holds else "missed"
    return "holds" if holds else "not shown"


def _judged(
    claim: Claim, rows: dict[tuple[str, str, str], list[Row]], preset: str
) -> dict[str, Any]:
    found: list[tuple[str, list[Row], Found]] = []
    for scale in ("paper", "small"):
        used: list[Row] = []
        trials: Trials = defaultdict(list)
        for name in (preset, *claim.beside):
            for row in rows.get((name, scale, claim.suite), []):
                used.append(row)
                own = row["trial"] if name == preset else f"{name}: {row['trial']}"
                trials[own].append(row)
        found.append((scale, used, claim.ours(dict(trials))))
    enough = [each for each in found if _verdict(claim, each[2]) not in _UNJUDGED]
    some = [each for each in found if each[2][0] is not None]
    counted = [each for each in found if each[2][3]]
    scale, used, said = next(iter([*enough, *some, *counted]), (None, [], NOTHING))
    value, low, high, n = said
    settings = sorted({f"{row['preset']} {row['scale']}" for row in used})
    machines = {
        row["gpu"] or f"{row['cores']} cores, {row['processor']}" for row in used
    }
    return {
        "id": claim.number,
        "claim": claim.text,
        "paper": claim.paper,
        "ours": value,
        "low": low,
        "high": high,
        "n": n,
        "seeds": sorted({row["seed"] for row in used}),
        "setting": None if scale is None else ", ".join(settings),
        "hardware": ", ".join(sorted(machines)) or None,
        "verdict": _verdict(claim, said),
        "source": ", ".join(sorted({row["source"] for row in used})) or None,
    }
