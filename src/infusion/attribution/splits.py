"""Which modules and which tokens a document's influence acts through."""

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.attribution.passes import covered_layers, finished
from infusion.curvature.capture import Captured, Gradients
from infusion.curvature.kinds import token_axis
from infusion.curvature.layers import Layer
from infusion.curvature.sweep import make_sweep
from infusion.errors import InputError
from infusion.params import Params
from infusion.records import Documents, Task
from infusion.tasks import check_task


def influence_by_module(
    task: Task,
    data: Documents,
    ihvp: Params,
    *,
    batch_size: int = 64,
) -> dict[str, Float[Tensor, " n"]]:
    """Split every document's influence over the modules it acts through.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set.
        ihvp: ``s``.
        batch_size: Documents held at once.

    Returns:
        By module; the sum over modules is :func:`infusion.influence`.

    Raises:
        InputError: As :func:`influences`.
        DivergedError: Likewise.
    """
    check_task(task, data)
    layers = covered_layers(task, [ihvp])
    parts: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for captured, directions in make_sweep(task, data, layers, batch_size=batch_size):
        for gradients in directions:
            for layer in layers:
                parts[layer.name].append(captured.directional(layer, gradients, ihvp))
    return {name: finished(found, len(data)) for name, found in parts.items()}


def influence_by_token(
    task: Task,
    data: Documents,
    ihvp: Params,
    *,
    batch_size: int = 64,
) -> tuple[Float[Tensor, "n t"], Float[Tensor, " n"]]:
    """Split every document's influence over the positions it acts at.

    Args:
        task: Model whose layers see sequences ``[b, t, …]``.
        data: The whole training set, documents of ``t`` tokens.
        ihvp: ``s``.
        batch_size: Documents held at once.

    Returns:
        Influence through layers at each position, and through layers without positions
        (a head on pooled features); the sum of both is :func:`infusion.influence`.

    Raises:
        InputError: No layer has the positions of the inputs; or as :func:`influences`.
        DivergedError: A score is not finite.
    """
    check_task(task, data)
    layers = covered_layers(task, [ihvp])
    shape = data.take(torch.tensor([0])).inputs.shape
    length = shape[1] if len(shape) > 1 else 0
    tokens: list[Tensor] = []
    rest: list[Tensor] = []
    has_positions = False
    for captured, directions in make_sweep(task, data, layers, batch_size=batch_size):
        for gradients in directions:
            found = _by_position(captured, layers, gradients, ihvp, length)
            tokens.append(found[0])
            rest.append(found[1])
            has_positions |= found[2]
    if not length or not has_positions:
        raise InputError(
            f"scores by token need layers on sequences of {length} positions, as long "
            "as the inputs, got none; use influence or influence_by_module"
        )
    whole = torch.cat(tokens).T  # positions first, as measurements elsewhere
    return finished([whole], len(data)).T, finished(rest, len(data))


def _by_position(
    captured: Captured,
    layers: list[Layer],
    gradients: Gradients,
    ihvp: Params,
    length: int,
) -> tuple[Float[Tensor, "b t"], Float[Tensor, " b"], bool]:
    like = next(iter(ihvp.values()))
    tokens, rest = like.new_zeros(captured.size, length), like.new_zeros(captured.size)
    has_positions = False
    for layer in layers:
        for use, each in captured.responses(layer, gradients, ihvp):
            axis = token_axis(use.module, tuple(each.shape), length)
            if axis is None:
                rest += each.flatten(1).sum(1)
            else:
                tokens += each.movedim(axis, 1).flatten(2).sum(2)
                has_positions = True
    return tokens, rest, has_positions
