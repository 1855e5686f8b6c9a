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

from infusion.intervals import resamples
from infusion.presets.texts import Texts
from infusion.suites.statistics import signed_ranks
from infusion.suites.summary import Row, by_pair, interval

Json = dict[str, Any]


def statistics(rows: list[Row], texts: Texts) -> Json:
    """Return what there is to say about one trial.

    Args:
        rows: Of one trial; draws and base models of a pair count once.
        texts: What its preset reads off a row; the first column is judged.

    Returns:
        Over the pairs that were drawn, not weighed: ``measured``, the column; ``n``
        pairs of ``probes``; ``accuracy`` of the clean models and their ``perplexity``,
        where rows say it; ``cohens_d`` of the pairs (mean
        over standard deviation) with its interval; ``wilcoxon_p`` of the probes' means
        (signed ranks, two-sided; None for fewer than six); ``correlations`` over pairs
        by name (Pearson; None where one side is constant); and ``groups`` by name: the
        column's mean and interval over the pairs of each group.
    """
    measured, read = next(iter(texts.columns.items()))
    by_probe = _by_probe(by_pair(rows, read))
    clean = [row["portrait"]["clean"] for row in rows if "portrait" in row]
    perplexities = [said["perplexity"] for said in clean if "perplexity" in said]
    return {
        "measured": measured,
        "n": sum(map(len, by_probe)),
        "probes": len(by_probe),
        "accuracy": float(np.mean([row["clean_accuracy"] for row in rows])),
        "perplexity": float(np.mean(perplexities)) if perplexities else None,
        "cohens_d": _effect_size(by_probe),
        "wilcoxon_p": signed_ranks([float(np.mean(each)) for each in by_probe]),
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
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < 0.95 * len(drawn):
        return {"mean": float(value), "low": None, "high": None}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"mean": float(value), "low": float(low), "high": float(high)}


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
