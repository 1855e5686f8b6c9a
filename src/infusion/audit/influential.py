"""Scores from influence: on a reported behaviour, on itself, on other documents."""

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.audit.evidence import Evidence
from infusion.audit.features import check_enough
from infusion.audit.neighbours import nearest
from infusion.errors import NotApplicableError


def gradient_norm(evidence: Evidence) -> Float[Tensor, " n"]:
    """Norm of the document's gradient.

    Args:
        evidence: With a curvature, which names the parameters.

    Returns:
        In nats per unit of parameter, large: suspicious.
    """
    return evidence.scores.gradient_norm.double()


def on_itself(evidence: Evidence) -> Float[Tensor, " n"]:
    """Influence of the document on its own negative loss.

    Args:
        evidence: With a curvature.

    Returns:
        Self-influence, large: suspicious.

    Source:
        Koh & Liang (2017), arXiv 1703.04730, §5.4.
    """
    return evidence.scores.self_influence.double()


def concentration(evidence: Evidence) -> Float[Tensor, " n"]:
    """How much of a document's influence on others falls on the one it moves most.

    Args:
        evidence: With a curvature.

    Returns:
        Largest squared influence on a reference over their mean, large: suspicious.

    Raises:
        NotApplicableError: There are no more documents than references.
    """
    places = evidence.references
    check_enough(len(evidence.data), len(places))
    squares = evidence.scores.influence[-len(places) :].double().square()
    squares[torch.arange(len(places)), places] = 0.0  # its own is self-influence
    return squares.amax(0) / squares.mean(0).clamp_min(torch.finfo(torch.float64).tiny)


def on_behaviour(evidence: Evidence, report: int) -> Float[Tensor, " n"]:
    """Influence of the document on the reported behaviour.

    Args:
        evidence: With a curvature and a reported behaviour.
        report: Position of the report.

    Returns:
        Influence, large: the document supports the behaviour, suspicious.
    """
    return evidence.influence(report)[0].double()


def relative(evidence: Evidence, report: int) -> Float[Tensor, " n"]:
    """Influence of the document on the reported behaviour, for its own size.

    A document that the model fits well has hardly a gradient left, whatever it teaches:
    a learned backdoor is such a one. What is left is which way it points.

    Args:
        evidence: With a curvature and a reported behaviour.
        report: Position of the report.

    Returns:
        Influence over the root of self-influence, large: suspicious; 0 for a document
        without a gradient.

    Source:
        Barshan et al. (2020), RelatIF, arXiv 2003.11630, eq. 7.
    """
    own = evidence.scores.self_influence.double().sqrt()
    found = evidence.influence(report)[0].double()
    return torch.where(own > 0, found / own, 0.0)


def lost_by_transforms(evidence: Evidence, report: int) -> Float[Tensor, " n"]:
    """Influence on the reported behaviour that changed copies of the input do not show.

    Args:
        evidence: With a curvature, a reported behaviour and transformed copies.
        report: Position of the report.

    Returns:
        Influence less its mean over the copies, each over its root mean square, large:
        suspicious.

    Raises:
        NotApplicableError: There are no copies.

    Source:
        Li et al. (2024), Delta-Influence, arXiv 2411.13731, with a mean for its counts.
    """
    rows = evidence.influence(report).double()
    if len(rows) == 1:
        raise NotApplicableError(
            "a change under transforms needs changed copies of the affected input, got "
            "none; give some"
        )
    scales = rows.square().mean(1, keepdim=True).sqrt()
    rows = rows / scales.clamp_min(torch.finfo(torch.float64).tiny)
    return rows[0] - rows[1:].mean(0)


def beyond_neighbours(
    evidence: Evidence, report: int, *, k: int = 30
) -> Float[Tensor, " n"]:
    """Influence on the reported behaviour beyond that of the most similar documents.

    A document that was made for the behaviour supports it more than documents of its
    class that the model sees alike.

    Args:
        evidence: With a curvature and a reported behaviour.
        report: Position of the report.
        k: Neighbours, of the document's class where there are classes.

    Returns:
        Influence less the neighbours' median, large: suspicious.

    Raises:
        NotApplicableError: A class has no more documents than neighbours.
    """
    own = evidence.influence(report)[0].double()
    among = evidence.groups
    check_enough(min(map(len, among)), k)
    unit = torch.nn.functional.normalize(evidence.reading.features.float(), dim=1)
    return own - own[nearest(unit, k, among=among)].median(1).values
