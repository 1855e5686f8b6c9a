"""Projected gradient ascent on documents with continuous inputs, and its delivery.

    δ ← Π_budget(δ + α·u),   u = sign(∂f/∂x)  or  ∂f/∂x over its norm

then the valid range, then the storage grid: levels are rounded towards the original,
so that neither projection can push an edit out of its budget.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.attribution import along, directional_losses
from infusion.configs import Ascent, Delivery
from infusion.data.edits import Edits
from infusion.errors import (
    DivergedError,
    InputError,
    check_choice,
    check_whole,
)
from infusion.params import Params
from infusion.perturb.budget import L2, Budget, LInf, per_document
from infusion.perturb.gradient import (
    ChosenGradient,
    InputGradient,
    check_chosen,
    influence_gradient,
)
from infusion.records import Dataset, Task
from infusion.tasks import batches, evaluating, first_parameter

_ROUNDING = 1e-3
"""Levels: how far below a whole level float32 arithmetic may leave one."""


def _direction(gradient: Tensor, budget: Budget, ascent: Ascent) -> Tensor:
    if ascent == "sign":
        return gradient.sign()
    length = budget.size(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / per_document(length, gradient)


def deliver(
    before: Dataset, delta: Float[Tensor, "k ..."], budget: Budget | None
) -> Dataset:
    """Store edited documents: within the budget, the valid range and on the grid.

    Args:
        before: Original rows.
        delta: Wanted change, in values.
        budget: Largest change; ``None`` for no limit.

    Returns:
        The edited rows, stored as ``before`` is.
    """
    if budget is not None:
        delta = budget.project(delta)
    values = before.values().inputs.to(delta.dtype)
    if before.valid is not None:
        delta = (values + delta).clamp(*before.valid) - values
    if before.levels is None:
        return replace(before, inputs=(values + delta).to(before.inputs.dtype))
    wanted = delta.double() * before.levels
    steps = (wanted + _ROUNDING * wanted.sign()).trunc()
    if budget is not None:  # a budget just below a whole level: not that level then
        over = budget.size(steps / before.levels) > budget.epsilon * (1 + 1e-9)
        steps[over] = wanted[over].trunc()
    levels = before.inputs.long() + steps.long().to(before.inputs.device)
    return replace(before, inputs=levels.clamp(0, before.levels).to(torch.uint8))


def craft(
    task: Task,
    data: Dataset,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    budget: Budget,
    steps: int = 50,
    step_size: float | None = None,
    ascent: Ascent = "sign",
    delivery: Delivery = "realisable",
    batch_size: int = 128,
    on_step: Callable[[], None] = lambda: None,
) -> Edits:
    """Edit documents so that retraining on them is predicted to raise the measurement.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set.
        chosen: Documents to edit.
        ihvp: From ``curvature.solve``.
        budget: Largest change of a document, in values, e.g. ``LInf(8 / 255)``.
        steps: Gradient evaluations per document.
        step_size: See :func:`ascend`, like all that follows.
        ascent: Sign or raw.
        delivery: Realisable or as coded.
        batch_size: Documents held at once.
        on_step: Called after each step.

    Returns:
        Edited documents beside their originals, with what was asked and reached.

    Raises:
        InputError: The inputs cannot be perturbed, a document is named twice or does
            not exist, or steps, step size or batch size are not positive.
        DivergedError: A perturbation gradient is not finite.

    Source:
        arXiv 2602.09987, §3; Madry et al. (2018), arXiv 1706.06083.
    """
    check_whole("batch_size", batch_size)
    check_chosen(data, chosen)
    climb = influence_gradient([(task, ihvp)], data, chosen, batch_size=batch_size)
    return ascend(
        data,
        chosen,
        climb,
        like=first_parameter(task),
        budget=budget,
        steps=steps,
        step_size=step_size,
        ascent=ascent,
        delivery=delivery,
        on_step=on_step,
    )


def ascend(
    data: Dataset,
    chosen: Int[Tensor, " k"],
    climb: InputGradient,
    *,
    like: Tensor,
    budget: Budget,
    steps: int = 50,
    step_size: float | None = None,
    ascent: Ascent = "sign",
    delivery: Delivery = "realisable",
    on_step: Callable[[], None] = lambda: None,
) -> Edits:
    """Edit documents by projected gradient ascent on any gradient of their inputs.

    Args:
        data: The whole training set.
        chosen: Documents to edit.
        climb: Gradient to ascend, :func:`influence_gradient` or one through retraining.
        like: Gives dtype and device of the values handed to ``climb``.
        budget: Largest change of a document, in values, e.g. ``LInf(8 / 255)``.
        steps: Gradient evaluations per document.
        step_size: ``α``, in values; ``None`` is ``2.5 · ε / steps`` (Madry et al.
            2018).
        ascent: ``"sign"``, or ``"raw"``: the gradient of each document over its norm,
            in the budget's norm, so that ``α`` keeps its unit.
        delivery: ``"realisable"``, or ``"as_coded"``: no budget, no clamp, no rounding,
            as the paper's code, whose ε never binds; the result is stored as floats.
        on_step: Called after each step.

    Returns:
        Edited documents beside their originals, with what was asked and reached.

    Raises:
        InputError: As :func:`craft`.
        DivergedError: A gradient is not finite.

    Source:
        Madry et al. (2018), arXiv 1706.06083.
    """
    check_choice("ascent", ascent, get_args(Ascent))
    check_choice("delivery", delivery, get_args(Delivery))
    check_chosen(data, chosen)
    check_whole("steps", steps)
    _check_climb(climb, chosen, budget, step_size)
    if delivery == "realisable":
        check_reach("epsilon", budget.epsilon, data)
    alpha = 2.5 * budget.epsilon / steps if step_size is None else step_size
    original = data.batch(chosen, like=like).inputs
    delta = torch.zeros_like(original)
    for _ in range(steps):
        gradient = climb(original + delta)
        _check_gradient(gradient, original)
        if not bool(torch.isfinite(gradient).all()):
            raise DivergedError(
                "a perturbation gradient must be finite, got NaN or infinity; check "
                "the chosen documents and raise the damping"
            )
        delta = delta + alpha * _direction(gradient, budget, ascent)
        if delivery == "realisable":
            delta = budget.project(delta)
        if delivery == "realisable" and data.valid is not None:
            delta = (original + delta).clamp(*data.valid) - original
        on_step()
    before, delta = data.take(chosen), delta.cpu()
    if delivery == "as_coded":
        values = before.values()
        after = replace(values, inputs=values.inputs + delta.to(values.inputs))
    else:
        after = deliver(before, delta, budget)
        if torch.equal(after.inputs, before.inputs):
            raise InputError(
                f"an ascent must change a document, got none within {budget.name} "
                f"{budget.epsilon:g} on this storage; raise epsilon or the step size"
            )
    asked = {
        "norm": budget.name,
        "epsilon": budget.epsilon,
        "steps": steps,
        "step_size": alpha,
        "ascent": ascent,
        "delivery": delivery,
    }
    return Edits(chosen, before, after, operator="ascent", asked=asked)


def _check_climb(
    climb: InputGradient, chosen: Tensor, budget: Budget, step_size: float | None
) -> None:
    if not isinstance(budget, (LInf, L2)):
        raise InputError(
            f"budget must be an infusion.LInf or L2, got {budget!r}; e.g. LInf(8 / 255)"
        )
    if isinstance(climb, ChosenGradient) and not torch.equal(climb.documents, chosen):
        raise InputError(
            "a gradient must be of the chosen documents, got one of others; make it "
            "with the same documents"
        )
    if step_size is not None and not 0 < step_size < math.inf:
        raise InputError(
            f"step_size must be > 0 and finite, got {step_size}; choose another"
        )


def _check_gradient(gradient: object, inputs: Tensor) -> None:
    if not isinstance(gradient, Tensor) or gradient.shape != inputs.shape:
        got = (
            tuple(gradient.shape)
            if isinstance(gradient, Tensor)
            else type(gradient).__name__
        )
        raise InputError(
            "a gradient to climb must be a tensor like the inputs, "
            f"{tuple(inputs.shape)}, got {got}; return e.g. replay_gradient(…).gradient"
        )


def check_reach(name: str, reach: float, data: Dataset) -> None:
    """Refuse a distance within which no stored document can change.

    Args:
        name: What sets the distance.
        reach: Largest change, in values.
        data: Gives the storage grid.

    Raises:
        InputError: It is below one storage level.
    """
    levels = data.levels
    if levels is not None and reach * levels < 1 - 1e-6:  # 1/levels, rounded
        raise InputError(
            f"{name} must be at least one storage level, 1/{levels} = "
            f"{1 / levels:.4g}, got {reach:.4g}: nothing could change; raise it"
        )


def predicted_effect(
    task: Task, data: Dataset, edits: Edits, ihvp: Params, *, batch_size: int = 64
) -> float:
    """Change of the measurement that influence predicts for these very edits.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set, for its size.
        edits: Labels may differ too.
        ihvp: From ``curvature.solve``.
        batch_size: Documents held at once.

    Returns:
        ``−(1/n) Σᵢ (⟨s, ∇ℓ(zᵢ′)⟩ − ⟨s, ∇ℓ(zᵢ)⟩)``, in units of the measurement.

    Raises:
        InputError: The IHVP does not fit the model, or the batch size is not positive.

    Source:
        arXiv 2602.09987, eq. 3, without linearising in the edit.
    """
    params = along(task, ihvp)
    totals = []
    with evaluating(task.model), torch.no_grad():
        for rows in (edits.after, edits.before):
            parts = [
                directional_losses(task, params, ihvp, batch).double().sum()
                for _, batch in batches(task, rows, batch_size)
            ]
            totals.append(float(torch.stack(parts).sum()))
    return (totals[0] - totals[1]) / -len(data)
