"""Scores from tokens that nobody expects."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from infusion.audit.evidence import Evidence
from infusion.errors import NotApplicableError
from infusion.language import IGNORED
from infusion.tasks import batches, evaluating

_COUNTED = 0.05
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
    ids = data.levels is None and not data.inputs.is_floating_point()
    if not ids or data.labels.ndim != 2 or data.labels.dtype != torch.int64:
        raise NotApplicableError(
            f"surprisal is that of tokens with a label each, got {data.inputs.dtype} "
            f"inputs and {data.labels.dtype} labels of shape "
            f"{tuple(data.labels.shape)}; leave the detector out"
        )
    if not bool((data.labels != IGNORED).any(1).all()):
        raise NotApplicableError(
            "surprisal needs a label that counts in every document, got some without; "
            "leave those documents out"
        )
    with evaluating(task.model), torch.no_grad():
        scores = [
            least_expected(task.outputs(task.model, batch), batch.labels)
            for _, batch in batches(task, data, evidence.batch_size)
        ]
    return torch.cat(scores).double().cpu()


def least_expected(
    logits: Float[Tensor, "b t v"], labels: Int[Tensor, "b t"]
) -> Float[Tensor, " b"]:
    """Mean surprisal of the tokens of each document that a model expects least.

    Args:
        logits: Of the model, for every position.
        labels: The next tokens, or ``IGNORED``; one at least in each document.

    Returns:
        In nats, over a twentieth of a document's tokens, one at least.
    """
    each = F.cross_entropy(
        logits.mT, labels, reduction="none", ignore_index=IGNORED
    ).masked_fill(labels == IGNORED, -math.inf)
    count = (_COUNTED * (labels != IGNORED).sum(1)).round().clamp_min(1)
    counted = torch.arange(labels.shape[1], device=labels.device) < count[:, None]
    highest = each.sort(1, descending=True).values.where(counted, 0)
    return highest.sum(1) / count
