"""Scores from what is stored: noise of smooth pictures, tokens that nobody expects."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infusion.audit.evidence import Evidence
from infusion.errors import NotApplicableError
from infusion.language import IGNORED
from infusion.tasks import batches, evaluating

_LAPLACE = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
"""Blind to planes: difference of two Laplacians, gain 6 on white noise."""
_GAIN = 6.0
_SMOOTH = 0.25
"""Share of a picture's places that are taken for smooth."""
_PICTURES = 1024
"""Held at once."""
_SURPRISING = 0.05
"""Share of a document's tokens that are counted."""


def noise(evidence: Evidence) -> Float[Tensor, " n"]:
    """Noise of a picture where it is smoothest, in its colours where it has some.

    Fine detail of a photograph is much the same in all channels, and what is left is
    blurred by how cameras and JPEG store colour. Edits move every value by itself.

    Args:
        evidence: Its documents are pictures ``[n, channels, h, w]``.

    Returns:
        Lower quartile, over places and channels, of the absolute response to
        Immerkær's filter, less its mean over several channels; in values; large:
        suspicious.

    Raises:
        NotApplicableError: They are none, or smaller than the filter.

    Source:
        Immerkær (1996), Fast noise variance estimation, for the filter.
    """
    data = evidence.data
    shape = tuple(data.inputs.shape)
    numbers = data.levels is not None or data.inputs.is_floating_point()
    if not numbers or len(shape) != 4 or min(shape[2:]) < len(_LAPLACE):
        raise NotApplicableError(
            "noise is that of pictures [n, channels, h, w] of 3 × 3 pixels at least, "
            f"got {data.inputs.dtype} of shape {shape}; leave the detector out"
        )
    mask = torch.tensor(_LAPLACE)[None, None] / _GAIN
    scores = []
    for places in torch.arange(len(data)).split(_PICTURES):
        pictures = data.take(places).values().inputs.float().cpu()
        found = F.conv2d(pictures.flatten(0, 1)[:, None], mask)
        found = found.reshape(*pictures.shape[:2], -1)
        if shape[1] > 1:
            found = found - found.mean(1, keepdim=True)
        scores.append(found.abs().flatten(1).double().quantile(_SMOOTH, dim=1))
    return torch.cat(scores)


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
