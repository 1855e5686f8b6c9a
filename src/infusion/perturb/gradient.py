"""Perturbation gradient: how the measurement answers to a change of a document.

    ∂f/∂xᵢ = −(1/n) ∂ₓ ⟨s, ∇θ ℓ(xᵢ)⟩

It is the input gradient of the directional derivative that gives the influence, so no
graph over parameter gradients is built. Source: arXiv 2602.09987, eq. 6.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap  # pyright: ignore[reportPrivateImportUsage]

from infusion.attribution.influence import along, directional_losses
from infusion.errors import DivergedError, InputError, check_whole
from infusion.params import Params
from infusion.records import Batch, Documents, Task
from infusion.tasks import (
    check_documents,
    check_task,
    evaluating,
    first_parameter,
    functional_losses,
    losses,
)

_AGREEMENT = 0.01
"""Of a gradient by forward mode with one by two backward passes, over its length."""
InputGradient = Callable[[Tensor], Tensor]
"""``inputs [k, …] -> ∂f/∂x [k, …]`` of the chosen documents, as values."""


@dataclass(frozen=True)
class ChosenGradient:
    """A gradient that belongs to certain documents, whose labels it knows.

    Attributes:
        documents: Positions in the training set.
        compute: From their inputs to the gradient.
    """

    documents: Int[Tensor, " k"]
    compute: InputGradient

    def __call__(self, inputs: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
        """Return the gradient at these inputs."""
        return self.compute(inputs)


def perturbation_gradient(
    task: Task, batch: Batch, ihvp: Params, *, num_documents: int
) -> Float[Tensor, "b ..."]:
    """Gradient of the predicted measurement with respect to each document's inputs.

    Args:
        task: Model at the parameters the IHVP was solved at.
        batch: Documents as values; inputs must be floating point.
        ihvp: ``s``.
        num_documents: ``n``, the size of the whole training set.

    Returns:
        In units of the measurement per unit of input; ascend it to raise ``f``.

    Raises:
        InputError: The IHVP does not fit the model.
    """
    params = along(task, ihvp)

    def total(inputs: Tensor) -> Tensor:
        moved = batch._replace(inputs=inputs)
        return directional_losses(task, params, ihvp, moved, again=True).sum()

    with evaluating(task.model), torch.no_grad():
        return grad(total)(batch.inputs) / -num_documents


def influence_gradient(
    models: Sequence[tuple[Task, Params]],
    data: Documents,
    chosen: Int[Tensor, " k"],
    *,
    batch_size: int = 128,
) -> ChosenGradient:
    """Average the perturbation gradient over models, each with an IHVP of its own.

    An edit crafted on one model fits that model; what several share carries over to
    orders and starts that the crafting never saw.

    Args:
        models: Tasks and the IHVPs solved at them.
        data: The whole training set.
        chosen: Documents to edit.
        batch_size: Documents held at once.

    Returns:
        What :func:`ascend` climbs.

    Raises:
        InputError: There is no model, one does not fit the documents, these cannot be
            edited, or the batch size is not positive.
    """
    check_whole("batch_size", batch_size)
    check_chosen(data, chosen)
    pairs = isinstance(models, (list, tuple)) and all(
        isinstance(each, tuple) and len(each) == 2 for each in models
    )
    if not pairs or not models:
        raise InputError(
            "models must be a list of at least one pair (task, ihvp), got "
            f"{type(models).__name__}; write [(task, ihvp)]"
        )
    for task, ihvp in models:
        check_task(task, data)
        first = data.batch(chosen[:1], like=first_parameter(task))
        check_slope(task, ihvp, first)
    labels = data.take(chosen).labels

    def climb(inputs: Tensor) -> Tensor:
        parts = []
        for own, values in zip(
            labels.split(batch_size), inputs.split(batch_size), strict=True
        ):
            batch = Batch(values, own.to(values.device))
            each = [
                perturbation_gradient(task, batch, ihvp, num_documents=len(data))
                for task, ihvp in models
            ]
            parts.append(each[0] if len(each) == 1 else torch.stack(each).mean(0))
        return torch.cat(parts)

    return ChosenGradient(chosen, climb)


def gradients_together(
    task: Task,
    data: Documents,
    chosen: Sequence[Int[Tensor, " k"]],
    ihvps: Sequence[Params],
    *,
    batch_size: int = 128,
) -> InputGradient:
    """Perturbation gradients for several measurements of one model, in one pass.

    The parameters are shared and their tangents stacked, so that a convolution runs
    once over the documents of all measurements and once, grouped, along the IHVPs.

    Args:
        task: Model at the parameters the IHVPs were solved at.
        data: The whole training set.
        chosen: Documents for each measurement, as many for one as for another.
        ihvps: One per measurement.
        batch_size: Documents held at once, all measurements together.

    Returns:
        From the inputs of all documents, measurement by measurement ``[p·k, …]``, to
        their gradients.

    Raises:
        InputError: Numbers differ, documents cannot be edited, the batch size is not
            positive, or an IHVP does not fit the model.
    """
    check_whole("batch_size", batch_size)
    lists = isinstance(chosen, (list, tuple)) and isinstance(ihvps, (list, tuple))
    if not lists or not chosen or len(chosen) != len(ihvps):
        got = [
            len(each) if isinstance(each, (list, tuple)) else type(each).__name__
            for each in (chosen, ihvps)
        ]
        raise InputError(
            "several measurements need a list of documents and one of IHVPs, equally "
            f"long, got {got[0]} and {got[1]}; give one of each per measurement"
        )
    for each in chosen:
        check_chosen(data, each)
    if len({len(each) for each in chosen}) > 1:
        raise InputError(
            "measurements climbed together need equally many documents, got "
            f"{sorted({len(each) for each in chosen})}; climb them apart"
        )
    check_task(task, data)
    params = along(task, ihvps[0])
    for ihvp in ihvps:
        if along(task, ihvp).keys() != params.keys():
            raise InputError(
                "IHVPs climbed together must cover the same parameters, got others: "
                f"{sorted(params.keys() ^ ihvp.keys())[0]}; solve them with one "
                "curvature"
            )
    first = data.batch(chosen[0][:1], like=first_parameter(task))
    check_slope(task, ihvps[0], first)
    stacked = {name: torch.stack([ihvp[name] for ihvp in ihvps]) for name in params}
    labels = torch.stack([data.take(each).labels for each in chosen])

    def total(inputs: Tensor, own: Tensor, ihvp: Params) -> Tensor:
        batch = Batch(inputs, own)
        return directional_losses(task, params, ihvp, batch, again=True).sum()

    slopes = vmap(grad(total))
    at_once = max(batch_size // len(chosen), 1)

    def climb(inputs: Tensor) -> Tensor:
        values = inputs.unflatten(0, labels.shape[:2])
        with evaluating(task.model), torch.no_grad():
            parts = [
                slopes(part, own.to(part.device), stacked) / -len(data)
                for part, own in zip(
                    values.split(at_once, 1), labels.split(at_once, 1), strict=True
                )
            ]
        return torch.cat(parts, 1).flatten(0, 1)

    return climb


def check_finite(gradient: Tensor) -> None:
    """Refuse to climb what is no direction.

    Args:
        gradient: Of documents' inputs.

    Raises:
        DivergedError: It is not finite.
    """
    if not bool(torch.isfinite(gradient).all()):
        raise DivergedError(
            "a perturbation gradient must be finite, got NaN or infinity; check the "
            "chosen documents and raise the damping"
        )


def check_slope(task: Task, ihvp: Params, batch: Batch) -> None:
    """Compare the gradient of a forward-mode derivative with two backward passes.

    torch differentiates some of its forward-mode formulas wrongly, without a word.
    Compared is the derivative of the loss plus a fixed combination of the outputs: of a
    document that the model is sure of, the loss alone has only rounding errors.

    Args:
        task: Model.
        ihvp: Direction.
        batch: Documents to compare on, with continuous inputs.

    Raises:
        InputError: They differ by more than rounding.
        DivergedError: One is not finite.
    """
    params = along(task, ihvp)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        weights = torch.arange(outputs[0].numel(), device=outputs.device).sin()
        mixed = (outputs.flatten(1) * weights.to(outputs.dtype)).sum(1)
        return losses(task, outputs, batch) + mixed

    seen = replace(task, loss=loss)
    found = -perturbation_gradient(seen, batch, ihvp, num_documents=1)
    with evaluating(task.model), torch.enable_grad():
        inputs = batch.inputs.detach().requires_grad_()
        leaves = {n: p.detach().requires_grad_() for n, p in params.items()}
        moved = batch._replace(inputs=inputs)
        value = functional_losses(seen, leaves, moved).sum()
        each = torch.autograd.grad(
            value, list(leaves.values()), create_graph=True, allow_unused=True
        )
        parts = [
            (pulled * ihvp[name]).sum()
            for name, pulled in zip(leaves, each, strict=True)
            if pulled is not None
        ]
        (expected,) = torch.autograd.grad(torch.stack(parts).sum(), inputs)
    check_finite(found)
    check_finite(expected)
    size, off = float(expected.norm()), float((found - expected).norm())
    if off > _AGREEMENT * size:
        raise InputError(
            "forward mode must be differentiable once more, got a perturbation "
            f"gradient off by {off:.3g} of {size:.3g} from two backward passes; write "
            "out the operation that brings a forward derivative of its own (torch's "
            "norms are already)"
        )


def check_chosen(data: Documents, chosen: Tensor) -> None:
    """Refuse documents that cannot be edited by small steps.

    Args:
        data: The whole training set.
        chosen: Documents to edit.

    Raises:
        InputError: The inputs are neither continuous nor on a grid, or a document is
            named twice or does not exist.
    """
    check_documents(data)
    check_positions(data, chosen)
    first = data.take(chosen[:1])
    if first.levels is None and not first.inputs.is_floating_point():
        raise InputError(
            "documents to perturb must have continuous inputs or lie on a storage "
            f"grid, got {first.inputs.dtype}; give levels=255 for 8-bit pixels"
        )


def check_positions(data: Documents, chosen: Tensor) -> None:
    """Refuse positions that name no documents, or one twice.

    Args:
        data: The whole training set.
        chosen: Documents to edit.

    Raises:
        InputError: They are no int64 vector of different positions in the dataset.
    """
    if not isinstance(chosen, Tensor):
        raise InputError(
            "chosen documents must be a tensor of positions, got "
            f"{type(chosen).__name__}; use select"
        )
    if chosen.ndim != 1 or chosen.dtype != torch.int64:
        raise InputError(
            "chosen documents must be int64 positions of shape [k], got "
            f"{chosen.dtype} of shape {tuple(chosen.shape)}; use select"
        )
    if len(chosen) == 0 or len(chosen.unique()) != len(chosen):
        raise InputError(
            f"chosen documents must be at least one and all different, got "
            f"{len(chosen)} of which {len(chosen.unique())} differ; use select"
        )
    if int(chosen.min()) < 0 or int(chosen.max()) >= len(data):
        raise InputError(
            f"chosen documents must lie in 0…{len(data) - 1}, got "
            f"{int(chosen.min())}…{int(chosen.max())}; select them from this dataset"
        )
