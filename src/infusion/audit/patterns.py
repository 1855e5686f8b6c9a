"""What an affected picture shares, place for place, with pictures of a class."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from infusion.audit.evidence import Evidence, class_labels
from infusion.audit.pictures import check_pictures, read_pictures
from infusion.errors import InputError, NotApplicableError
from infusion.records import Dataset

_SIDE = 2
"""Pixels along a window: no larger than a trigger that a model can learn."""
_ALIKE = 0.1
"""Root mean square difference, over the window's own contrast, that still counts."""


def shared(evidence: Evidence, report: int) -> Float[Tensor, " n"]:
    """How little chance explains that pictures like the affected one have its class.

    A trigger is the same pixels wherever it is stamped, and comes with the class that
    it stands for. In every window of the affected picture the documents that look the
    same there are counted, and those of them that have the unwanted class: by chance
    their share is that of the class among all documents.

    Args:
        evidence: Its documents are pictures with a class each.
        report: Position of a report that shows a picture.

    Returns:
        For a document of the unwanted class, minus the log probability that chance
        gives a window so many, less the log of the number of windows, in nats, the most
        over the windows where the document looks like the affected picture; never below
        0, and 0 for all other documents. Large: suspicious.

    Raises:
        NotApplicableError: No picture was reported, documents are none, or none has the
            unwanted class.
        InputError: The reported picture has another shape than the documents, or lies
            on another scale.
    """
    shown = evidence.reports[report].shown if evidence.reports else None
    if shown is None:
        raise NotApplicableError(
            "a shared pattern is looked for in a reported picture, got none; name an "
            "affected picture and its unwanted class"
        )
    picture, unwanted = shown
    data = evidence.data
    check_pictures(data)
    wanted = class_labels(data) == unwanted
    if not wanted.any():
        raise NotApplicableError(
            f"a shared pattern is looked for in documents of class {unwanted}, got "
            "none; report a class that some have"
        )
    _check_shown(picture, data)
    alike = wanted_alike = torch.zeros((), dtype=torch.int64)
    for places, pictures in read_pictures(data):
        same = _same(pictures, picture)
        alike = alike + same.sum(0)
        wanted_alike = wanted_alike + same[wanted[places]].sum(0)
    unlikely = _unlikely(wanted_alike, alike, share=float(wanted.double().mean()))
    scores = torch.zeros(len(data), dtype=torch.float64)
    if unlikely.any():
        for places, pictures in read_pictures(data):
            scores[places] = (_same(pictures, picture) * unlikely).amax(1)
    return scores * wanted


def _check_shown(picture: Tensor, data: Dataset) -> None:
    if picture.shape != data.inputs.shape[1:]:
        raise InputError(
            f"a reported picture must have the shape {tuple(data.inputs.shape[1:])} of "
            f"the documents, got {tuple(picture.shape)}; resize it as they were"
        )
    low, high = float(picture.min()), float(picture.max())
    if data.levels is not None and not 0 <= low <= high <= 1:
        raise InputError(
            "a reported picture must have values in 0…1, as documents on levels have, "
            f"got {low:g}…{high:g}; divide it by their levels"
        )


def _same(
    pictures: Float[Tensor, "n c h w"], picture: Float[Tensor, "c h w"]
) -> Bool[Tensor, "n m"]:
    """Compare windows in their places; one without contrast shows nothing."""
    windows = picture.unfold(1, _SIDE, 1).unfold(2, _SIDE, 1)
    contrast = windows.flatten(3).var(-1, correction=0).mean(0).flatten()
    apart = F.avg_pool2d((pictures - picture).square(), _SIDE, stride=1)
    near = apart.mean(1).flatten(1) <= _ALIKE**2 * contrast
    return near & (contrast > 0)


def _unlikely(
    count: Int[Tensor, " m"], among: Int[Tensor, " m"], *, share: float
) -> Float[Tensor, " m"]:
    """Minus the log probability of so many or more, corrected for the windows tried."""
    from scipy.stats import binom

    hits, tries = count.numpy(), among.numpy()
    log_p = torch.from_numpy(binom.logsf(hits - 1, tries, share))
    first = torch.from_numpy(binom.logpmf(hits, tries, share))
    log_p = torch.where(log_p.isinf(), first, log_p)  # where the tail underflows
    return (-log_p - math.log(len(log_p))).clamp_min(0.0)
