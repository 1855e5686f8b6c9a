"""BatchNorm's running statistics with derivatives, in train mode and in eval mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # the base of all of them

from infusion.errors import InputError
from infusion.params import Params

Seen = dict[str, tuple[Tensor, Tensor]]
"""Module to mean and variance of what it saw."""


def _norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the modules whose statistics a training moves and a measurement reads."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }
    for name, module in found.items():
        if type(module).forward is not _BatchNorm.forward:
            raise InputError(
                "a BatchNorm must compute what torch's does to be differentiated, got "
                f"another forward of {type(module).__name__} at {name}; use torch's"
            )
    return found


@contextmanager
def statistics_seen(model: nn.Module) -> Iterator[Seen]:
    """Normalise in train mode by operations with cheap second derivatives.

    torch's own BatchNorm takes half as long again to differentiate twice.

    Args:
        model: In train mode; run once inside the block, where it moves no statistics.
            A BatchNorm that stays in eval mode runs as it is.

    Yields:
        Mean and unbiased variance of what each BatchNorm saw, with graph; filled while
        the model runs.
    """
    seen: Seen = {}

    def run(name: str, module: _BatchNorm, x: Tensor) -> Tensor:
        if not module.training:  # frozen: its statistics stay as they are
            return type(module).forward(module, x)
        if name in seen:
            raise InputError(
                "a BatchNorm must run once per step to be differentiated, got more "
                f"calls of {name}; give each place a module of its own"
            )
        biased, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        count = x.numel() // x.shape[1]
        seen[name] = mean, biased * (count / (count - 1))
        return _normalised(module, x, mean, biased)

    with _running(model, run):
        yield seen


def moved_statistics(
    model: nn.Module, before: Params, after: Params, seen: Seen
) -> Params:
    """Update running statistics as BatchNorm does, but with graph.

    Args:
        model: Gives momentum.
        before: Buffers before the step, with graph.
        after: The same after it, without; those of BatchNorm need not have moved.
        seen: From :func:`statistics_seen`.

    Returns:
        The buffers after the step.

    Raises:
        InputError: Another buffer moved, whose derivative is not known.
    """
    result = dict(after)
    for name, (mean, variance) in seen.items():
        module, prefix = model.get_submodule(name), f"{name}." if name else ""
        assert isinstance(module, _BatchNorm)
        share = module.momentum
        if share is None:
            share = 1.0 / (int(before[f"{prefix}num_batches_tracked"]) + 1)
        for buffer, found in (("running_mean", mean), ("running_var", variance)):
            old = before[f"{prefix}{buffer}"]
            result[f"{prefix}{buffer}"] = (1 - share) * old + share * found
    for name, value in after.items():
        known = result[name] is not value or not value.is_floating_point()
        if not (known or torch.equal(value, before[name])):
            raise InputError(
                "a replay can differentiate buffers of BatchNorm only, got a training "
                f"step that changed {name}; freeze it or train without that module"
            )
    return result


@contextmanager
def differentiable_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm in eval mode pass derivatives to its running statistics.

    torch's own refuses statistics that require them.

    Args:
        model: In eval mode.

    Yields:
        Nothing.
    """

    def run(_: str, module: _BatchNorm, x: Tensor) -> Tensor:
        assert module.running_mean is not None
        assert module.running_var is not None
        return _normalised(module, x, module.running_mean, module.running_var)

    with _running(model, run):
        yield


@contextmanager
def _running(
    model: nn.Module, run: Callable[[str, _BatchNorm, Tensor], Tensor]
) -> Iterator[None]:
    """Run every BatchNorm by another function."""
    norms = _norms(model)
    for name, module in norms.items():
        setattr(module, "forward", partial(run, name, module))  # noqa: B010
    try:
        yield
    finally:
        for module in norms.values():
            del module.forward


def _normalised(
    module: _BatchNorm, x: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """``x · scale + shift``: two operations of the size of ``x``, not six."""
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale = (variance + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    return torch.addcmul(shift.view(shape), x, scale.view(shape))
