"""Rows to effects with intervals: one line per trial, always minus the clean replay."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean as mean
from typing import Any

from infusion.intervals import Interval, bootstrap_mean, rank_correlation, share

Row = dict[str, Any]
SIZES = {"l2": "mean_l2", "psnr": "psnr", "ssim": "ssim"}
"""How large an edit is: name, and where a row says it."""


@dataclass(frozen=True)
class Effect:
    """What one trial did over its pairs.

    Attributes:
        trial: Its name.
        n: Pairs of probe and target; several base models or draws of one count once.
        delta_p: Change of the target's probability.
        delta_log_p: Change of its logarithm, in nats.
        delta_log_odds: Change of its log-odds.
        flips: Share of the pairs whose target is now predicted, with Wilson's interval,
            among those where the clean replay does not predict it already.
        accuracy: Change of the test accuracy.
        predicted: Rank correlation of predicted and realised change.
        evaluations: Gradients per document that the edit took; those of a replay are
            each through a whole epoch.
        sizes: Means over pairs of ``l2`` and ``ssim``, means of each edit's documents,
            and of ``psnr`` in decibels, their medians; None for copies, and where some
            edit leaves a document as it was, whose ratio is infinite.
    """

    trial: str
    n: int
    delta_p: Interval
    delta_log_p: Interval
    delta_log_odds: Interval
    flips: dict[str, Any] | None
    accuracy: Interval
    predicted: float | None
    evaluations: int
    sizes: dict[str, float | None]


def moved(row: Row, name: str = "p") -> float:
    """Return how far a trial moved a behaviour beyond the clean replay of its mode.

    Args:
        row: From :func:`infusion.suites.trial_rows.measured`.
        name: ``"p"``, ``"log_p"`` or ``"log_odds"``.

    Returns:
        After the edit minus after the clean replay.
    """
    return row["after"][name] - row["clean"][name]


def by_pair(
    rows: Iterable[Row],
    value: Callable[[Row], float],
    reduce: Callable[[list[float]], float] = mean,
) -> dict[tuple[int, int], float]:
    """Average a value over what is not independent: draws and base models of a pair.

    Args:
        rows: Of one trial, or of several that differ in their draws.
        value: Of a row.
        reduce: Used instead of the mean.

    Returns:
        One value per probe and target.
    """
    groups: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        groups.setdefault((row["probe"], row["target"]), []).append(value(row))
    return {pair: reduce(values) for pair, values in groups.items()}


def units(rows: Iterable[Row], value: Callable[[Row], float]) -> list[float]:
    """Return the means of :func:`by_pair` alone, in the order of the rows.

    Args:
        rows: Likewise.
        value: Likewise.

    Returns:
        One mean per probe and target.
    """
    return list(by_pair(rows, value).values())


def interval(rows: Iterable[Row], value: Callable[[Row], float]) -> Interval:
    """Return the mean of a value over pairs with its bootstrap interval over probes.

    Args:
        rows: Of one trial, at least one; draws and base models of a pair count once.
        value: Of a row.

    Returns:
        Mean over pairs and its 95 % interval; a probe is drawn with all its targets.
    """
    found = by_pair(rows, value)
    probes = [probe for probe, _ in found]
    return bootstrap_mean(list(found.values()), seed=0, probes=probes)


def paired(
    rows: Iterable[Row],
    others: Iterable[Row],
    value: Callable[[Row], float],
    *,
    across: bool = False,
) -> tuple[list[Row], Callable[[Row], float]]:
    """Pair two trials: same base model, machine, and pair of probe and target.

    Args:
        rows: Of one trial.
        others: Of another.
        value: Of a row.
        across: Whether the trials retrain different architectures, so that only the
            seed and the pair can be the same.

    Returns:
        The rows that have a partner, and how much more the value of one of them is.
    """

    def same(row: Row) -> tuple[int, str | None, str | None, int, int]:
        base = None if across else row["base_sha256"]
        return row["seed"], base, row["gpu"], row["probe"], row["target"]

    theirs = {same(row): value(row) for row in others}
    mine = [row for row in rows if same(row) in theirs]
    return mine, lambda row: value(row) - theirs[same(row)]


def flips(rows: Iterable[Row]) -> dict[str, Any] | None:
    """Return the share of pairs that became top-1 and were not before.

    Args:
        rows: Of one trial, or of several that differ in their draws.

    Returns:
        ``mean``, ``low`` and ``high`` over ``n`` pairs, ``count`` of ``rows``; where a
        pair has several draws or base models its share counts, and the interval is the
        bootstrap's. None where every pair is trivial.
    """
    asked = [row for row in rows if row["clean"]["top1"] != row["target"]]
    if not asked:
        return None
    hits = units(asked, lambda row: row["after"]["top1"] == row["target"])
    if len(hits) == len(asked):
        counts = {"rows": len(asked), "n": len(hits)}
        return {**counts, **share(round(sum(hits)), len(hits))}
    found = bootstrap_mean(hits, seed=0)
    count = sum(row["after"]["top1"] == row["target"] for row in asked)
    ends = {"low": found.low, "high": found.high}
    counts = {"count": count, "rows": len(asked), "n": len(hits)}
    return {**counts, "mean": found.mean, **ends}


def effects(rows: list[Row]) -> list[Effect]:
    """Summarise a suite, trial by trial in the suite's own order.

    Args:
        rows: Of one suite, one scale and one preset; of any base models.

    Returns:
        An effect per trial.
    """
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["place"]):
        groups.setdefault(row["trial"], []).append(row)
    return [_effect(name, group) for name, group in groups.items()]


def _effect(name: str, rows: list[Row]) -> Effect:
    realised = units(rows, lambda row: moved(row, "log_p"))
    predicted = units(rows, lambda row: row["predicted"])
    return Effect(
        trial=name,
        n=len(realised),
        delta_p=interval(rows, moved),
        delta_log_p=interval(rows, lambda row: moved(row, "log_p")),
        delta_log_odds=interval(rows, lambda row: moved(row, "log_odds")),
        flips=flips(rows),
        accuracy=interval(rows, lambda row: row["accuracy"] - row["clean_accuracy"]),
        predicted=rank_correlation(predicted, realised),
        evaluations=max(row["evaluations"] for row in rows),
        sizes={name: _size(rows, key) for name, key in SIZES.items()},
    )


def _size(rows: list[Row], key: str) -> float | None:
    copied = any(row["change"].get("operator") == "copies" for row in rows)
    if copied or any(row["reached"].get(key) is None for row in rows):
        return None
    return mean(units(rows, lambda row: row["reached"][key]))
