"""Do scores find training documents whose label was flipped?

A flipped document is learnt by heart, so its self-influence ``∇ℓᵢᵀ (H + λI)⁻¹ ∇ℓᵢ`` is
large: without it the model would get its label wrong. A person who inspects the
documents with the highest scores finds so many of the flipped ones.

Source: Koh & Liang (2017), arXiv 1703.04730, §5.4.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.attribution.scores import self_influence
from infusion.errors import InputError
from infusion.fidelity.context import BATCH_SIZE, Model
from infusion.records import Dataset
from infusion.seeding import stream
from infusion.tasks import batches, evaluating, losses

RATIOS = {
    "self_influence": 0.1,
    "self_influence_0.01": 0.01,
    "self_influence_1": 1.0,
}
INSPECTED = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Flipped:
    """Training documents, some of them with a wrong label.

    Attributes:
        data: The documents.
        positions: Which labels are wrong.
    """

    data: Dataset
    positions: Int[Tensor, " k"]


def flip_labels(data: Dataset, *, share: float, seed: int) -> Flipped:
    """Give some documents the label of another class, every other class as likely.

    Args:
        data: Documents with classes.
        share: Share of the labels to flip.
        seed: Root seed of the named stream.

    Returns:
        The documents and which of them were flipped.

    Raises:
        InputError: There are no classes, or the share leaves none or all as they were.
    """
    if data.num_classes is None or data.num_classes < 2:
        raise InputError(
            f"flipping needs two classes at least, got {data.num_classes}; use a data "
            "set with classes"
        )
    count = round(share * len(data))
    if not 1 <= count < len(data):
        raise InputError(
            f"flips must be a share of 1…{len(data) - 1} of {len(data)} labels, got "
            f"{share:g}; choose one between 0 and 1"
        )
    generator = stream(seed, "fidelity", "flips")
    positions = torch.randperm(len(data), generator=generator)[:count]
    shift = torch.randint(1, data.num_classes, (count,), generator=generator)
    labels = data.labels.clone()
    labels[positions] = (labels[positions] + shift) % data.num_classes
    return Flipped(replace(data, labels=labels), positions)


def suspicion(model: Model) -> dict[str, Float[Tensor, " n"]]:
    """Score every document by every method; the highest are to be inspected first.

    Args:
        model: Trained on documents some of which are flipped.

    Returns:
        Method to one score per document.
    """
    task, data = model.task, model.train
    generator = stream(model.seed, "fidelity", "random")
    with evaluating(task.model), torch.no_grad():
        loss = [
            losses(task, task.outputs(task.model, batch), batch)
            for _, batch in batches(task, data, BATCH_SIZE)
        ]
    return {
        "random": torch.rand(len(data), generator=generator),
        "loss": torch.cat(loss),
        "gradient_norm": model.gradient_norms,
        **{
            name: self_influence(task, data, model.curvature(), damping_ratio=ratio)
            for name, ratio in RATIOS.items()
        },
    }


def found(scores: Float[Tensor, " n"], flipped: Int[Tensor, " k"]) -> dict[str, int]:
    """Count the flipped documents among the highest scores.

    Args:
        scores: Of every document.
        flipped: Positions of the flipped ones.

    Returns:
        Share inspected, as text, to the number found.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    return {
        f"{share:g}": int(
            torch.isin(order[: round(share * len(scores))], flipped).sum()
        )
        for share in INSPECTED
    }
