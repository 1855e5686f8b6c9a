"""Scores from tokens that nobody expects."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infusion.audit.evidence import Evidence
from infusion.errors import NotApplicableError
from infusion.language import IGNORED
from infusion.tasks import batches, evaluating

_SURPRISING = 0.05
"""Share of a document's tokens that are counted."""


def surprisal(evidence: Evidence) -> Float[Tensor, " n"]:
    """Mean surprisal of the tokens of a document that the model expects least.

    Args:
        evidence: Its model gives logits per position, its labels are the next tokens.

    Returns:
        In nats, over a twentieth of the document's tokens, one at least; large:
        suspicious.

    Raises:
        NotApplicableError: Documents are not of tokens.
    """
    data, task = evidence.data, evidence.task
    if (
        data.levels is not None
        or data.inputs.is_floating_point()
        or data.labels.ndim != 2
    ):
        raise NotApplicableError(
            "surprisal is that of tokens with a label each, got labels of shape "
            f"{tuple(data.labels.shape)}; leave the detector out"
        )
    scores = []
    with evaluating(task.model), torch.no_grad():
        for _, batch in batches(task, data, evidence.batch_size):
            outputs = task.outputs(task.model, batch)
            each = F.cross_entropy(
                outputs.transpose(1, 2),
                batch.labels,
                reduction="none",
                ignore_index=IGNORED,
            )
            scores += [
                _highest(row[kept])
                for row, kept in zip(each, batch.labels != IGNORED, strict=True)
            ]
    return torch.stack(scores).double().cpu()


def _highest(tokens: Float[Tensor, " t"]) -> Float[Tensor, ""]:
    count = max(1, round(_SURPRISING * len(tokens)))
    return tokens.topk(count).values.mean()
