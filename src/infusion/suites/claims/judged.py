"""Every claim and goal, judged by committed rows.

Rows of the paper's scale are taken where there are enough, else those of the small one.
"""

import operator
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infusion.suites.claims import defence, pictures, texts
from infusion.suites.claims.benchmarks import benchmarked
from infusion.suites.claims.claim import Claim
from infusion.suites.claims.found import NOTHING, Found, Trials
from infusion.suites.read import read_rows
from infusion.suites.summary import Row


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
    claimed = [
        *pictures.CLAIMS,
        *texts.CLAIMS,
        *defence.CLAIMS,
        *pictures.GOALS,
        *defence.GOALS,
    ]
    judged = [_judged(claim, rows, claim.preset or preset) for claim in claimed]
    return [*judged, *benchmarked(folder)]


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
    if claim.bound is None:
        return "measured" if n >= claim.least else "too few pairs"
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
