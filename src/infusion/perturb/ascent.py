"""The loop of a projected gradient ascent, and how its result is stored.

    δ ← Π_budget(δ + α·u),   u = sign(g)  or  g over its norm,   g = ∂f/∂x
    with momentum μ:         g ← μ·g + ∂f/∂x over its mean absolute value

then the valid range, then the storage grid: levels are rounded towards the original,
so that neither projection can push an edit out of its budget.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.configs import Ascent, Delivery
from infusion.data.edits import Edits
from infusion.errors import InputError, check_choice, check_whole
from infusion.perturb.budget import L2, Budget, LInf, per_document
from infusion.perturb.gradient import InputGradient, check_finite
from infusion.records import Dataset, Documents

_ROUNDING = 1e-3
"""Levels: how far below a whole level float32 arithmetic may leave one."""


@dataclass(frozen=True, kw_only=True)
class AscentSettings:
    """How an ascent goes; see :func:`ascend` for each.

    Attributes:
        budget: Largest change.
        steps: Gradient evaluations.
        step_size: Of one step, or None.
        ascent: Sign or raw.
        delivery: Realisable or as coded.
        momentum: Share of the direction so far that stays.
    """

    budget: Budget
    steps: int
    step_size: float | None
    ascent: Ascent
    delivery: Delivery
    momentum: float = 0.0

    @property
    def alpha(self) -> float:
        """Step size, in values."""
        default = 2.5 * self.budget.epsilon / self.steps
        return default if self.step_size is None else self.step_size

    def check(self, data: Documents) -> None:
        """Refuse settings that nothing can be edited with.

        Args:
            data: Gives the storage grid.

        Raises:
            InputError: One is out of range.
        """
        check_choice("ascent", self.ascent, get_args(Ascent))
        check_choice("delivery", self.delivery, get_args(Delivery))
        check_whole("steps", self.steps)
        if not isinstance(self.budget, (LInf, L2)):
            raise InputError(
                f"budget must be an infusion.LInf or L2, got {self.budget!r}; e.g. "
                "LInf(8 / 255)"
            )
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise InputError(
                f"step_size must be > 0 and finite, got {self.step_size}; choose "
                "another"
            )
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"momentum of an ascent must be in [0, 1), got {self.momentum}; 0.9 is "
                "usual"
            )
        if self.delivery == "realisable":
            check_reach("epsilon", self.budget.epsilon, data)

    def climbed(
        self,
        original: Float[Tensor, "k ..."],
        climb: InputGradient,
        valid: tuple[float, float] | None,
        *,
        on_step: Callable[[], None],
    ) -> Float[Tensor, "k ..."]:
        """Climb from zero.

        Args:
            original: Inputs to change, in values.
            climb: Gradient.
            valid: Range of the values.
            on_step: Called after each step.

        Returns:
            The change.

        Raises:
            InputError: The gradient has another shape.
            DivergedError: It is not finite.
        """
        delta, heading = torch.zeros_like(original), torch.zeros_like(original)
        for _ in range(self.steps):
            gradient = climb(original + delta)
            _check_gradient(gradient, original)
            if self.momentum:
                heading = gradient = self.momentum * heading + _of_mean_one(gradient)
            delta = delta + self.alpha * _direction(gradient, self.budget, self.ascent)
            if self.delivery == "realisable":
                delta = self.budget.project(delta)
            if self.delivery == "realisable" and valid is not None:
                delta = (original + delta).clamp(*valid) - original
            on_step()
        return delta

    def delivered(
        self, data: Documents, chosen: Int[Tensor, " k"], delta: Float[Tensor, "k ..."]
    ) -> Edits:
        """Store a change.

        Args:
            data: The whole training set.
            chosen: Documents.
            delta: Change of each.

        Returns:
            The edits.

        Raises:
            InputError: Nothing changed on this storage.
        """
        before, delta = data.take(chosen), delta.cpu()
        if self.delivery == "as_coded":
            values = before.values()
            after = replace(values, inputs=values.inputs + delta.to(values.inputs))
        else:
            after = deliver(before, delta, self.budget)
            if torch.equal(after.inputs, before.inputs):
                raise InputError(
                    "an ascent must change a document, got none within "
                    f"{self.budget.name} {self.budget.epsilon:g} on this storage; "
                    "raise epsilon or the step size"
                )
        asked = {
            "norm": self.budget.name,
            "epsilon": self.budget.epsilon,
            "steps": self.steps,
            "step_size": self.alpha,
            "ascent": self.ascent,
            "delivery": self.delivery,
            "momentum": self.momentum,
        }
        return Edits(chosen, before, after, operator="ascent", asked=asked)


def _direction(gradient: Tensor, budget: Budget, ascent: Ascent) -> Tensor:
    if ascent == "sign":
        return gradient.sign()
    length = budget.size(gradient).clamp_min(_tiny(gradient))
    return gradient / per_document(length, gradient)


def _of_mean_one(gradient: Tensor) -> Tensor:
    """Scale each document's gradient to a mean absolute value of one."""
    mean = gradient.flatten(1).abs().mean(1)
    return gradient / per_document(mean.clamp_min(_tiny(gradient)), gradient)


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny


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
    check_finite(gradient)


def check_reach(name: str, reach: float, data: Documents) -> None:
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
