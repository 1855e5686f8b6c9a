"""Hooks that watch layers run: to record them, and to tell what a record needs.

Parameters are frozen while layers are recorded, so that no parameter gradient is ever
formed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from infusion.curvature.capture import Captured
from infusion.curvature.layers import Layer, Use
from infusion.errors import InputError
from infusion.records import Documents, Task
from infusion.tasks import evaluating, first_parameter

_SAME = 1e-2
"""Relative change of outputs up to which batch shapes may differ by rounding alone."""


@contextmanager
def capturing(
    model: nn.Module, layers: list[Layer], shared: frozenset[str] = frozenset()
) -> Iterator[Captured]:
    """Record every use's inputs and output edges during the forward passes inside.

    Args:
        model: Its parameters are frozen inside the block and restored afterwards.
        layers: Layers to record.
        shared: Uses that run once for all documents, see :func:`shared_uses`.

    Yields:
        A record; call its ``start`` before each forward pass.
    """
    captured = Captured(shared)
    uses = {use.name: use for layer in layers for use in layer.uses}

    def make_hook(use: Use) -> Callable[..., Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not torch.is_grad_enabled():  # a layer asked for its response
                return output
            check_positional(use.name, inputs)
            return captured.record(use, inputs[0], output)

        return hook

    handles = [
        use.module.register_forward_hook(make_hook(use)) for use in uses.values()
    ]
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield captured
    finally:
        captured.start(0, None)
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)


def shared_uses(task: Task, data: Documents, layers: list[Layer]) -> frozenset[str]:
    """Find the uses that run once for all documents, by running one and two of them.

    Args:
        task: Model and outputs.
        data: Its first and last documents are run.
        layers: Layers to watch.

    Returns:
        Names of uses whose input has the same leading axis either time.

    Raises:
        InputError: A layer does not run in the forward pass, its input grows with the
            documents by another factor, or documents see each other.
    """
    uses = {use.name: use.module for layer in layers for use in layer.uses}
    calls: dict[str, list[int]] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            check_positional(name, inputs)
            calls.setdefault(name, []).append(len(inputs[0]))

        return hook

    def watch(documents: list[int]) -> tuple[dict[str, list[int]], Tensor]:
        calls.clear()
        batch = data.batch(torch.tensor(documents), like=first_parameter(task))
        with evaluating(task.model), torch.no_grad():
            outputs = task.outputs(task.model, batch)
        return dict(calls), outputs[0]

    handles = [m.register_forward_hook(make_hook(n)) for n, m in uses.items()]
    try:
        one, alone = watch([0])
        two, beside = watch([0, len(data) - 1])
    finally:
        for handle in handles:
            handle.remove()
    _check_independence(alone, beside)
    for name in uses:
        if name not in one:
            raise InputError(
                f"every covered layer must run in the forward pass, got no call of "
                f"{name}; skip it"
            )
        if two[name] != one[name] and (set(one[name]), set(two[name])) != ({1}, {2}):
            raise InputError(
                "the first axis of a layer's input must be the documents, got "
                f"{one[name][0]} rows for 1 document and {two[name][0]} for 2 at "
                f"{name}; skip it"
            )
    return frozenset(name for name in uses if one[name] == two[name])


def check_positional(name: str, inputs: tuple[Tensor, ...]) -> None:
    """Refuse a call whose input a hook cannot see.

    Args:
        name: Layer.
        inputs: Positional ones.

    Raises:
        InputError: There is none.
    """
    if not inputs:
        raise InputError(
            f"a covered layer must get its input by position, got a keyword at {name}; "
            "call it as layer(x), or skip it"
        )


def _check_independence(alone: Tensor, beside: Tensor) -> None:
    """Refuse a model whose outputs for a document depend on the others in its batch."""
    off = float((alone.double() - beside.double()).norm())
    if off > _SAME * float(alone.double().norm()):
        raise InputError(
            "the outputs of a document must not depend on the others in its batch, got "
            f"a change of {off / float(alone.double().norm()):.1%} beside another one; "
            "use running statistics in eval mode, or padding masks"
        )
