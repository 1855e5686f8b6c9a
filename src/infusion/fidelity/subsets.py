"""What the linear datamodelling score is measured on: drawn once, by named streams.

Subset ``i`` and the list of probes depend on the seed and their own name alone, so
asking for more of either keeps the ones there were.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from infusion.configs import LDSConfig
from infusion.errors import InputError
from infusion.seeding import stream


def subset(config: LDSConfig, size: int, index: int) -> Int[Tensor, " k"]:
    """Draw one subset of the training documents, without replacement.

    Args:
        config: Seed and share.
        size: Training documents.
        index: Which subset.

    Returns:
        Positions in ascending order.
    """
    generator = stream(config.seed, "fidelity", "subset", index)
    kept = torch.randperm(size, generator=generator)[: round(config.share * size)]
    return kept.sort().values


def membership(config: LDSConfig, size: int) -> Bool[Tensor, "s n"]:
    """Tell which document is in which subset.

    Args:
        config: Seed, share and number of subsets.
        size: Training documents.

    Returns:
        True where the document is in the subset.
    """
    members = torch.zeros(config.subsets, size, dtype=torch.bool)
    for index in range(config.subsets):
        members[index, subset(config, size, index)] = True
    return members


def probe_positions(config: LDSConfig, size: int) -> list[int]:
    """List the probes: the first ones of the test set in a named stream's order.

    Args:
        config: Seed and number of probes.
        size: Test documents.

    Returns:
        Positions in the test set.
    """
    order = torch.randperm(size, generator=stream(config.seed, "fidelity", "probes"))
    return order[: config.probes].tolist()


def fresh_seeds(config: LDSConfig) -> list[int]:
    """List the seeds that share nothing with the base model's.

    Args:
        config: Base seed and how many.

    Returns:
        The integers after the base seed.
    """
    return [config.seed + 1 + offset for offset in range(config.seeds)]


def check_lds(config: LDSConfig, *, train: int, test: int) -> None:
    """Refuse settings from which no score could be computed.

    Args:
        config: Settings.
        train: Training documents.
        test: Test documents.

    Raises:
        InputError: A setting is out of range.
    """
    least = {"subsets": (config.subsets, 3), "seeds": (config.seeds, 1)}
    least |= {"probes": (config.probes, 1), "pbrf": (config.pbrf, 0)}
    for name, (got, low) in least.items():
        if got < low:
            raise InputError(f"{name} must be ≥ {low}, got {got}; ask for more")
    if config.probes > test:
        raise InputError(
            f"probes must be ≤ {test}, the test set, got {config.probes}; ask for fewer"
        )
    if not 1 <= round(config.share * train) < train:
        raise InputError(
            f"share must leave 1…{train - 1} of {train} documents in a subset, got "
            f"{config.share:g}; choose one between 0 and 1"
        )
