"""Changed copies of an affected picture: would the behaviour be wanted of them too?"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_DARKER = 0.8


def changed_copies(picture: Float[Tensor, "c h w"]) -> list[Float[Tensor, "c h w"]]:
    """Change a picture so that what it shows stays and fine detail does not.

    Args:
        picture: In values.

    Returns:
        Mirrored, moved by an eighth to the right and down (zeros follow), darker, and
        blurred over 3 × 3 pixels.
    """
    far = max(picture.shape[-1] // 8, 1), max(picture.shape[-2] // 8, 1)
    return [
        picture.flip(-1),
        F.pad(picture, (far[0], 0))[..., : picture.shape[-1]],
        F.pad(picture, (0, 0, far[1], 0))[..., : picture.shape[-2], :],
        picture * _DARKER,
        _blurred(picture),
    ]


def _blurred(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    around = F.pad(picture[None], (1, 1, 1, 1), mode="replicate")
    mean = torch.full((picture.shape[0], 1, 3, 3), 1 / 9).to(picture)
    return F.conv2d(around, mean, groups=picture.shape[0])[0]
