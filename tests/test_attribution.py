"""Influence and perturbation gradient against per-document loops, in float64."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.data.edits import Edits
from infusion.errors import DivergedError, InputError
from infusion.params import Params, is_finite
from infusion.perturb.gradient import gradients_together
from infusion.records import Dataset

from .oracles import derivative, document_gradients

SKIP = ("BatchNorm2d",)
PROBE = torch.linspace(0, 1, 72, dtype=torch.float64).reshape(2, 6, 6)


@pytest.fixture(params=[nn.ReLU, nn.Tanh], ids=["ReLU", "Tanh"])
def task(
    request: pytest.FixtureRequest, make_cnn: Callable[..., nn.Module]
) -> inf.Task:
    """A convolutional network with BatchNorm, left in train mode."""
    return inf.classification(make_cnn(activation=request.param).train())


@pytest.fixture
def ihvp(task: inf.Task, pictures: Dataset) -> Params:
    return solved(task, pictures, inf.log_prob(PROBE, 1))


def solved(task: inf.Task, data: Dataset, measurement: Callable) -> Params:
    curvature = inf.fit_ekfac(task, data, skip=SKIP)
    return curvature.solve(inf.gradient(task, measurement), damping_ratio=0.1)


def loop(task: inf.Task, data: Dataset, ihvp: Params) -> Tensor:
    """``−(1/n) ⟨s, ∇ℓᵢ⟩`` one document at a time."""
    task.model.eval()
    like = next(task.model.parameters())
    gradients = document_gradients(task, data.batch(torch.arange(len(data)), like=like))
    scores = [
        -sum(float((ihvp[name] * g[name]).sum()) for name in ihvp) / len(data)
        for g in gradients
    ]
    task.model.train()
    return torch.tensor(scores, dtype=torch.float64)


# Measurement gradient


def test_gradient_is_that_of_the_measurement(task: inf.Task) -> None:
    measurement = inf.log_prob(PROBE, 1)
    gradient = inf.gradient(task, measurement)
    assert all(m.training for m in task.model.modules())
    assert list(gradient) == [n for n, _ in task.model.named_parameters()]
    task.model.eval()
    for name, entry in [("0.weight", (2, 1, 0, 2)), ("1.bias", (3,)), ("6.bias", (0,))]:
        parameter = task.model.get_parameter(name).data

        def moved(
            change: float,
            parameter: Tensor = parameter,
            entry: tuple[int, ...] = entry,
        ) -> float:
            kept = parameter[entry].clone()
            parameter[entry] += change
            value = float(measurement(task.model).detach())
            parameter[entry] = kept
            return value

        got = float(gradient[name][entry])
        assert got == pytest.approx(derivative(moved, 1e-5), rel=1e-6, abs=1e-10)


def test_gradient_covers_trainable_parameters_only(task: inf.Task) -> None:
    task.model[0].requires_grad_(False)
    gradient = inf.gradient(task, lambda model: model[6].bias.sum())
    assert list(gradient) == [n for n, _ in task.model.named_parameters()][2:]
    assert float(gradient["3.weight"].abs().sum()) == 0.0
    assert torch.equal(gradient["6.bias"], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("measurement", "got"),
    [
        (lambda model: model(PROBE[None])[0], r"shape \(3,\) and requires_grad=True"),
        (
            lambda model: model(PROBE[None])[0, 0].detach(),
            r"shape \(\) and requires_grad=False",
        ),
    ],
    ids=["not a scalar", "detached"],
)
def test_unusable_measurements_are_refused(
    measurement: Callable, got: str, task: inf.Task
) -> None:
    with pytest.raises(InputError, match=f"scalar that depends on.* got {got}"):
        inf.gradient(task, measurement)


def test_measurements_that_are_not_finite_are_refused(task: inf.Task) -> None:
    with pytest.raises(DivergedError, match="must be finite, got nan"):
        inf.gradient(task, lambda model: model(PROBE[None] * torch.nan)[0, 0])
    with pytest.raises(DivergedError, match=r"must be finite, got 0\.0"):
        inf.gradient(task, lambda model: (0 * model[6].bias).sum().abs().sqrt())


# Influence


def test_influence_equals_the_loop_over_documents(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    got = inf.influence(task, pictures, ihvp)
    assert all(m.training for m in task.model.modules())
    expected = loop(task, pictures, ihvp)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-16)
    assert float(got.max()) > 0 > float(got.min())


@pytest.mark.parametrize("batch_size", [1, 5, 14])
def test_influence_does_not_depend_on_the_batch_size(
    batch_size: int, task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    done: list[int] = []
    got = inf.influence(
        task, pictures, ihvp, batch_size=batch_size, on_batch=done.append
    )
    expected = inf.influence(task, pictures, ihvp)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-16)
    assert sum(done) == len(pictures)
    assert max(done) == batch_size


def test_duplicates_score_alike_and_order_does_not_matter(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    order = torch.tensor([5, 0, 5, 13, 7, 5, 0])
    got = inf.influence(task, pictures.take(order), ihvp, batch_size=3)
    whole = inf.influence(task, pictures, ihvp)
    expected = whole[order] * len(pictures) / len(order)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-16)


def test_a_document_supports_its_own_log_probability(
    task: inf.Task, pictures: Dataset
) -> None:
    """``f = −ℓᵢ`` makes the influence ``(1/n) ∇ℓᵀ(H + λI)⁻¹∇ℓ``, never negative."""
    batch = pictures.batch(torch.arange(14), like=next(task.model.parameters()))
    for i in range(4):
        f = inf.log_prob(batch.inputs[i], int(batch.labels[i]))
        own = inf.influence(task, pictures, solved(task, pictures, f))[i]
        assert float(own) > 0


def test_large_damping_gives_the_gradient_dot_product(
    task: inf.Task, pictures: Dataset
) -> None:
    """``λ (H + λI)⁻¹ → I``, with an error of ``O(‖H‖/λ)``."""
    curvature = inf.fit_ekfac(task, pictures, skip=SKIP)
    gradient = inf.gradient(task, inf.log_prob(PROBE, 1))
    got = 1e9 * inf.influence(task, pictures, curvature.solve(gradient, damping=1e9))
    covered = {n: v for n, v in gradient.items() if not n.startswith("1.")}
    expected = loop(task, pictures, covered)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-12)


def test_an_ihvp_of_another_model_is_refused(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    batch = pictures.batch(torch.arange(2), like=next(task.model.parameters()))
    wrong = {
        "shape": {**ihvp, "6.bias": torch.zeros(4, dtype=torch.float64)},
        "name": {**ihvp, "7.bias": torch.zeros(3, dtype=torch.float64)},
    }
    messages = {
        "shape": r"got \(4,\) for 6.bias where the model has \(3,\)",
        "name": r"got \(3,\) for 7.bias where the model has no such parameter",
    }
    for kind, vector in wrong.items():
        with pytest.raises(InputError, match=messages[kind]):
            inf.influence(task, pictures, vector)
        with pytest.raises(InputError, match=messages[kind]):
            inf.perturbation_gradient(task, batch, vector, num_documents=14)


def test_scores_that_are_not_finite_are_refused(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    task.model[6].weight.data[0, 0] = torch.nan
    with pytest.raises(DivergedError, match="NaN or infinity for 14 documents"):
        inf.influence(task, pictures, ihvp)


# Perturbation gradient


def test_perturbation_gradient_equals_double_backward(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    like = next(task.model.parameters())
    batch = pictures.batch(torch.tensor([3, 0, 8]), like=like)
    got = inf.perturbation_gradient(task, batch, ihvp, num_documents=len(pictures))
    assert not got.requires_grad  # else a craft would keep every step's graph
    assert all(m.training for m in task.model.modules())
    task.model.eval()
    named = {n: task.model.get_parameter(n) for n in ihvp}
    for i in range(3):
        x = batch.inputs[i : i + 1].clone().requires_grad_()
        loss = nn.functional.cross_entropy(task.model(x), batch.labels[i : i + 1])
        pulled = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        along = sum((ihvp[n] * g).sum() for n, g in zip(named, pulled, strict=True))
        (expected,) = torch.autograd.grad(along, x)
        torch.testing.assert_close(
            got[i], -expected[0] / len(pictures), rtol=1e-8, atol=1e-14
        )


NORMS = {
    "layer": lambda: nn.LayerNorm((3, 4)),
    "layer, plain": lambda: nn.LayerNorm((3, 4), elementwise_affine=False),
    "batch": lambda: nn.BatchNorm1d(3),
    "batch, untracked": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "instance": lambda: nn.InstanceNorm1d(3, affine=True),
    "instance, tracked": lambda: nn.InstanceNorm1d(3, track_running_stats=True),
    "group": lambda: nn.GroupNorm(3, 3),
    "rms": lambda: nn.RMSNorm((3, 4)),
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_passes_the_derivative_of_its_derivative(
    norm: str, together: bool
) -> None:
    """torch takes the statistics of some for constants, without a word."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 12),
        nn.Unflatten(1, (3, 4)),
        NORMS[norm](),
        nn.Flatten(),
        nn.Tanh(),
        nn.Linear(12, 3),
    ).double()
    data = Dataset(torch.randn(5, 12).double(), torch.tensor([0, 1, 2, 0, 1]))
    task = inf.classification(model.eval())
    ihvp = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    ihvp = {n: s for n, s in ihvp.items() if not n.startswith("2.")}
    inputs = data.inputs.clone().requires_grad_()
    leaves = [model.get_parameter(n) for n in ihvp]
    loss = task.loss(model(inputs), data.batch(torch.arange(5))).sum()
    pulled = torch.autograd.grad(loss, leaves, create_graph=True)
    slope = sum((g * s).sum() for g, s in zip(pulled, ihvp.values(), strict=True))
    (expected,) = torch.autograd.grad(slope, inputs)
    if together:
        climb = gradients_together(task, data, [torch.arange(5)], [ihvp])
        found = climb(data.inputs) * -5
    else:
        batch = data.batch(torch.arange(5), like=data.inputs)
        found = inf.perturbation_gradient(task, batch, ihvp, num_documents=5) * -5
    torch.testing.assert_close(found, expected)


class _Wrong(torch.autograd.Function):
    """Squares; its forward-mode derivative forgets that it depends on the input."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, pulled: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * pulled

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0].detach() * tangent


def test_a_document_that_the_model_is_sure_of_can_be_edited() -> None:
    """Its loss has rounding errors for a gradient, which agree with nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[2].weight *= 60
        model[2].bias[0] += 20
    data = Dataset(torch.rand(5, 4), torch.zeros(5).long())
    task = inf.classification(model.eval())
    ihvp = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    climb = inf.influence_gradient([(task, ihvp)], data, torch.arange(2))
    assert climb(data.inputs[:2]).shape == (2, 4)
    nowhere = {name: value * float("nan") for name, value in ihvp.items()}
    with pytest.raises(DivergedError, match="must be finite, got NaN or infinity"):
        inf.influence_gradient([(task, nowhere)], data, torch.arange(2))


def test_forward_mode_that_is_wrong_when_differentiated_again_is_refused() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return _Wrong.apply(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Square(), nn.Linear(4, 3))
    data = Dataset(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
    task = inf.classification(model.eval())
    ihvp = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    with pytest.raises(InputError, match="must be differentiable once more, got a"):
        inf.influence_gradient([(task, ihvp)], data, torch.arange(2))
    with pytest.raises(InputError, match="must be differentiable once more, got a"):
        gradients_together(task, data, [torch.arange(2)], [ihvp])


def test_perturbation_gradient_is_the_slope_of_the_predicted_effect(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    like = next(task.model.parameters())
    values = pictures.batch(torch.arange(14), like=like)
    data = replace(pictures.values(), inputs=values.inputs)
    chosen = torch.tensor([3, 8])
    before = data.take(chosen)
    slope = inf.perturbation_gradient(
        task, before.batch(torch.arange(2), like=like), ihvp, num_documents=14
    )

    def predicted(change: float, position: tuple[int, ...]) -> float:
        inputs = before.inputs.clone()
        inputs[position] += change
        edits = Edits(chosen, before, replace(before, inputs=inputs), "test", {})
        return inf.predicted_effect(task, data, edits, ihvp)

    for position in [(0, 0, 2, 3), (1, 1, 5, 0), (1, 0, 3, 3)]:
        got = derivative(lambda change, p=position: predicted(change, p), 1e-5)
        assert got == pytest.approx(float(slope[position]), rel=1e-5, abs=1e-11)


def test_predicted_effect_sums_influences_and_sees_labels(
    task: inf.Task, pictures: Dataset, ihvp: Params
) -> None:
    chosen = torch.tensor([3, 8, 1])
    before = pictures.take(chosen)
    after = replace(before, labels=(before.labels + 1) % 3)
    edits = Edits(chosen, before, after, "relabel", {})
    scores = inf.influence(task, pictures, ihvp)
    changed = inf.influence(task, edits.apply(pictures), ihvp)
    assert inf.predicted_effect(task, pictures, edits, ihvp) == pytest.approx(
        float((changed - scores).sum()), rel=1e-10
    )
    assert torch.equal(changed[[0, 2]], scores[[0, 2]])


# Arithmetic on parameters


def test_is_finite_finds_one_bad_entry() -> None:
    good = {"a": torch.zeros(3), "b": torch.ones(2, 2)}
    assert is_finite(good)
    assert not is_finite({**good, "b": torch.tensor([torch.inf])})
