"""The paper's statistics of its main experiment, trial by trial.

Source: arXiv 2602.09987, analysis of its 2,000 runs. Effects here are beyond
a clean replay.
"""

from typing import Any

import numpy as np

from infusion.suites.summary import Row, moved, units

PERMUTATIONS, _FEWEST = 10_000, 6


def statistics(rows: list[Row]) -> dict[str, Any]:
    """Return the paper's statistics of one trial.

    Args:
        rows: Of one trial; draws and base models of a pair count once in means, and one
            by one in counts.

    Returns:
        ``n`` pairs; ``cohens_d`` of Δp (mean over population standard deviation);
        ``wilcoxon_p`` (signed ranks, two-sided; None for fewer than six pairs);
        ``one_vs_rest``: Δp of the target less the mean of the other classes;
        ``entropy_before`` and ``entropy_after`` in nats; McNemar's ``gained`` and
        ``lost`` top-1 with its exact ``mcnemar_p``; ``permutation_p`` of the mean
        one-vs-rest contrast against targets drawn at random.
    """
    from scipy.stats import binomtest

    shifts = np.array(units(rows, moved))
    spread = float(shifts.std())
    gained, lost = (
        _crossed(rows, *ends) for ends in (("clean", "after"), ("after", "clean"))
    )
    changed = gained + lost
    return {
        "n": len(shifts),
        "cohens_d": float(shifts.mean()) / spread if spread > 0 else None,
        "wilcoxon_p": signed_ranks(shifts.tolist()),
        "one_vs_rest": float(
            np.mean(units(rows, lambda row: float(_contrasts(row)[row["target"]])))
        ),
        "entropy_before": float(
            np.mean(units(rows, lambda row: _entropy(row["clean"])))
        ),
        "entropy_after": float(
            np.mean(units(rows, lambda row: _entropy(row["after"])))
        ),
        "gained": gained,
        "lost": lost,
        "mcnemar_p": float(binomtest(gained, changed).pvalue) if changed else None,
        "permutation_p": _permuted(rows),
    }


def signed_ranks(values: list[float]) -> float | None:
    """Return Wilcoxon's two-sided p of values around zero.

    Args:
        values: Independent ones.

    Returns:
        None for fewer than six, which cannot reach the usual level, and for zeros.
    """
    from scipy.stats import wilcoxon

    if len(values) < _FEWEST or not any(values):
        return None
    return float(wilcoxon(values).pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def _contrasts(row: Row) -> np.ndarray:
    """Change of every class' probability, less the mean change of the others."""
    change = np.subtract(row["after"]["probabilities"], row["clean"]["probabilities"])
    return change - (change.sum() - change) / (len(change) - 1)


def _entropy(behaviour: dict[str, Any]) -> float:
    p = np.clip(behaviour["probabilities"], 1e-300, 1.0)
    return float(-(p * np.log(p)).sum())


def _crossed(rows: list[Row], before: str, after: str) -> int:
    """Count targets that are predicted in one model and not in the other."""
    return sum(
        row[after]["top1"] == row["target"] != row[before]["top1"] for row in rows
    )


def _permuted(rows: list[Row]) -> float:
    """Share of draws of targets whose mean contrast is as large as the real one."""
    # targets are drawn among the wrong classes: the true one falls under any edit
    contrasts = np.stack([_contrasts(row) for row in rows])
    real = np.mean([c[row["target"]] for c, row in zip(contrasts, rows, strict=True)])
    generator = np.random.default_rng(0)
    others = generator.integers(contrasts.shape[1] - 1, size=(PERMUTATIONS, len(rows)))
    drawn = others + (others >= np.array([row["label"] for row in rows]))
    means = contrasts[np.arange(len(rows)), drawn].mean(1)
    return float((1 + (means >= real).sum()) / (1 + PERMUTATIONS))
