"""Trials that vary one number, as points of a curve."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infusion.intervals import Interval, bootstrap, rank_correlation
from infusion.suites.summary import Row, by_pair, interval, moved

Coordinate = Callable[[Row], float | None]
"""Where a row lies on the axis; None where it belongs to another curve."""


@dataclass(frozen=True)
class Curve:
    """One number against the effect.

    Attributes:
        along: What is on the axis.
        at: Of a row.
        logarithmic: Whether the axis is.
        beside: Trial that the points are compared with, if any.
        held: Number that is the same in all its points: the most frequent one.
    """

    along: str
    at: Coordinate
    logarithmic: bool = False
    beside: str | None = None
    held: Coordinate | None = None


def _copies(row: Row) -> float | None:
    change = row["change"]
    shown = change["operator"] in ("copies", "demonstrations")
    return float(change["edit"]["k"]) if shown else None


def _epochs(row: Row) -> float | None:
    mode = row["retraining"]
    return None if mode["further"] else float(mode["epochs"])


def _further(row: Row) -> float | None:
    mode = row["retraining"]
    return float(mode["further"]) if mode["epochs"] == 1 else None


def _number(row: Row) -> float | None:
    return float(row["change"]["edit"]["k"])


def _distance(row: Row) -> float | None:
    return float(row["change"]["edit"]["epsilon"])


CURVES: dict[str, tuple[Curve, ...]] = {
    "copies": (
        Curve("explicit copies of the probe", _copies, logarithmic=True, beside="edit"),
    ),
    "horizon": (
        Curve("epochs retrained on the edit", _epochs),
        Curve("clean epochs after the edited one", _further),
    ),
    "budget": (
        Curve("documents edited", _number, logarithmic=True, held=_distance),
        Curve("budget in L∞, values", _distance, held=_number),
    ),
}


def curves(
    suite: str, rows: list[Row], value: Callable[[Row], float] = moved
) -> list[dict[str, Any]]:
    """Lay out the effects of a suite along what it varies.

    Args:
        suite: Its name; most vary no number and have no curve.
        rows: Of one preset and scale.
        value: Of a row: its effect.

    Returns:
        A JSON value per curve: ``along``, ``logarithmic``, ``points`` of ``at`` and
        the interval of the effect over pairs, in order, and ``beside``: a trial's name
        and interval, or None.
    """
    return [_drawn(curve, rows, value) for curve in CURVES.get(suite, ())]


def by_margin(
    rows: list[Row], margin: Callable[[Row], float], value: Callable[[Row], float]
) -> dict[str, Any]:
    """Lay out the effects of trials along the confidence of the models they are on.

    Args:
        rows: Of one suite, preset and scale.
        margin: Of a row: by how much the clean model prefers what is right.
        value: Of a row: its effect.

    Returns:
        As one of :func:`curves`; a point is a trial, and carries its ``name``.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["trial"]].append(row)
    points = [
        {
            "name": name,
            "at": interval(group, margin).mean,
            **asdict(interval(group, value)),
        }
        for name, group in groups.items()
    ]
    return {
        "along": "margin of the clean model, nats",
        "logarithmic": False,
        "points": sorted(points, key=lambda point: point["at"]),
        "beside": None,
    }


def by_dial(
    rows: list[Row],
    dials: dict[str, dict[str, float]],
    value: Callable[[Row], float],
    realised: Callable[[Row], float],
) -> list[dict[str, Any]]:
    """Lay out the effects of trials along what differs between their base models.

    Args:
        rows: Of one suite, preset and scale.
        dials: What is turned, and where each base model has it.
        value: Of a row: its effect.
        realised: Of a row: what its ``predicted`` foretells.

    Returns:
        As :func:`curves`, for every dial with rows of two base models: the effect, and
        the rank correlation of predicted and realised change, which is what
        ``"measured"`` of its curve says.
    """
    found = []
    for along, places in dials.items():
        groups: dict[float, list[Row]] = defaultdict(list)
        for row in rows:
            place = places.get(row["change"]["source"])
            if place is not None:
                groups[place].append(row)
        if len(groups) < 2:
            continue
        about = {"along": along, "logarithmic": False, "beside": None}
        turned = sorted(groups.items())
        effects = [{"at": at, **asdict(interval(each, value))} for at, each in turned]
        faith = [
            {"at": at, **asdict(rho)}
            for at, each in turned
            if (rho := _faith(each, realised)) is not None
        ]
        found.append({**about, "points": effects})
        found.append({**about, "points": faith, "measured": "ρ predicted, realised"})
    return found


def _faith(rows: list[Row], realised: Callable[[Row], float]) -> Interval | None:
    """Return the rank correlation over pairs, its interval that of drawn probes."""
    predicted = by_pair(rows, lambda row: row["predicted"])
    both = np.array([list(predicted.values()), list(by_pair(rows, realised).values())])
    probes = [probe for probe, _ in predicted]
    return bootstrap(
        both.T, probes, lambda pairs: rank_correlation(*pairs.T.tolist()), seed=0
    )


def _drawn(
    curve: Curve, rows: list[Row], value: Callable[[Row], float]
) -> dict[str, Any]:
    groups: dict[float, list[Row]] = defaultdict(list)
    held = curve.held or (lambda _: None)
    usual = Counter(map(held, rows)).most_common(1)
    for row in rows:
        if held(row) != usual[0][0]:
            continue
        place = curve.at(row)
        if place is not None:
            groups[place].append(row)
    beside = [row for row in rows if row["trial"] == curve.beside]
    return {
        "along": curve.along,
        "logarithmic": curve.logarithmic,
        "points": [
            {"at": place, **asdict(interval(groups[place], value))}
            for place in sorted(groups)
        ],
        "beside": {"trial": curve.beside, **asdict(interval(beside, value))}
        if beside
        else None,
    }
