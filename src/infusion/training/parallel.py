"""One training in several processes under ``torchrun``, each on its share of a batch.

Gradients are summed over processes before each step, and normalisation layers see the
moments of the whole batch, so the objective is that of one process: the mean loss of
the batch. Weights agree with those of one process up to rounding.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from infusion.configs import TrainConfig, as_plain
from infusion.data.hashing import row_hashes
from infusion.errors import InputError
from infusion.params import model_sha256
from infusion.records import Batch, Documents, Task
from infusion.sharding import all_alike, all_sum, is_parallel, shard
from infusion.tasks import first_parameter, losses
from infusion.training.augmentation import disturbed, disturbs


def check_parallel(
    model: nn.Module, data: Documents, config: TrainConfig, *, seed: int, epoch: int
) -> None:
    """Refuse processes that would not train one model.

    Args:
        model: As training starts.
        data: Training documents.
        config: Recipe.
        seed: Of the orders.
        epoch: Epochs done.

    Raises:
        InputError: One of these differs between processes.
    """
    if not is_parallel():
        return
    all_alike("weights before training", model_sha256(model))
    first = row_hashes(data.take(torch.tensor([0])))
    asked = repr((as_plain(config), seed, epoch, len(data), first))
    digest = hashlib.sha256(asked.encode()).hexdigest()
    all_alike("recipe, seed, start and documents", digest)


def batch_loss(
    task: Task, data: Documents, documents: Tensor, config: TrainConfig
) -> Tensor:
    """Compute the mean loss of a batch, or this process's part of it.

    Args:
        task: Model in train mode.
        data: Training documents.
        documents: Of the whole batch.
        config: Recipe, whose disturbances are drawn for the whole batch.

    Returns:
        A scalar; its sum over processes is the mean over the batch.

    Raises:
        InputError: The model draws random numbers, and the batch is dealt out.
    """
    like = first_parameter(task)
    if not _is_shared(documents):
        batch = disturbed(data.batch(documents, like=like), config)
        return losses(task, task.outputs(task.model, batch), batch).mean()
    own = shard(len(documents))
    if disturbs(config):
        whole = disturbed(data.batch(documents, like=like), config)
        batch = Batch(whole.inputs[own], whole.labels[own])
    else:
        batch = data.batch(documents[own], like=like)
    with _nothing_drawn(like.device), _whole_batch_moments(task.model):
        found = losses(task, task.outputs(task.model, batch), batch)
    return found.sum() / len(documents)


def whole_loss(loss: Tensor, documents: Tensor) -> float:
    """Put the parts of a batch's loss together.

    Args:
        loss: This process's.
        documents: Of the whole batch.

    Returns:
        The mean loss of the batch, the same in every process.
    """
    total = loss.detach().clone()
    if _is_shared(documents):
        all_sum({"loss": total})
    return float(total)


def sum_gradients(parameters: list[nn.Parameter], documents: Tensor) -> None:
    """Sum gradients over processes in one message, in float32 at least.

    Args:
        parameters: One that no process has a gradient of keeps none.
        documents: Of the whole batch.
    """
    if not _is_shared(documents):
        return
    moving = [p for p in parameters if p.requires_grad]
    wide = any(p.dtype == torch.float64 for p in moving)
    kind = torch.float64 if wide else torch.float32
    have = [float(p.grad is not None) for p in moving]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in moving]
    flags = torch.tensor(have, dtype=kind, device=grads[0].device)
    buffer = torch.cat([flags, *(grad.flatten().to(kind) for grad in grads)])
    all_sum({"gradients": buffer})
    flags, *sums = buffer.split([len(flags), *(grad.numel() for grad in grads)])
    for parameter, some, grad in zip(moving, flags.tolist(), sums, strict=True):
        parameter.grad = grad.view_as(parameter).to(parameter) if some else None


def _is_shared(documents: Tensor) -> bool:
    """Tell whether a batch is dealt out: a very small last one is done by everybody."""
    return is_parallel() and len(documents) >= dist.get_world_size()


@contextmanager
def _nothing_drawn(device: torch.device) -> Iterator[None]:
    """Refuse a model that draws: each process would draw for other documents."""
    before = _drawn(device)
    yield
    if not all(map(torch.equal, before, _drawn(device))):
        raise InputError(
            "a model trained in several processes must draw nothing itself, got random "
            "numbers drawn in a forward pass; set dropout to 0, or use one process"
        )


def _drawn(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextmanager
def _whole_batch_moments(model: nn.Module) -> Iterator[None]:
    """Let modules of batch normalisation see all processes inside the block."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
        and "forward" not in vars(module)
        and (module.training or module.running_mean is None)
    ]
    for module in norms:
        setattr(module, "forward", partial(_normalised, module))  # noqa: B010
    try:
        yield
    finally:
        for module in norms:
            del module.forward


def _normalised(module: _BatchNorm, x: Tensor) -> Tensor:
    """Normalise by the moments of the whole batch: arXiv 1502.03167, algorithm 1."""
    module._check_input_dim(x)  # pyright: ignore[reportPrivateUsage]
    wide = x if x.dtype == torch.float64 else x.float()
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    own = wide.new_tensor([x.numel() / x.shape[1]])
    sums = _summed(torch.cat([wide.sum(axes), own]))
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centred = wide - mean.view(shape)
    variance = _summed(centred.square().sum(axes)) / count
    if module.training and module.track_running_stats:
        _remember(module, mean.detach(), variance.detach() * count / (count - 1))
    result = centred * (variance + module.eps).rsqrt().view(shape)
    if module.weight is not None:
        result = result * module.weight.view(shape)
    if module.bias is not None:
        result = result + module.bias.view(shape)
    return result.to(x.dtype)


def _remember(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move running statistics as torch does."""
    rate, counted = module.momentum or 0.0, module.num_batches_tracked
    if counted is not None:
        counted.add_(1)
        if module.momentum is None:  # the mean of all batches
            rate = 1 / float(counted)
    for kept, new in ((module.running_mean, mean), (module.running_var, variance)):
        if kept is not None:
            kept.lerp_(new.to(kept), rate)


def _summed(value: Tensor) -> Tensor:
    """Sum over processes, differentiably."""
    return dist.nn.functional.all_reduce(value)  # pyright: ignore[reportAttributeAccessIssue]
