"""Norms written out where forward mode is differentiated once more.

torch 2.13 computes the forward-mode derivative of layer, batch and instance norms from
statistics that it then takes for constants: the gradient of that derivative misses
terms, without a word. Inside :func:`written_out` those norms are made of operations
whose second derivatives are right.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class written_out(TorchFunctionMode):  # noqa: N801
    """Context in which the norms are their formulas; others run as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace a call of a norm."""
        return _WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))


def _standardised(
    x: Tensor, axes: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    out = (x - mean) * (variance + eps).rsqrt()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _layer_norm(  # noqa: PLR0917 - torch's own signature
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,  # noqa: ARG001 - of torch.layer_norm
) -> Tensor:
    axes = list(range(-len(normalized_shape), 0))
    return _standardised(input, axes, weight, bias, eps)


def _per_channel(value: Tensor | None, x: Tensor) -> Tensor | None:
    return None if value is None else value.view(1, -1, *[1] * (x.ndim - 2))


def _batch_norm(  # noqa: PLR0917 - torch's own signature
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    alone = input.numel() == input.shape[1]  # torch says what is wrong with that
    if not training or alone:
        return F.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    axes = [0, *range(2, input.ndim)]
    return _standardised(
        input, axes, _per_channel(weight, input), _per_channel(bias, input), eps
    )


def _instance_norm(  # noqa: PLR0917 - torch's own signature
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, False, momentum, eps
        )
    axes = list(range(2, input.ndim))
    return _standardised(
        input, axes, _per_channel(weight, input), _per_channel(bias, input), eps
    )


_WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    torch.layer_norm: _layer_norm,
}
