"""Scores of several detectors on one scale, so that they can be added and cut."""

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.audit.detectors import DETECTORS, IN_NATS, TOLD, detect
from infusion.audit.evidence import Evidence
from infusion.errors import NotApplicableError

_ONE_SIDE = 0.8413
"""Share of a normal distribution below one standard deviation above its mean."""


def standardised(scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Count how far scores lie above most others.

    The middle two thirds of the documents set the scale, so that a few edited ones do
    not; where they agree in one value, all documents do.

    Args:
        scores: On any scale.

    Returns:
        ``asinh z`` with ``z`` the distance from the median over half the distance
        between the 16th and the 84th percentile: about ``z`` near 0, ``log 2z`` far
        out. Zero where all scores are equal.
    """
    values = scores.double()
    median = values.median()
    low, high = values.quantile(1 - _ONE_SIDE), values.quantile(_ONE_SIDE)
    scale = (high - low) / 2 if high > low else values.std(correction=0)
    return (
        torch.zeros_like(values) if scale == 0 else ((values - median) / scale).asinh()
    )


def suspicions(
    evidence: Evidence, *, report: int = 0
) -> tuple[dict[str, Float[Tensor, " n"]], dict[str, str]]:
    """Score every document by every detector that has something to read.

    Args:
        evidence: What the auditor holds.
        report: Which of its reports.

    Returns:
        Standardised scores by detector (where a score is a surprise in nats, its
        ``asinh``), and why the other detectors have none.

    Raises:
        InputError: A reported picture does not fit the documents.
        DivergedError: A score is not finite.
    """
    found: dict[str, Tensor] = {}
    without: dict[str, str] = {}
    for name in DETECTORS:
        try:
            scores = detect(name, evidence, report=report)
        except NotApplicableError as error:
            without[name] = str(error)
            continue
        found[name] = scores.asinh() if name in IN_NATS else standardised(scores)
    return found, without


def is_told(names: tuple[str, ...]) -> bool:
    """Tell whether a combination needs a reported behaviour.

    Args:
        names: Of its detectors.

    Returns:
        Whether one of them does.
    """
    return any(name in TOLD for name in names)


def combined(
    found: dict[str, Float[Tensor, " n"]], names: tuple[str, ...]
) -> Float[Tensor, " n"]:
    """Add standardised scores.

    Args:
        found: By detector.
        names: Which.

    Returns:
        Their sum, large: suspicious.
    """
    return torch.stack([found[name] for name in names]).sum(0)
