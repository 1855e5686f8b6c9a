"""Named random streams, and uniforms that belong to a document.

A stream is named after its use (``stream(seed, "train", "order", 3)``), so adding a
use never shifts the numbers another one sees. ``uniforms`` depends on the seed and the
document alone: batch size, order and number of processes cannot change it.
"""

import hashlib

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # Steele et al. (2014), SplitMix64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on the root seed and the name of its use.

    Args:
        seed: Root seed of a run.
        names: What the numbers are for, from general to particular.

    Returns:
        An integer in ``[0, 2⁶³)``.

    Example:
        >>> derive(0, "train", "order") == derive(0, "train", "init")
        False
    """
    key = "/".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """Return an independent generator for one named use.

    Args:
        seed: Root seed of a run.
        names: What the numbers are for, from general to particular.

    Returns:
        A CPU generator.
    """
    return torch.Generator().manual_seed(derive(seed, *names))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def uniforms(
    seed: int, documents: Int[Tensor, " b"], shape: tuple[int, ...]
) -> Float[Tensor, "b ..."]:
    """Draw uniforms on ``(0, 1)`` keyed by seed and document, not by call order.

    Args:
        seed: Stream seed, e.g. from :func:`derive`.
        documents: Index of each document in its dataset.
        shape: Shape of the numbers of one document.

    Returns:
        Float64 uniforms of shape ``[b, *shape]``, never exactly 0 or 1.

    Source:
        Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators".
    """
    count = int(np.prod(shape, dtype=np.int64))
    keys = documents.cpu().numpy().astype(np.uint64)
    with np.errstate(over="ignore"):
        start = _mix(keys * _GAMMA + _mix(np.array([seed], dtype=np.uint64)))
        steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
        bits = _mix(start[:, None] + steps[None, :]) >> np.uint64(12)
    unit = (bits.astype(np.float64) + 0.5) / 2.0**52
    return torch.from_numpy(unit).reshape(len(keys), *shape)
