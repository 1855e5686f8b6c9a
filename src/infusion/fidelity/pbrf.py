"""The proximal Bregman response: what influence functions approximate, by optimising.

Giving document ``i`` the weight ``wᵢ`` moves the trained parameters ``θ̂`` to

    argmin_θ (1/n) Σᵢ [D(zᵢ(θ), ẑᵢ) − (1 − wᵢ) ℓᵢ(θ)] + ½ Σ λ ‖θ − θ̂‖²

with outputs ``z``, the trained model's ``ẑ``, and the Bregman divergence of the loss,
``D(z, ẑ) = ℓ(z) − ℓ(ẑ) − ⟨∂ℓ(ẑ), z − ẑ⟩``, for cross-entropy ``KL(p̂ ‖ p)``. A document
thus adds ``wᵢ ℓᵢ(z) − ⟨∂ℓᵢ(ẑ), z⟩``: at ``w = 1`` the trained model is stationary even
where training stopped early. Linearising ``z`` and expanding to second order gives
influence functions with the Gauss–Newton matrix and the damping ``λ``.

With cross-entropy a document of weight ``w`` that had the probability ``p̂`` bounds the
objective from below where ``w + p̂ ≥ 1`` only: taking many documents out whole may have
no solution, taking a little weight off them has one.

Source: Bae et al. (2022), "If influence functions are the answer, then what is the
question?", arXiv 2209.05364, eqs. 6 and 8.
"""

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.curvature.blocks import Curvature
from infusion.errors import DivergedError
from infusion.params import Params, is_finite
from infusion.records import Dataset, Task
from infusion.tasks import batches, evaluating, losses

BATCH_SIZE = 250


@dataclass(frozen=True)
class Response:
    """The moved model and how well the optimisation ended.

    Attributes:
        task: Its model is a copy at the solution.
        residual: Norm of the objective's preconditioned gradient there over that at
            the start.
        evaluations: Of objective and gradient over all documents.
    """

    task: Task
    residual: float
    evaluations: int


def proximal_bregman_response(
    task: Task,
    data: Dataset,
    weights: Float[Tensor, " n"],
    curvature: Curvature,
    *,
    damping_ratio: float,
    max_evaluations: int = 50,
    rtol: float = 0.01,
) -> Response:
    """Move a trained model to where other weights of its documents take it.

    Args:
        task: Trained on all of ``data`` at weight 1; left as it is.
        data: Training documents.
        weights: ``wᵢ``.
        curvature: Names the parameters that may move, and preconditions the search;
            the solution depends on it through the damping only.
        damping_ratio: ``λ`` over each layer's mean eigenvalue.
        max_evaluations: Most evaluations of the objective, about.
        rtol: Stop once the residual is about this small.

    Returns:
        The response, by L-BFGS over all documents at once: the same every time.

    Raises:
        DivergedError: The solution is not finite.
    """
    moved = replace(task, model=copy.deepcopy(task.model))
    objective = _Objective(moved, data, weights, curvature, damping_ratio)
    with evaluating(moved.model), torch.enable_grad():
        objective()
        first = objective.gradient_norm()
        optimiser = torch.optim.LBFGS(
            list(objective.steps.values()),
            max_iter=max_evaluations,
            max_eval=max_evaluations,
            history_size=max_evaluations,
            tolerance_grad=rtol * objective.largest(),
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        optimiser.step(objective)
        objective()
    if not is_finite(dict(moved.model.named_parameters())):
        raise DivergedError(
            "a proximal Bregman response must be finite, got NaN or infinity after "
            f"{objective.evaluations} evaluations; take less weight off, or raise the "
            "damping"
        )
    residual = objective.gradient_norm() / first if first else 0.0
    return Response(moved, residual, objective.evaluations)


class _Objective:
    """The objective in preconditioned steps ``u``: ``θ = θ̂ + (H + λI)^(−½) u``.

    Calling it evaluates it, leaves the gradient in ``steps`` and moves the model.
    """

    def __init__(
        self,
        moved: Task,
        data: Dataset,
        weights: Tensor,
        curvature: Curvature,
        damping_ratio: float,
    ) -> None:
        self.moved, self.data, self.weights = moved, data, weights
        self.curvature, self.ratio = curvature, damping_ratio
        lambdas = curvature.damping(damping_ratio=damping_ratio)
        self.damping = {
            name: lambdas[layer]
            for layer, block in curvature.blocks.items()
            for name in block.names
        }
        own = dict(moved.model.named_parameters())
        self.params = {name: own[name] for name in self.damping}
        self.start = {name: p.detach().clone() for name, p in self.params.items()}
        self.steps = {
            name: torch.zeros(p.shape, dtype=p.dtype).requires_grad_()
            for name, p in self.params.items()
        }
        self.slopes = _slopes(moved, data)
        self.evaluations = 0

    def __call__(self) -> float:
        """Evaluate it over all documents."""
        self.evaluations += 1
        steps = {name: step.detach() for name, step in self.steps.items()}
        away = self._preconditioned(steps)
        with torch.no_grad():
            for name, parameter in self.params.items():
                parameter.copy_(self.start[name] + away[name])
        gradient = {name: self.damping[name] * away[name] for name in away}
        total = 0.5 * sum(float((gradient[n] * away[n]).sum()) for n in away)
        for documents, batch in batches(self.moved, self.data, BATCH_SIZE):
            outputs = self.moved.outputs(self.moved.model, batch)
            linear = (self.slopes[documents] * outputs).flatten(1).sum(1)
            loss = losses(self.moved, outputs, batch) * self.weights[documents]
            part = (loss - linear).sum() / len(self.data)
            pulled = torch.autograd.grad(part, list(self.params.values()))
            for name, value in zip(self.params, pulled, strict=True):
                gradient[name] = gradient[name] + value
            total += float(part.detach())
        for name, value in self._preconditioned(gradient).items():
            self.steps[name].grad = value.contiguous()
        return total

    def largest(self) -> float:
        """Return the largest entry of the gradient, whatever its sign."""
        return float(self._gradient().abs().max())

    def gradient_norm(self) -> float:
        """Return the length of the gradient."""
        return float(self._gradient().norm())

    def _gradient(self) -> Tensor:
        grads = [step.grad for step in self.steps.values()]
        return torch.cat([grad.flatten() for grad in grads if grad is not None])

    def _preconditioned(self, vector: Params) -> Params:
        return self.curvature.filtered(
            vector, lambda e: (e + self.ratio * e.mean()).rsqrt()
        )


def _slopes(task: Task, data: Dataset) -> Tensor:
    """Derivatives of the losses in the outputs, ``∂ℓ(ẑ)``, of every document."""
    slopes = []
    with evaluating(task.model), torch.enable_grad():
        for _, batch in batches(task, data, BATCH_SIZE):
            outputs = task.outputs(task.model, batch).detach().requires_grad_()
            total = losses(task, outputs, batch).sum()
            slopes.append(torch.autograd.grad(total, outputs)[0])
    return torch.cat(slopes)
