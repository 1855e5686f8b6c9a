"""One training in several processes under ``torchrun``, each on its share of a batch.

Gradients are summed over processes before each step, and normalisation layers see the
moments of the whole batch, so the objective is that of one process: the mean loss of
the batch. Weights agree with those of one process up to rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from infusion.configs import TrainConfig
from infusion.errors import InputError
from infusion.params import params_sha256
from infusion.records import Batch, Documents, Task
from infusion.sharding import all_alike, all_sum, is_parallel, shard
from infusion.tasks import first_parameter, losses
from infusion.training.augmentation import disturbed


def check_parallel(model: nn.Module, drops: bool) -> None:
    """Refuse what several processes could not train as one.

    Args:
        model: The same weights in every process.
        drops: Whether modules of it drop activations at random.

    Raises:
        InputError: It drops some, or the weights differ.
    """
    if not is_parallel():
        return
    if drops:
        raise InputError(
            "a model trained in several processes must draw nothing itself, which each "
            "would draw differently, got dropout; set its p to 0 or use one process"
        )
    all_alike("weights before training", params_sha256(model.state_dict()))


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
    """
    like = first_parameter(task)
    if not _is_shared(documents):
        batch = disturbed(data.batch(documents, like=like), config)
        return losses(task, task.outputs(task.model, batch), batch).mean()
    own = shard(len(documents))
    if config.flip or config.shift or config.noise:
        whole = disturbed(data.batch(documents, like=like), config)
        batch = Batch(whole.inputs[own], whole.labels[own])
    else:
        batch = data.batch(documents[own], like=like)
    with _whole_batch_moments(task.model):
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
    """Sum gradients over processes in one message.

    Args:
        parameters: One that no process has a gradient of keeps none.
        documents: Of the whole batch.
    """
    if not _is_shared(documents):
        return
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    have = torch.tensor([float(p.grad is not None) for p in parameters]).to(flat[0])
    buffer = torch.cat([have, *(grad.flatten().to(have.dtype) for grad in flat)])
    all_sum({"gradients": buffer})
    have, *sums = buffer.split([len(have), *(grad.numel() for grad in flat)])
    for parameter, some, grad in zip(parameters, have.tolist(), sums, strict=True):
        parameter.grad = grad.view_as(parameter).to(parameter) if some else None


def _is_shared(documents: Tensor) -> bool:
    """Tell whether a batch is dealt out: a very small last one is done by everybody."""
    return is_parallel() and len(documents) >= dist.get_world_size()


@contextmanager
def _whole_batch_moments(model: nn.Module) -> Iterator[None]:
    """Let batch normalisation see all processes inside the block."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
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
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    own = x.new_tensor([x.numel() / x.shape[1]])
    sums = _summed(torch.cat([x.sum(axes), own]))
    mean, count = sums[:-1] / sums[-1], sums[-1].detach()
    centred = x - mean.view(shape)
    variance = _summed(centred.square().sum(axes)) / count
    if module.training and module.running_mean is not None:
        _remember(module, mean.detach(), variance.detach() * count / (count - 1))
    result = centred * (variance + module.eps).rsqrt().view(shape)
    if module.weight is not None:
        result = result * module.weight.view(shape) + module.bias.view(shape)
    return result


def _remember(module: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert module.running_mean is not None
    assert module.running_var is not None
    assert module.num_batches_tracked is not None
    module.num_batches_tracked.add_(1)
    rate = module.momentum
    if rate is None:
        rate = 1 / float(module.num_batches_tracked)
    module.running_mean.lerp_(mean.to(module.running_mean), rate)
    module.running_var.lerp_(variance.to(module.running_var), rate)


def _summed(value: Tensor) -> Tensor:
    """Sum over processes, differentiably."""
    return dist.nn.functional.all_reduce(value)  # pyright: ignore[reportAttributeAccessIssue]
