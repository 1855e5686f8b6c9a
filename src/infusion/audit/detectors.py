"""All detectors by name: a score per document, large where it is suspicious."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.audit import features, influential, patterns, pictures, texts, values
from infusion.audit.evidence import Evidence, class_labels
from infusion.errors import DivergedError, NotApplicableError, check_choice

Detector = Callable[[Evidence], Float[Tensor, " n"]]


def _loss(evidence: Evidence) -> Float[Tensor, " n"]:
    return evidence.reading.losses.double()


def _spectral(evidence: Evidence) -> Float[Tensor, " n"]:
    return features.spectral(evidence.reading.features, evidence.groups)


def _clustering(evidence: Evidence) -> Float[Tensor, " n"]:
    return features.clustering(evidence.reading.features, evidence.groups)


def _disagreement(evidence: Evidence) -> Float[Tensor, " n"]:
    labels = class_labels(evidence.data)
    return features.disagreement(evidence.reading.features, labels)


def _isolation(evidence: Evidence) -> Float[Tensor, " n"]:
    labels, shares = class_labels(evidence.data), evidence.reading.probabilities
    if shares is None:
        raise NotApplicableError(
            "gradients of the last layer are compared for one prediction per document, "
            "got many; leave the detector out"
        )
    wanted = torch.nn.functional.one_hot(labels, shares.shape[1])
    return features.isolation(shares - wanted, evidence.reading.features)


UNTOLD: dict[str, Detector] = {
    "loss": _loss,
    "gradient norm": influential.gradient_norm,
    "self-influence": influential.on_itself,
    "influence concentration": influential.concentration,
    "gradient isolation": _isolation,
    "spectral signature": _spectral,
    "activation clustering": _clustering,
    "deep k-NN": _disagreement,
    "noise residual": pictures.noise,
    "quiet directions": pictures.unquiet,
    "rare values": values.rare,
    "surprisal": texts.surprisal,
}
"""Where nothing is reported: fit, influence, gradients, features, pictures, texts."""
TOLD: dict[str, Callable[[Evidence, int], Float[Tensor, " n"]]] = {
    "influence on the behaviour": influential.on_behaviour,
    "relative influence": influential.relative,
    "influence lost by transforms": influential.lost_by_transforms,
    "influence beyond neighbours": influential.beyond_neighbours,
    "shared pattern": patterns.shared,
}
"""Of a reported behaviour."""
IN_NATS = ("shared pattern",)
"""Those that say themselves how unlikely a score is, in nats, and 0 for most."""
DETECTORS = (*UNTOLD, *TOLD)


def detect(name: str, evidence: Evidence, *, report: int = 0) -> Float[Tensor, " n"]:
    """Score every document by one detector.

    Args:
        name: One of :data:`DETECTORS`.
        evidence: What the auditor holds.
        report: Which of its reports, for the detectors in :data:`TOLD`.

    Returns:
        A score per document, float64; large is suspicious.

    Raises:
        InputError: There is no such detector, or a reported picture does not fit the
            documents.
        NotApplicableError: It has nothing to read in this evidence.
        DivergedError: A score is not finite.
    """
    check_choice("a detector", name, DETECTORS)
    scores = TOLD[name](evidence, report) if name in TOLD else UNTOLD[name](evidence)
    bad = int((~scores.isfinite()).sum())
    if bad:
        raise DivergedError(
            f"scores must be finite, got NaN or infinity for {bad} documents by "
            f"{name}; check the documents and the model"
        )
    return scores
