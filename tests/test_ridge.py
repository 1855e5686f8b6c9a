"""Ridge regression answers the whole pipeline in closed form (style.md §3.5).

One linear layer with one output and ``½(y − xᵀθ)²``: the exact Fisher is the Hessian
of the data term, whatever the residuals. The layer's output factor is a scalar, so
``G ⊗ A`` loses nothing and EK-FAC equals that Hessian; its damping plays the decay.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.records import Batch, call_model

from .oracles import Ridge, derivative, gaussian_loss

DECAY = 0.1


@pytest.fixture(params=[3, 8], ids="p={}".format)
def ridge(request: pytest.FixtureRequest, generator: torch.Generator) -> Ridge:
    x, y, probe = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(20, request.param), (20,), (request.param,)]
    )
    return Ridge(x, y, DECAY, probe)


def pipeline(ridge: Ridge, damping: float) -> tuple[inf.Task, inf.Dataset, dict]:
    """Everything up to the IHVP, through the public functions only."""
    task = inf.Task(ridge.model(), call_model, gaussian_loss, "gaussian")
    data = inf.Dataset(ridge.x, ridge.y[:, None])

    def prediction(model: nn.Module) -> Tensor:
        return model(ridge.probe[None]).sum()

    curvature = inf.fit_ekfac(task, data, fisher="exact")
    return task, data, curvature.solve(inf.gradient(task, prediction), damping=damping)


def influence(ridge: Ridge, damping: float = DECAY) -> Tensor:
    return inf.influence(*pipeline(ridge, damping))


def test_influence_equals_the_closed_form(ridge: Ridge) -> None:
    torch.testing.assert_close(
        influence(ridge), ridge.influence, rtol=1e-12, atol=1e-15
    )


def test_influence_equals_the_derivative_of_retraining_in_the_weight(
    ridge: Ridge,
) -> None:
    ones = torch.ones_like(ridge.y)

    def retrained(document: int, change: float) -> float:
        return ridge.measurement(ones.index_fill(0, torch.tensor(document), 1 + change))

    expected = [
        derivative(lambda change, i=i: retrained(i, change), 3e-3)
        for i in range(len(ones))
    ]
    torch.testing.assert_close(
        influence(ridge),
        torch.tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )


def test_influence_over_one_minus_leverage_is_leave_one_out(ridge: Ridge) -> None:
    ones = torch.ones_like(ridge.y)
    left_out = torch.tensor(
        [
            ridge.measurement(ones.index_fill(0, torch.tensor(i), 0.0))
            - ridge.measurement()
            for i in range(len(ones))
        ],
        dtype=torch.float64,
    )
    predicted = -influence(ridge) / (1 - ridge.leverage)
    torch.testing.assert_close(predicted, left_out, rtol=0, atol=1e-14)


def test_influences_sum_to_the_pull_of_the_decay(ridge: Ridge) -> None:
    """At the optimum ``(1/n) Σ∇ℓᵢ = −decay θ``, so they sum to ``decay sᵀθ``."""
    expected = DECAY * float(ridge.ihvp @ ridge.solution())
    assert abs(expected) > 1e-3
    assert float(influence(ridge).sum()) == pytest.approx(expected, abs=1e-14)


def test_influences_sum_to_zero_without_decay(ridge: Ridge) -> None:
    """``Σ∇ℓᵢ = 0`` at the optimum, so the sum is 0 for every ``s``, at any damping."""
    scores = influence(replace(ridge, decay=0.0), damping=1e-9)
    assert float(scores.abs().max()) > 1e-3
    assert abs(float(scores.sum())) < 1e-14


def test_perturbation_gradient_equals_the_derivative_of_retraining(
    ridge: Ridge,
) -> None:
    task, data, ihvp = pipeline(ridge, DECAY)
    batch = Batch(data.inputs, data.labels)
    got = inf.perturbation_gradient(task, batch, ihvp, num_documents=len(data))

    def retrained(document: int, entry: int, change: float) -> float:
        x = ridge.x.clone()
        x[document, entry] += change
        return replace(ridge, x=x).measurement()

    expected = [
        [
            derivative(lambda change, i=i, j=j: retrained(i, j, change), 1e-3)
            for j in range(ridge.x.shape[1])
        ]
        for i in range(len(ridge.x))
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(got, ridge.perturbation_gradient, rtol=1e-12, atol=1e-15)


def test_a_damping_other_than_the_decay_gives_another_answer(ridge: Ridge) -> None:
    difference = influence(ridge, damping=2 * DECAY) - ridge.influence
    assert float(difference.abs().max()) > 1e-4
