"""Scores from what the model makes of documents: its last features, class by class.

Each takes features and classes alone, so they also serve features of another model.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.audit.neighbours import nearest
from infusion.errors import NotApplicableError

_DIMENSIONS = 10
"""Principal components that are clustered, as in the paper."""
_FEWEST = 3
_ENTRIES = 1 << 24
"""Cosines held at once."""


def spectral(
    features: Float[Tensor, "n d"], classes: list[Tensor]
) -> Float[Tensor, " n"]:
    """Squared projection onto the first principal direction of the document's class.

    Args:
        features: Of every document; centred class by class here.
        classes: Positions of each class's documents.

    Returns:
        Over its mean in the class; large: suspicious.

    Source:
        Tran, Li & Madry (2018), arXiv 1811.00636, Algorithm 1, without its share of
        poisons.
    """
    scores = torch.zeros(len(features), dtype=torch.float64)
    for own in classes:
        centred = features[own].double()
        centred = centred - centred.mean(0)
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        squares = (centred @ vectors[:, -1]).square()
        mean = squares.mean()
        scores[own] = squares / mean if float(mean) > 0 else squares
    return scores


def clustering(
    features: Float[Tensor, "n d"], classes: list[Tensor]
) -> Float[Tensor, " n"]:
    """How much nearer to the smaller of two clusters of its class, if that is small.

    Args:
        features: Of every document.
        classes: Positions of each class's documents.

    Returns:
        ``(d − d′) / max(d, d′)`` of the distances to the larger and the smaller
        cluster's centre, times how far the smaller is from half of the class: in
        −1 to 1, large: suspicious. 0 in classes of fewer than three documents.

    Source:
        Chen et al. (2018), arXiv 1811.03728, with PCA for ICA and a score for its rule.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    scores = torch.zeros(len(features), dtype=torch.float64)
    for own in classes:
        points = features[own].double().numpy()
        if len(own) < _FEWEST or not np.ptp(points, axis=0).any():
            continue
        kept = min(_DIMENSIONS, *points.shape)
        points = PCA(kept, svd_solver="full").fit_transform(points)
        order, ends = points[:, 0].argsort(), max(1, len(own) // 20)
        starts: Any = np.stack(
            [points[order[:ends]].mean(0), points[order[-ends:]].mean(0)]
        )
        found = KMeans(2, init=starts).fit(points)
        sizes = np.bincount(found.predict(points), minlength=2)
        small = int(sizes.argmin())
        far = found.transform(points)
        margin = (far[:, 1 - small] - far[:, small]) / far.max(1).clip(1e-12)
        scores[own] = torch.from_numpy(margin * (1 - 2 * sizes[small] / len(own)))
    return scores


def disagreement(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], *, k: int = 50
) -> Float[Tensor, " n"]:
    """Share of the nearest documents that have another label.

    Args:
        features: Of every document; compared by angle.
        labels: Their classes.
        k: Neighbours.

    Returns:
        In 0 to 1, large: suspicious.

    Raises:
        NotApplicableError: There are no more documents than neighbours.

    Source:
        Peri et al. (2020), arXiv 1909.13374, with a share for its majority.
    """
    check_enough(len(features), k)
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    near = nearest(unit, k)
    return (labels[near] != labels[:, None]).double().mean(1)


def check_enough(count: int, k: int) -> None:
    """Refuse fewer documents than a neighbourhood needs.

    Args:
        count: Documents.
        k: Neighbours of each.

    Raises:
        NotApplicableError: There are too few.
    """
    if count <= k:
        raise NotApplicableError(
            f"a document must have {k} neighbours, got {count} documents; take fewer "
            "neighbours, or leave the detector out"
        )


def isolation(
    residuals: Float[Tensor, "n c"], features: Float[Tensor, "n d"], *, k: int = 10
) -> Float[Tensor, " n"]:
    """How far a document's last-layer gradient points from the nearest ones.

    The gradient of the last layer is ``r hᵀ``, so the cosine of two is the product of
    those of ``r`` and of ``h``. Documents that pull where no other does are few.

    Args:
        residuals: ``r``: probabilities less the label's one-hot row.
        features: ``h``.
        k: Neighbours.

    Returns:
        One less the mean cosine with the k nearest, in 0 to 2, large: suspicious.

    Raises:
        NotApplicableError: There are no more documents than neighbours.

    Source:
        Yang et al. (2022), EPIC, arXiv 2210.09671; a score for its clusters of one.
    """
    check_enough(len(features), k)
    pulls = torch.nn.functional.normalize(residuals.float(), dim=1)
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    scores = torch.zeros(len(unit), dtype=torch.float64)
    for part in torch.arange(len(unit)).split(max(1, _ENTRIES // len(unit))):
        cosines = (pulls[part] @ pulls.T) * (unit[part] @ unit.T)
        cosines[torch.arange(len(part)), part] = -torch.inf
        scores[part] = 1 - cosines.topk(k, dim=1).values.double().mean(1)
    return scores
