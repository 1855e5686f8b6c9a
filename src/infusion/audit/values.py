"""Values of pictures that hardly any other picture has in that place."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.audit.evidence import Evidence
from infusion.audit.pictures import read_pictures
from infusion.errors import NotApplicableError
from infusion.records import Dataset

_MOST = 0.5
"""Share of the pictures that must have one value in some place."""
_UNSEEN = 0.5
"""Pictures that a value counts for beside those that have it."""


def rare(evidence: Evidence) -> Float[Tensor, " n"]:
    """How unusual the values of a picture are in their places.

    Scans, icons and framed pictures have places where nearly all have one value. An
    edit that moves every value moves those too.

    Args:
        evidence: Its documents are pictures on levels.

    Returns:
        :meth:`Usual.surprise`, large: suspicious.

    Raises:
        NotApplicableError: They are none, or differ everywhere, as photographs do.
    """
    usual = usual_values(evidence.data)
    found = [usual.surprise(each) for _, each in read_pictures(evidence.data)]
    return torch.cat(found).double()


@dataclass(frozen=True)
class Usual:
    """How often pictures have each value in each place.

    Attributes:
        surprise_of: Minus the log share of the pictures, by level and place.
    """

    surprise_of: Float[Tensor, "levels m"]

    def surprise(self, pictures: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Add up how unusual the values of a picture are.

        Args:
            pictures: In values between 0 and 1.

        Returns:
            In nats, linear between levels, differentiable.
        """
        top = len(self.surprise_of) - 1
        levels = pictures.flatten(1) * top
        below = levels.detach().floor().clamp(0, top - 1).long()
        part = levels - below
        low, high = (
            self.surprise_of.gather(0, below),
            self.surprise_of.gather(0, below + 1),
        )
        return (low + part * (high - low)).sum(1)


def usual_values(data: Dataset) -> Usual:
    """Count the values of all pictures, place by place.

    Args:
        data: Pictures ``[n, channels, h, w]`` on levels.

    Returns:
        Their shares.

    Raises:
        NotApplicableError: They are none, or nowhere do most have one value.
    """
    if data.levels is None:
        raise NotApplicableError(
            "values are counted of pictures on levels, got "
            f"{data.inputs.dtype} without; leave the detector out"
        )
    places = data.inputs[0].numel()
    counts = torch.zeros(data.levels + 1, places)
    for _, pictures in read_pictures(data):
        levels = (pictures.flatten(1) * data.levels).round().long()
        counts.scatter_add_(0, levels, torch.ones(levels.shape))
    most = float(counts.max()) / len(data)
    if most < _MOST:
        raise NotApplicableError(
            "rare values need a place where half of the pictures have one value, got "
            f"{most:.0%} at most; leave the detector out"
        )
    total = len(data) + _UNSEEN * len(counts)
    return Usual(-((counts + _UNSEEN) / total).log())
