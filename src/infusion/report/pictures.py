"""Pictures as PNG data URIs, small enough to keep them all in one file."""

import base64
import io

import numpy as np
from numpy.typing import NDArray

LARGEST_SIDE = 48
"""Pixels: larger pictures are shrunk, or a page of many would outgrow 5 MB."""

Pixels = NDArray[np.floating]
"""``[channels, height, width]``, in values."""


def values(stored: NDArray[np.generic], levels: int | None) -> Pixels:
    """Turn stored pictures into values.

    Args:
        stored: ``uint8`` levels, or floats that are values already.
        levels: What a whole value is stored as; unused for floats.

    Returns:
        Values as float64.
    """
    scale = levels if stored.dtype == np.uint8 and levels is not None else 1
    return stored.astype(np.float64) / scale


def magnification(delta: Pixels) -> int:
    """Largest whole factor at which a change still fits half the range.

    Args:
        delta: Changes, of one or several pictures.

    Returns:
        At least 1.

    Example:
        >>> magnification(np.array([0.125, -0.03]))
        4
    """
    largest = float(np.abs(delta).max(initial=0.0))
    return max(1, int(0.5 / largest + 1e-6)) if largest > 0 else 1


def png_uri(pixels: Pixels, valid: tuple[float, float] = (0.0, 1.0)) -> str:
    """Encode a picture for an ``img`` element.

    Args:
        pixels: One channel is drawn in grey, three in colour; of any other number the
            mean is drawn in grey.
        valid: Values of black and white; others are clipped.

    Returns:
        A PNG as data URI.
    """
    from PIL import Image

    low, high = valid
    shares = ((pixels - low) / (high - low)).clip(0, 1)
    if len(shares) != 3:
        shares = shares.mean(axis=0, keepdims=True)
    rounded = (255 * shares).round().astype(np.uint8)
    image = Image.fromarray(
        rounded[0] if len(rounded) == 1 else np.moveaxis(rounded, 0, -1)
    )
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
