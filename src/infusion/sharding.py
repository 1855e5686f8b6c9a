"""Data parallelism under ``torchrun``: shares of documents, sums and gathers.

Without a process group everything here is the identity, so stages need no second code
path. Results do not depend on the number of processes beyond rounding: sums are of
float64, label draws are keyed by document.

Import this before ``init_process_group``; under ``torchrun`` the package does. On use
``torch.func`` imports ``torch.distributed.nn``, whose default arguments keep the
process group of that moment: it would outlive ``destroy_process_group``, and its
threads would now and then abort the process at exit. Imported here, they keep None.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from infusion.errors import InputError
from infusion.params import Params

if dist.is_available():
    import torch.distributed.nn  # noqa: F401 (see above)


def is_parallel() -> bool:
    """Tell whether several processes work on one job."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shard(size: int) -> slice:
    """Return this process's share of ``size`` documents.

    Args:
        size: Documents in all.

    Returns:
        A contiguous slice; the shares of all processes follow each other.

    Raises:
        InputError: There are more processes than documents.
    """
    if not is_parallel():
        return slice(0, size)
    rank, world = dist.get_rank(), dist.get_world_size()
    if size < world:
        raise InputError(
            f"every process must get a document, got {size} for {world} processes; "
            "start fewer"
        )
    return slice(size * rank // world, size * (rank + 1) // world)


def all_sum(values: Params) -> None:
    """Sum tensors over all processes, in place.

    Args:
        values: The same names and shapes in every process.
    """
    if not is_parallel():
        return
    for name in sorted(values):
        whole = _reachable(values[name])
        dist.all_reduce(whole)
        values[name].copy_(whole)


def all_alike(what: str, digest: str) -> None:
    """Refuse to go on where processes disagree.

    Args:
        what: Is hashed.
        digest: Of this process, in hexadecimal; equally long in all.

    Raises:
        InputError: Another process has another.
    """
    if not is_parallel():
        return
    own = torch.tensor(list(bytes.fromhex(digest)))[:, None]
    if bool((all_cat(own) != own).any()):
        raise InputError(
            f"{what} must be the same in every process, got different ones; seed and "
            "load the same way everywhere"
        )


def all_cat(value: Tensor) -> Tensor:
    """Put the shares of all processes together along the last axis.

    Args:
        value: This process's share, in the order of :func:`shard`.

    Returns:
        The whole, on every process.
    """
    if not is_parallel():
        return value
    home, value = value.device, _reachable(value)
    length = torch.tensor([value.shape[-1]], device=value.device)
    lengths = [torch.empty_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    longest = max(int(size) for size in lengths)  # gloo gathers equal shapes only
    padded = F.pad(value, (0, longest - value.shape[-1])).contiguous()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    kept = [part[..., : int(n)] for part, n in zip(parts, lengths, strict=True)]
    return torch.cat(kept, -1).to(home)


def _reachable(value: Tensor) -> Tensor:
    """Move a tensor to where the process group can read it: NCCL only knows GPUs."""
    return value.cuda() if dist.get_backend() == "nccl" else value
