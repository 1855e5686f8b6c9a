"""Scores from influence: on a reported behaviour, on itself, on other documents."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.attribution.scores import self_influence
from infusion.audit.evidence import DAMPING_RATIO, Evidence
from infusion.audit.features import check_enough
from infusion.audit.neighbours import nearest
from infusion.curvature.fit import fit_curvature
from infusion.errors import NotApplicableError
from infusion.records import Measurement
from infusion.seeding import stream

REFERENCES = 32
"""Documents whose losses stand for all that a document could act on."""


def gradient_norm(evidence: Evidence) -> Float[Tensor, " n"]:
    """Norm of the document's gradient.

    Args:
        evidence: The parameters are those of its curvature, or all that a curvature
            would cover.

    Returns:
        In nats per unit of parameter, large: suspicious.
    """
    task, data, size = evidence.task, evidence.data, evidence.batch_size
    skip = tuple(evidence.curvature.skipped) if evidence.curvature else ()
    plain = fit_curvature(task, data, kind="identity", skip=skip, batch_size=size)
    halves = self_influence(task, data, plain, damping=1.0, batch_size=size)  # I + I
    return (2 * halves.double() * len(data)).clamp_min(0).sqrt()


def on_itself(evidence: Evidence) -> Float[Tensor, " n"]:
    """Influence of the document on its own negative loss.

    Args:
        evidence: With a curvature.

    Returns:
        Self-influence, large: suspicious.

    Source:
        Koh & Liang (2017), arXiv 1703.04730, §5.4.
    """
    return self_influence(
        evidence.task,
        evidence.data,
        evidence.fitted,
        damping_ratio=DAMPING_RATIO,
        batch_size=evidence.batch_size,
    ).double()


def concentration(evidence: Evidence, *, seed: int = 0) -> Float[Tensor, " n"]:
    """How much of a document's influence on others falls on the one it moves most.

    Args:
        evidence: With a curvature.
        seed: Of the documents that stand for the others.

    Returns:
        Largest squared influence on a reference over their mean, large: suspicious.

    Raises:
        NotApplicableError: There are fewer documents than references.
    """
    check_enough(len(evidence.data), REFERENCES)
    generator = stream(seed, "audit", "references")
    places = torch.randperm(len(evidence.data), generator=generator)[:REFERENCES]
    rows = evidence.influence_on([_fit_to(evidence, p) for p in places.split(1)])
    squares = rows.double().square()
    squares[torch.arange(REFERENCES), places] = 0.0  # its own is self-influence
    return squares.amax(0) / squares.mean(0).clamp_min(torch.finfo(torch.float64).tiny)


def _fit_to(evidence: Evidence, place: Int[Tensor, " 1"]) -> Measurement:
    """Measure how well the model fits one document."""
    task = evidence.task

    def fit(model: nn.Module) -> Tensor:
        like = next(model.parameters()).detach()
        batch = evidence.data.batch(place, like=like)
        return -task.loss(task.outputs(model, batch), batch).sum()

    return fit


def on_behaviour(evidence: Evidence) -> Float[Tensor, " n"]:
    """Influence of the document on the reported behaviour.

    Args:
        evidence: With a curvature and a reported behaviour.

    Returns:
        Influence, large: the document supports the behaviour, suspicious.
    """
    return evidence.influence[0].double()


def lost_by_transforms(evidence: Evidence) -> Float[Tensor, " n"]:
    """Influence on the reported behaviour that changed copies of the input do not show.

    Args:
        evidence: With a curvature, a reported behaviour and transformed copies.

    Returns:
        Influence less its mean over the copies, each over its root mean square, large:
        suspicious.

    Raises:
        NotApplicableError: There are no copies.

    Source:
        Li et al. (2024), Delta-Influence, arXiv 2411.13731, with a mean for its counts.
    """
    if not evidence.transformed:
        raise NotApplicableError(
            "a change under transforms needs changed copies of the affected input, got "
            "none; give some"
        )
    rows = evidence.influence.double()
    scales = rows.square().mean(1, keepdim=True).sqrt()
    rows = rows / scales.clamp_min(torch.finfo(torch.float64).tiny)
    return rows[0] - rows[1:].mean(0)


def beyond_neighbours(evidence: Evidence, *, k: int = 30) -> Float[Tensor, " n"]:
    """Influence on the reported behaviour beyond that of the most similar documents.

    A document that was made for the behaviour supports it more than documents of its
    class that the model sees alike.

    Args:
        evidence: With a curvature and a reported behaviour.
        k: Neighbours, of the document's class where there are classes.

    Returns:
        Influence less the neighbours' median, large: suspicious.

    Raises:
        NotApplicableError: A class has no more documents than neighbours.
    """
    own = evidence.influence[0].double()
    among = [torch.arange(len(own))]
    if evidence.data.num_classes is not None and evidence.data.labels.ndim == 1:
        among = evidence.classes
    check_enough(min(map(len, among)), k)
    unit = torch.nn.functional.normalize(evidence.reading.features.float(), dim=1)
    return own - own[nearest(unit, k, among=among)].median(1).values
