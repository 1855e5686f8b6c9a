"""The paper's claims about pictures, and this project's goals, from committed rows.

A claim is text, the paper's figure, a suite, a function of its rows, and a bound on the
value or on an end of its interval. Rows of the paper's scale are taken where there are
enough, else those of the small one. Source: arXiv 2602.09987, claims 1 to 14.
"""

import json
import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from infusion.suites.found import (
    CODED,
    PLAIN,
    Found,
    Trials,
    accuracy_lost,
    alike,
    best_selection,
    correlation,
    flipped,
    largest_cell,
    lead,
    rises,
    shift,
    strong_cells,
    times,
    true_class,
    worth,
)
from infusion.suites.read import read_rows
from infusion.suites.summary import Row

Bound = tuple[Literal["ours", "low", "high"], Literal[">", "<", "≥", "≤"], float]


_BEYOND: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    "≥": operator.ge,
    "≤": operator.le,
}


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        number: Of the paper's claim, or ``G1``… for a goal of this project.
        text: What is claimed.
        paper: The paper's figure, or the goal.
        suite: Whose rows decide it.
        ours: What those rows say.
        bound: It holds where this end of the 95 % interval lies beyond a limit. Counts,
            extremes and goals for a mean are judged by the value itself, ``"ours"``.
        least: Pairs without which it is not judged, however narrow the interval.
        preset: Whose rows, where not those that are asked for.
    """

    number: str
    text: str
    paper: str
    suite: str
    ours: Callable[[Trials], Found]
    bound: Bound
    least: int = 12
    preset: str | None = None


POSITIVE: Bound = ("low", ">", 0.0)
NEGATIVE: Bound = ("high", "<", 0.0)
CLAIMS = [
    Claim(
        "1",
        "target probability rises in every run",
        "2000 of 2000",
        "main",
        rises,
        ("ours", "≥", 1.0),
    ),
    Claim(
        "2",
        "mean rise of the target's probability",
        "+0.232 ± 0.276",
        "main",
        shift(CODED),
        POSITIVE,
    ),
    Claim(
        "3",
        "target becomes top-1, trivial cells left out",
        "30.4 %",
        "main",
        flipped(CODED),
        ("ours", "≥", 0.304),
        least=30,
    ),
    Claim("4", "true class falls", "0.738 → 0.396", "main", true_class, NEGATIVE),
    Claim(
        "5",
        "an edit is worth explicit copies (how many)",
        "1 to 100",
        "copies",
        worth,
        ("ours", "≥", 1.0),
    ),
    Claim(
        "6",
        "gradient direction matters: lead over noise",
        "+0.227",
        "controls",
        lead(PLAIN, "noise L∞"),
        POSITIVE,
    ),
    Claim(
        "7",
        "most supporting documents beat the paper's other choices: lead",
        "+0.087",
        "selection",
        best_selection,
        POSITIVE,
    ),
    Claim(
        "8",
        "larger influence, larger effect (rank correlation)",
        "not measured",
        "main",
        correlation(lambda row: row["influence"], "p"),
        POSITIVE,
    ),
    Claim(
        "9",
        "longer retraining weakens: six epochs less one",
        "+0.113: contradicted",
        "horizon",
        lead("last 6 epochs", "last 1 epochs"),
        NEGATIVE,
    ),
    Claim(
        "10",
        "edits are hard to see (structural similarity)",
        "L∞ 0.05",
        "main",
        alike,
        ("low", "≥", 0.95),
    ),
    Claim(
        "11",
        "transfer CNN → ResNet is stronger: lead",
        "+0.014, confounded",
        "transfer",
        lead("cnn → resnet", "resnet → cnn", across=True),
        POSITIVE,
    ),
    Claim(
        "12",
        "some class pairs transfer far better (largest cell)",
        "0.5",
        "transfer",
        largest_cell,
        ("ours", "≥", 0.2),
    ),
    Claim(
        "13",
        "same architecture: share of class pairs with Δp ≥ 0.1",
        "many ≈ 0",
        "transfer",
        strong_cells,
        ("ours", "≥", 1.0),
    ),
    Claim(
        "14",
        "one corpus reaches independently trained models",
        "untested",
        "fresh",
        shift("ekfac, scratch"),
        POSITIVE,
    ),
]
GOALS = [
    Claim(
        "G1",
        "mean Δp, realisable, plain EK-FAC",
        "≥ +0.35",
        "main",
        shift(PLAIN),
        ("ours", "≥", 0.35),
    ),
    Claim(
        "G2",
        "mean Δp, best engine, known order",
        "≥ +0.60",
        "engines",
        shift("held replay, own 0"),
        ("ours", "≥", 0.6),
    ),
    Claim(
        "G3",
        "non-trivial top-1, plain EK-FAC",
        "≥ 50 %",
        "main",
        flipped(PLAIN),
        ("ours", "≥", 0.5),
    ),
    Claim(
        "G4",
        "non-trivial top-1, best engine, known order",
        "≥ 80 %",
        "engines",
        flipped("held replay, own"),
        ("ours", "≥", 0.8),
    ),
    Claim(
        "G5",
        "fresh order, several models: mean Δp",
        "≥ +0.50",
        "fresh",
        shift("ensemble, fresh"),
        ("ours", "≥", 0.5),
    ),
    Claim(
        "G6",
        "fresh order, several models: non-trivial top-1",
        "≥ 65 %",
        "fresh",
        flipped("ensemble, fresh"),
        ("ours", "≥", 0.65),
    ),
    Claim(
        "G7",
        "predicted against realised Δ log p (rank correlation)",
        "≥ 0.8",
        "main",
        correlation(lambda row: row["predicted"], "log_p"),
        ("ours", "≥", 0.8),
    ),
    Claim(
        "G8",
        "test accuracy lost, points",
        "upper end ≤ 0.5, n ≥ 30",
        "main",
        accuracy_lost,
        ("high", "≤", 0.5),
        least=30,
    ),
    Claim(
        "G9",
        "transfer ResNet → CNN, crafted on several models, mean Δp",
        "≥ +0.10",
        "surrogates",
        shift("ensemble, resnet → cnn"),
        ("ours", "≥", 0.1),
    ),
    Claim(
        "G10",
        "transfer CNN → ResNet, crafted on several models, mean Δp",
        "≥ +0.10",
        "surrogates",
        shift("ensemble, cnn → resnet"),
        ("ours", "≥", 0.1),
    ),
    Claim(
        "G11",
        "digits, fresh orders: Δ log p of several models over plain EK-FAC",
        "≥ 2.5 times",
        "engines",
        times("ensemble, fresh", "ekfac, fresh"),
        ("ours", "≥", 2.5),
        preset="digits",
    ),
    Claim(
        "G12",
        "copies the edit is worth: see the curve",
        "the curve, over 30 pairs",
        "copies",
        worth,
        ("ours", "≥", 0.0),
        least=30,
    ),
]
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
        _judged(claim, rows, claim.preset or preset) for claim in [*CLAIMS, *GOALS]
    ]
    return [*judged, _on_a_gpu(folder)]


def _on_a_gpu(folder: Path) -> dict[str, Any]:
    """Judge the seconds of one edit by what ``benchmarks/pairs.py`` wrote on a GPU."""
    path = folder / "pairs.json"
    stored = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    timed = [row for row in stored.values() if row["device"] == "cuda"]
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
        used = rows.get((preset, scale, claim.suite), [])
        trials: Trials = defaultdict(list)
        for row in used:
            trials[row["trial"]].append(row)
        found.append((scale, used, claim.ours(dict(trials))))
    enough = [each for each in found if _verdict(claim, each[2]) not in _UNJUDGED]
    some = [each for each in found if each[2][0] is not None]
    nothing: Found = (None, None, None, 0)
    scale, used, said = next(iter([*enough, *some]), (None, [], nothing))
    value, low, high, n = said
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
        "setting": None if scale is None else f"{preset} {scale}",
        "hardware": ", ".join(sorted(machines)) or None,
        "verdict": _verdict(claim, said),
        "source": ", ".join(sorted({row["source"] for row in used})) or None,
    }
