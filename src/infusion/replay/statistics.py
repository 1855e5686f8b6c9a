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
    """Note mean and variance of what each BatchNorm sees in train mode, with graph.

    Args:
        model: Run once inside the block.

    Yields:
        Filled while the model runs.
    """
    seen: Seen = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name in seen:
                raise InputError(
                    "a BatchNorm must run once per step to be differentiated, got more "
                    f"calls of {name}; give each place a module of its own"
                )
            axes = [0, *range(2, inputs[0].ndim)]
            variance, mean = torch.var_mean(inputs[0], axes)
            seen[name] = mean, variance

        return hook

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in _norms(model).items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def moved_statistics(
    model: nn.Module, before: Params, after: Params, seen: Seen
) -> Params:
    """Update running statistics as BatchNorm does, but with graph.

    Args:
        model: Gives momentum.
        before: Buffers before the step, with graph.
        after: The same after it, as torch updated them, without.
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
    norms = _norms(model).values()
    for module in norms:
        setattr(module, "forward", partial(_normalised, module))  # noqa: B010
    try:
        yield
    finally:
        for module in norms:
            del module.forward


def _normalised(module: _BatchNorm, x: Tensor) -> Tensor:
    assert module.running_mean is not None
    assert module.running_var is not None
    shape = [1, -1, *[1] * (x.ndim - 2)]
    scale = (module.running_var + module.eps).rsqrt()
    out = (x - module.running_mean.view(shape)) * scale.view(shape)
    if module.weight is not None:
        out = out * module.weight.view(shape)
    if module.bias is not None:
        out = out + module.bias.view(shape)
    return out
