"""How well scores find rows that somebody knows to be edited."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from infusion.errors import InputError

SHARES = (0.002, 0.01, 0.05, 0.1)
"""Shares of the documents that an inspector looks at, most suspicious first."""


def judged(scores: Float[Tensor, " n"], edited: Bool[Tensor, " n"]) -> dict[str, Any]:
    """Compare a ranking with the truth.

    Args:
        scores: Of every document, large: suspicious.
        edited: Which were.

    Returns:
        ``auroc``, ``average_precision``, and ``recall`` by share inspected. Documents
        of one score come in an order that nobody knows: ``recall`` is its mean over
        those orders.

    Raises:
        InputError: No document was edited, or all were.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    count = int(edited.sum())
    if not 0 < count < len(edited):
        raise InputError(
            "to judge scores some documents must be edited and others not, got "
            f"{count} of {len(edited)}; give the truth of a case"
        )
    values, truth = scores.double().numpy(), edited.numpy()
    return {
        "auroc": float(roc_auc_score(truth, values)),
        "average_precision": float(average_precision_score(truth, values)),
        "recall": {
            str(share): found_in(scores, edited, share) / count for share in SHARES
        },
    }


def found_in(
    scores: Float[Tensor, " n"], edited: Bool[Tensor, " n"], share: float
) -> float:
    """Count the edited documents among the most suspicious ones.

    Args:
        scores: Of every document, large: suspicious.
        edited: Which were.
        share: Of the documents, rounded up to a whole number of them.

    Returns:
        Their number, its mean over the orders of equal scores.
    """
    looked = int(np.ceil(share * len(scores) - 1e-9))
    last = scores.double().sort(descending=True).values[looked - 1]
    above, level = scores.double() > last, scores.double() == last
    left = looked - int(above.sum())
    return int(edited[above].sum()) + left * float(edited[level].double().mean())


def curve(
    scores: Float[Tensor, " n"], edited: Bool[Tensor, " n"]
) -> list[tuple[float, float]]:
    """Trace precision against recall, at the places where recall changes.

    Args:
        scores: Of every document, large: suspicious.
        edited: Which were.

    Returns:
        Recall and precision, from few documents inspected to many; equal scores are
        inspected together.
    """
    from sklearn.metrics import precision_recall_curve

    found = precision_recall_curve(edited.numpy(), scores.double().numpy())
    precision, recall = found[0][:-1][::-1], found[1][:-1][::-1]
    kept = [i for i in range(len(recall)) if i == 0 or recall[i] != recall[i - 1]]
    return [(float(recall[i]), float(precision[i])) for i in kept]
