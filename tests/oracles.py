"""Dense float64 answers, written to be obviously correct and nothing else.

No curvature, influence or perturbation code of the package is used here. A layer's
parameters are laid out as ``[o, i]`` rows, the bias as the last column, row by row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from infusion.records import Batch, Task


def layer_matrix(tensors: dict[str, Tensor], layer: str) -> Tensor:
    """Lay out one layer's part as ``[o, i]``, bias in the last column."""
    weight = tensors[f"{layer}.weight"].flatten(1)
    bias = tensors.get(f"{layer}.bias")
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)


def rows(batch: Batch) -> list[Batch]:
    """Split a batch into batches of one document."""
    pairs = zip(batch.inputs, batch.labels, strict=True)
    return [Batch(x[None], y[None]) for x, y in pairs]


def document_gradients(task: Task, batch: Batch) -> list[dict[str, Tensor]]:
    """Loop over documents: ``∇θ ℓᵢ`` of every parameter."""
    named = dict(task.model.named_parameters())
    gradients = []
    for row in rows(batch):
        loss = task.loss(task.outputs(task.model, row), row).sum()
        pulled = torch.autograd.grad(loss, list(named.values()))
        gradients.append(dict(zip(named, pulled, strict=True)))
    return gradients


def empirical_fisher(task: Task, batch: Batch, layer: str) -> Tensor:
    """``(1/n) Σᵢ ∇ℓᵢ ∇ℓᵢᵀ`` of one layer."""
    gradients = [
        layer_matrix(g, layer).flatten() for g in document_gradients(task, batch)
    ]
    stacked = torch.stack(gradients)
    return stacked.T @ stacked / len(stacked)


def gauss_newton(task: Task, batch: Batch, layer: str) -> Tensor:
    """``(1/n) Σᵢ Jᵢᵀ (∂²ℓᵢ/∂z²) Jᵢ`` of one layer, by torch.func."""
    names = [n for n, _ in task.model.named_parameters() if n.startswith(f"{layer}.")]
    params = {n: task.model.get_parameter(n).detach() for n in names}
    total = torch.zeros(())
    for row in rows(batch):
        z = task.outputs(task.model, row).detach()[0]

        def outputs(p: dict[str, Tensor], row: Batch = row) -> Tensor:
            return functional_call(task.model, p, (row.inputs,))[0]

        def loss(z: Tensor, row: Batch = row) -> Tensor:
            return task.loss(z[None], row)[0]

        per_output = jacrev(outputs)(params)
        jacobian = torch.stack(
            [
                layer_matrix({n: per_output[n][c] for n in names}, layer).flatten()
                for c in range(len(z))
            ]
        )
        total = total + jacobian.T @ hessian(loss)(z) @ jacobian
    return total.detach() / len(batch.inputs)


def gaussian_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """``½‖y − outputs‖²`` per document."""
    return 0.5 * (batch.labels - outputs).square().flatten(1).sum(1)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression in closed form.

    ``J(θ, w) = (1/n) Σ wᵢ ½(yᵢ − xᵢᵀθ)² + ½ decay ‖θ‖²``, at ``w = 1`` unless given;
    the measurement is the prediction ``f(θ) = probeᵀθ``.
    """

    x: Tensor
    y: Tensor
    decay: float
    probe: Tensor

    @property
    def hessian(self) -> Tensor:
        """``∂²J/∂θ²``."""
        identity = torch.eye(self.x.shape[1], dtype=self.x.dtype)
        return self.x.T @ self.x / len(self.x) + self.decay * identity

    def solution(self, weights: Tensor | None = None) -> Tensor:
        """``argmin J``."""
        weights = torch.ones_like(self.y) if weights is None else weights
        weighted = self.x.T * weights
        identity = torch.eye(self.x.shape[1], dtype=self.x.dtype)
        matrix = weighted @ self.x / len(self.x) + self.decay * identity
        return torch.linalg.solve(matrix, weighted @ self.y / len(self.x))

    def measurement(self, weights: Tensor | None = None) -> float:
        """``f`` after full training."""
        return float(self.probe @ self.solution(weights))

    @property
    def ihvp(self) -> Tensor:
        """``s = H⁻¹ ∇f``."""
        return torch.linalg.solve(self.hessian, self.probe)

    @property
    def leverage(self) -> Tensor:
        """``xᵢᵀ H⁻¹ xᵢ / n``."""
        solved = torch.linalg.solve(self.hessian, self.x.T)
        return (self.x * solved.T).sum(1) / len(self.x)

    @property
    def influence(self) -> Tensor:
        """``−(1/n) sᵀ∇ℓᵢ`` with ``∇ℓᵢ = (xᵢᵀθ − yᵢ) xᵢ``."""
        residual = self.x @ self.solution() - self.y
        return -residual * (self.x @ self.ihvp) / len(self.x)

    @property
    def perturbation_gradient(self) -> Tensor:
        """``−(1/n) ∂ₓ⟨s, ∇ℓᵢ⟩``; ``∂²ℓ/∂θ∂x = x θᵀ + (xᵀθ − y) I``."""
        theta, s = self.solution(), self.ihvp
        residual = self.x @ theta - self.y
        mixed = (self.x @ s)[:, None] * theta + residual[:, None] * s
        return -mixed / len(self.x)

    def model(self) -> nn.Module:
        """One linear layer that holds the solution."""
        layer = nn.Linear(self.x.shape[1], 1, bias=False, dtype=self.x.dtype)
        layer.weight.data = self.solution()[None]
        return layer


def derivative(function: Callable[[float], float], step: float) -> float:
    """Derivative at 0 by the five-point central difference, error ``O(step⁴)``."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def simplex_row_by_row(row: list[float], gini: float | None) -> list[float]:
    """Nearest point of the simplex to one row, or of its rows of at most this index.

    The simplex by sorting; more peaked rows by bisection for ``μ`` in
    ``max(0, y − μ) / Σ max(0, y − μ)``.
    """

    def at(level: float) -> list[float]:
        above = [max(0.0, y - level) for y in row]
        whole = sum(above)
        return [a / whole for a in above]

    total, level = 0.0, 0.0
    for count, y in enumerate(sorted(row, reverse=True), start=1):
        total += y
        if y > (total - 1) / count:
            level = (total - 1) / count
    nearest = [max(0.0, y - level) for y in row]
    if gini is None or 1 - sum(x * x for x in nearest) <= gini:
        return nearest
    low, high = level, max(row)
    for _ in range(60):
        middle = (low + high) / 2
        if 1 - sum(x * x for x in at(middle)) > gini:
            low = middle
        else:
            high = middle
    return at(low)
