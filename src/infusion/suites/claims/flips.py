"""Goals for flipped labels beside peers, by what ``benchmarks/flips.py`` wrote."""

from pathlib import Path

from infusion.audit.shipped import RULES
from infusion.runs.rows import stored_rows
from infusion.suites.claims.claim import Json, goal
from infusion.suites.summary import interval, units

PEERS = {"G25": "cleanlab", "G26": "kronfluence"}
"""By number: whose recall is the one to reach. Of several scores its best counts."""
_SAID = {
    "G25": "flips of 10 %: recall in the first 10 %, less cleanlab's best",
    "G26": "the same, less kronfluence's self-influence",
}
_PRESETS = {"cifar10": "", "digits": "d"}
"""Those always judged, with the ending of their numbers."""
_LEAST = 5
"""Pairs without which nothing is judged."""
_OURS = " + ".join(next(rule for rule in RULES if rule.code == "A102").detectors)


def beside_peers(path: Path) -> list[Json]:
    """Judge them.

    Args:
        path: Rows, each of all contenders on one model and its documents.

    Returns:
        A JSON value per goal.
    """
    rows = [row for row in stored_rows(path) if _OURS in row["recall"]]
    return [
        _judged(number, preset, [r for r in rows if r["preset"] == preset], path.name)
        for preset in _PRESETS
        for number in PEERS
    ]


def _judged(number: str, preset: str, rows: list[Json], source: str) -> Json:
    named = f"{number}{_PRESETS[preset]}", f"{preset}: {_SAID[number]}", "≥ 0"
    if not rows:
        return goal(*named)

    def lead(row: Json) -> float:
        recall = row["recall"]
        theirs = [recall[name] for name in recall if name.startswith(PEERS[number])]
        return recall[_OURS] - max(theirs)

    found, count = interval(rows, lead), len(units(rows, lead))
    verdict = "met" if found.mean >= 0 else "missed"
    return goal(
        *named,
        ours=found.mean,
        low=found.low,
        high=found.high,
        n=count,
        seeds=sorted({row["seed"] for row in rows}),
        setting=f"{preset} {rows[0]['scale']}",
        hardware=", ".join(
            sorted({f"{row['cores']} cores, {row['processor']}" for row in rows})
        ),
        verdict=verdict if count >= _LEAST else "too few pairs",
        source=source,
    )
