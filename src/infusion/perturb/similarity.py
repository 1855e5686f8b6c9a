"""How alike two pictures look: peak signal-to-noise ratio and structural similarity."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_SIGMA, _WINDOW = 1.5, 11
_STABLE = (0.01, 0.03)


def psnr(
    one: Float[Tensor, "k ch h w"], other: Float[Tensor, "k ch h w"], *, span: float
) -> Float[Tensor, " k"]:
    """Peak signal-to-noise ratio, ``10 log₁₀(span² / mean squared difference)``.

    Args:
        one: Pictures as values.
        other: Pictures of the same shape.
        span: Largest value less the smallest one that is valid.

    Returns:
        In decibels; infinite for equal pictures.
    """
    error = (one.double() - other.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(span**2 / error)


def ssim(
    one: Float[Tensor, "k ch h w"], other: Float[Tensor, "k ch h w"], *, span: float
) -> Float[Tensor, " k"]:
    """Mean structural similarity, channels averaged.

    The window is a Gaussian of 11 pixels (fewer on smaller pictures) with standard
    deviation 1.5; only windows inside the picture count.

    Args:
        one: Pictures as values.
        other: Pictures of the same shape.
        span: Largest value less the smallest one that is valid.

    Returns:
        At most 1, for equal pictures.

    Source:
        Wang et al. (2004), "Image quality assessment", eq. 13, K = (0.01, 0.03).
    """
    channels, size = one.shape[1], min(_WINDOW, one.shape[2], one.shape[3])
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    row = torch.exp(-places.square() / (2 * _SIGMA**2))
    column = (row / row.sum()).view(1, 1, size, 1).expand(channels, 1, size, 1)

    def smooth(x: Tensor) -> Tensor:  # down, then across: a Gaussian is a product
        down = F.conv2d(x, column, groups=channels)
        return F.conv2d(down, column.mT, groups=channels)

    a, b = one.double(), other.double()
    mean_a, mean_b = smooth(a), smooth(b)
    var_a = smooth(a * a) - mean_a.square()
    var_b = smooth(b * b) - mean_b.square()
    covariance = smooth(a * b) - mean_a * mean_b
    low, high = ((k * span) ** 2 for k in _STABLE)
    alike = (2 * mean_a * mean_b + low) * (2 * covariance + high)
    scale = (mean_a.square() + mean_b.square() + low) * (var_a + var_b + high)
    return (alike / scale).flatten(1).mean(1)
