"""The linear datamodelling score: do summed scores rank retrained models?

    predicted_S = Σ_{i ∈ S} scoreᵢ          measured_S = f(model trained on S)
    LDS of a probe = Spearman's correlation of the two over random subsets ``S``

A score is the influence of a document on the measurement ``f``, positive where the
document supports it, so a good method has a positive LDS; 1 is the best.

Source: Ilyas et al. (2022), arXiv 2202.00622; Park et al. (2023), "TRAK", arXiv
2303.14186, definition 2.3.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from infusion.errors import InputError
from infusion.intervals import rank_correlation


def group_predictions(
    scores: Float[Tensor, "m n"], members: Bool[Tensor, "s n"]
) -> Float[Tensor, "s m"]:
    """Predict every probe's measurement on every subset, up to a constant.

    Args:
        scores: Of every document on every probe.
        members: Which document is in which subset.

    Returns:
        Sums over the documents of each subset, in float64.
    """
    return members.double() @ scores.double().T


def correlations(
    predicted: Float[Tensor, "s m"], measured: Float[Tensor, "s m"]
) -> list[float]:
    """Correlate two rankings of the subsets, probe by probe.

    Args:
        predicted: One column per probe.
        measured: Its partner.

    Returns:
        Spearman's correlation of each probe.

    Raises:
        InputError: There are fewer than three subsets, or a column is constant.
    """
    found = [
        rank_correlation(predicted[:, probe].tolist(), measured[:, probe].tolist())
        for probe in range(measured.shape[1])
    ]
    if None in found:
        raise InputError(
            "a rank correlation needs at least three subsets and values that differ "
            f"between them, got {len(measured)} subsets and a constant column for "
            f"probe {found.index(None)}; ask for more subsets, and check the scores"
        )
    return [value for value in found if value is not None]


def lds(
    scores: Float[Tensor, "m n"],
    members: Bool[Tensor, "s n"],
    measured: Float[Tensor, "s m"],
) -> list[float]:
    """Linear datamodelling score of every probe.

    Args:
        scores: Of every document on every probe; positive supports the measurement.
        members: Which document is in which subset.
        measured: Measurement of every probe after training on each subset.

    Returns:
        One score per probe, between −1 and 1.

    Raises:
        InputError: There are fewer than three subsets, or a column is constant.
    """
    return correlations(group_predictions(scores, members), measured)
