"""What the first trial of a text suite says beyond its means: size, groups, relations.

Source: arXiv 2602.09987, analysis of its ciphers and stories. Pairs of one probe share
its texts, so tests and intervals here are over probes.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from infusion.intervals import ends, resamples
from infusion.presets.texts import Texts
from infusion.suites.statistics import signed_ranks
from infusion.suites.summary import Row, by_pair, interval

Json = dict[str, Any]


def statistics(rows: list[Row], texts: Texts) -> Json:
    """Return what there is to say about one trial.

    Args:
        rows: Of one trial; draws and base models of a pair count once.
        texts: What its preset reads off a row; its first column and the further ones
            that it names are tested.

    Returns:
        Over the pairs that were drawn, not weighed: ``n`` pairs of ``probes``;
        ``tests`` by column: ``cohens_d`` of the pairs (mean over standard deviation)
        with its interval, and ``wilcoxon_p`` of the probes' means (signed ranks,
        two-sided; None for fewer than six); ``accuracy`` of the clean models, and,
        where rows say it, their ``perplexity`` and the share of held-out documents that
        are ``cut``; ``correlations`` over pairs by name (Pearson; None where one side
        is constant); and ``groups`` by name: the first column's mean and interval over
        the pairs of each group.
    """
    first, read = next(iter(texts.columns.items()))
    by_probe = {
        name: _by_probe(by_pair(rows, texts.columns[name]))
        for name in (first, *texts.tested)
    }
    clean = [row["portrait"]["clean"] for row in rows if "portrait" in row]
    said = {
        name: [each[name] for each in clean if name in each]
        for name in ("perplexity", "cut")
    }
    return {
        "n": sum(map(len, by_probe[first])),
        "probes": len(by_probe[first]),
        "tests": {
            name: {
                "cohens_d": _effect_size(values),
                "wilcoxon_p": signed_ranks([float(np.mean(each)) for each in values]),
            }
            for name, values in by_probe.items()
        },
        "accuracy": float(np.mean([row["clean_accuracy"] for row in rows])),
        **{name: float(np.mean(x)) if x else None for name, x in said.items()},
        "correlations": {
            name: _pearson(by_pair(rows, left), by_pair(rows, right))
            for name, (left, right) in texts.correlations.items()
        },
        "groups": {
            name: _grouped(rows, group, read) for name, group in texts.groups.items()
        },
    }


def _by_probe(values: dict[tuple[int, int], float]) -> list[list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for (probe, _), value in values.items():
        found[probe].append(value)
    return list(found.values())


def _effect_size(by_probe: list[list[float]]) -> Json:
    """Return the mean over the standard deviation of pairs, drawn probe by probe."""
    parts = np.array([[len(x), sum(x), sum(v * v for v in x)] for x in by_probe])
    value = _ratio(parts.sum(0, keepdims=True))[0]
    if len(parts) == 1 or not math.isfinite(value):
        shown = float(value) if math.isfinite(value) else None
        return {"mean": shown, "low": None, "high": None}
    drawn = _ratio(parts[resamples(len(parts), seed=0)].sum(1))
    low, high = ends(drawn)
    return {"mean": float(value), "low": low, "high": high}


def _ratio(sums: np.ndarray) -> np.ndarray:
    """Return mean over standard deviation from counts, sums and sums of squares."""
    count, total, squares = sums.T
    mean = total / count
    spread = np.maximum(squares / count - mean**2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-12 * mean**2, mean / np.sqrt(spread), np.nan)


def _pearson(
    left: dict[tuple[int, int], float], right: dict[tuple[int, int], float]
) -> float | None:
    both = np.array([list(left.values()), list(right.values())])
    if both.shape[1] < 3 or not np.ptp(both, axis=1).all():
        return None
    return float(np.corrcoef(both)[0, 1])


def _grouped(
    rows: list[Row], group: Callable[[Row], int], value: Callable[[Row], float]
) -> list[Json]:
    """Return the mean of the pairs of every group, in the groups' order."""
    found: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        found[group(row)].append(row)
    return [
        {
            "group": key,
            "n": len(by_pair(found[key], value)),
            **asdict(interval(found[key], value)),
        }
        for key in sorted(found)
    ]
