"""Influence of every training document on one measurement.

    influence of document i:  df/dwᵢ = −(1/n) ⟨s, ∇θ ℓᵢ⟩,   s = (H + λI)⁻¹ ∇f

``⟨s, ∇θ ℓᵢ⟩`` for all documents of a batch is one forward-mode derivative of their
losses along ``s``: no per-document gradient is formed. Positive: a proponent.

Source: Koh & Liang (2017), arXiv 1703.04730, eq. 2, with ``f`` to be raised; arXiv
2602.09987, eq. 2.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp  # pyright: ignore[reportPrivateImportUsage]

from infusion.errors import DivergedError, InputError
from infusion.norms import written_out
from infusion.params import Params, is_finite
from infusion.records import Batch, Documents, Measurement, Task
from infusion.sharding import all_cat, shard
from infusion.tasks import (
    batches,
    check_task,
    evaluating,
    first_parameter,
    functional_losses,
    losses,
)


def gradient(task: Task, measurement: Measurement) -> Params:
    """Gradient of a measurement with respect to the trainable parameters.

    Args:
        task: Its model is evaluated in eval mode.
        measurement: Scalar function of the model; up is the goal.

    Returns:
        ``∇θ f``, a tensor per trainable parameter; zero where ``f`` does not depend
        on it.

    Raises:
        InputError: The measurement is not a scalar that depends on the parameters.
        DivergedError: The measurement or its gradient is not finite.
    """
    named = {n: p for n, p in task.model.named_parameters() if p.requires_grad}
    with evaluating(task.model), torch.enable_grad():
        value = measurement(task.model)
        check_measured(value)
        pulled = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    result = {
        name: torch.zeros_like(p) if g is None else g.detach()
        for (name, p), g in zip(named.items(), pulled, strict=True)
    }
    if not (bool(torch.isfinite(value)) and is_finite(result)):
        raise DivergedError(
            "a measurement and its gradient must be finite, got "
            f"{float(value.detach())}; check the probe and the model"
        )
    return result


def check_measured(value: object) -> None:
    """Refuse what is no measurement's value.

    Args:
        value: Returned by a measurement.

    Raises:
        InputError: It is no tensor, no scalar, or depends on no parameter.
    """
    if not isinstance(value, Tensor):
        raise InputError(
            "a measurement must return a scalar tensor, got "
            f"{type(value).__name__}; leave out .item()"
        )
    if value.ndim != 0 or not value.requires_grad:
        raise InputError(
            "a measurement must return a scalar that depends on the model's "
            f"parameters, got shape {tuple(value.shape)} and requires_grad="
            f"{value.requires_grad}; sum it, and do not detach"
        )


def directional_losses(
    task: Task, params: Params, ihvp: Params, batch: Batch, *, again: bool = False
) -> Float[Tensor, " b"]:
    """Derivative of each document's loss along the IHVP, ``⟨s, ∇θ ℓᵢ⟩``.

    Args:
        task: Model in eval mode.
        params: The model's parameters at the names of ``ihvp``.
        ihvp: Direction ``s``.
        batch: Documents.
        again: Whether the result is to be differentiated in ``batch``: norms are then
            written out, see :mod:`infusion.norms`.

    Returns:
        One value per document; without ``again`` not to be differentiated.

    Raises:
        InputError: An operation of the model, often an attention kernel, has no forward
            mode.
    """

    def moved_losses(moved: Params) -> Tensor:
        return functional_losses(task, moved, batch)

    try:
        with written_out() if again else nullcontext():
            return jvp(moved_losses, (params,), (ihvp,))[1]
    except NotImplementedError as error:
        if "forward AD" not in str(error) and "forward mode AD" not in str(error):
            raise
        raise InputError(
            "every operation of the model must have a forward mode, got "
            f"{_without_advice(error)}; where it is attention, load a transformers "
            "model with attn_implementation='eager' or choose torch's math kernel"
        ) from error


def _without_advice(error: Exception) -> str:
    """Keep the first sentence: torch goes on to ask for an issue."""
    return str(error).splitlines()[0].split(". ")[0]


def along(task: Task, ihvp: Params) -> Params:
    """Return the model's parameters that an IHVP covers, in its layout.

    Args:
        task: Model.
        ihvp: Names the covered parameters.

    Returns:
        Detached parameters of the same names.

    Raises:
        InputError: It names nothing, or a name, shape or dtype is not the model's.
    """
    if not isinstance(ihvp, dict):
        raise InputError(
            f"an IHVP must be a dict of tensors, got {type(ihvp).__name__}; take it "
            "from curvature.solve"
        )
    if not ihvp:
        raise InputError(
            "an IHVP must name at least one parameter, got none; take it from "
            "curvature.solve"
        )
    own = dict(task.model.named_parameters())
    for name, value in ihvp.items():
        if name not in own or own[name].shape != value.shape:
            got = tuple(own[name].shape) if name in own else "no such parameter"
            raise InputError(
                f"an IHVP must fit the model, got {tuple(value.shape)} for {name} "
                f"where the model has {got}; solve it with this model's curvature"
            )
        if value.dtype != own[name].dtype and not value.is_meta:
            raise InputError(
                f"an IHVP must be of the model's dtype, got {value.dtype} for {name} "
                f"where the model has {own[name].dtype}; convert one of them"
            )
    return {name: own[name].detach() for name in ihvp}


def _check_reached(task: Task, data: Documents, names: list[str]) -> None:
    """Refuse losses that no parameter moves: forward mode would find zeros."""
    batch = data.batch(torch.tensor([0]), like=first_parameter(task))
    moved = [task.model.get_parameter(name) for name in names]
    trainable = [p for p in moved if p.requires_grad]
    if not trainable:  # frozen since the IHVP was solved: forward mode does not mind
        return
    with evaluating(task.model), torch.enable_grad():
        loss = losses(task, task.outputs(task.model, batch), batch).sum()
        reached = loss.requires_grad and any(
            found is not None
            for found in torch.autograd.grad(loss, trainable, allow_unused=True)
        )
    if not reached:
        raise InputError(
            "the losses must depend on the parameters of the task's model that the IHVP"
            " names, got losses that depend on none; do not detach the outputs, and use"
            " the model handed in"
        )


def at_least_float32(scores: Tensor) -> Tensor:
    """Give scores of a half-precision model a dtype that other libraries read.

    Args:
        scores: In the model's dtype.

    Returns:
        Float32 or float64.
    """
    return scores if scores.dtype == torch.float64 else scores.float()


def influence(
    task: Task,
    data: Documents,
    ihvp: Params,
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda _: None,
) -> Float[Tensor, " n"]:
    """Influence of every document on the measurement behind the IHVP.

    Under ``torch.distributed`` every process scores its share and all return the whole.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set: its size is the ``n`` of ``1/n``.
        ihvp: From ``curvature.solve(gradient(task, measurement), …)``.
        batch_size: Documents held at once; results do not depend on it beyond
            rounding.
        on_batch: Called with the number of documents done.

    Returns:
        Change of the measurement per unit of added weight, float32 or the model's
        dtype; positive documents support the measurement.

    Raises:
        InputError: The IHVP does not fit the model, or the losses do not depend on
            the parameters it names.
        DivergedError: A score is not finite.
    """
    check_task(task, data)
    params = along(task, ihvp)
    _check_reached(task, data, list(params))
    scores = []
    own = torch.arange(len(data))[shard(len(data))]
    with evaluating(task.model), torch.no_grad():
        for documents, batch in batches(task, data, batch_size, documents=own):
            scores.append(directional_losses(task, params, ihvp, batch))
            on_batch(len(documents))
    result = at_least_float32(all_cat(torch.cat(scores)).cpu()) / -len(data)
    if not bool(torch.isfinite(result).all()):
        raise DivergedError(
            f"influence must be finite, got NaN or infinity for "
            f"{int((~torch.isfinite(result)).sum())} documents; check them and raise "
            "the damping"
        )
    return result
