"""Measurements of one probe, against closed forms."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infusion.errors import InputError
from infusion.measure import accuracy, behaviour, holding, log_prob, predictions
from infusion.records import Batch, Dataset
from infusion.tasks import classification


class Logits(nn.Module):
    """Returns its input as logits; dropout would show a forgotten eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x) * self.weight


def test_behaviour_in_closed_form():
    logits, target = torch.tensor([1.0, -0.5, 0.25]), 2
    model = Logits().train()
    got = behaviour(model, logits, target)
    weights = [math.exp(z) for z in logits.tolist()]
    p = [w / sum(weights) for w in weights]
    assert got.probabilities == pytest.approx(p, rel=1e-12)
    assert got.p == pytest.approx(p[target], rel=1e-12)
    assert got.log_p == pytest.approx(math.log(p[target]), rel=1e-12)
    odds = p[target] / (1 - p[target])
    assert got.log_odds == pytest.approx(math.log(odds), rel=1e-12)
    assert got.top1 == 0
    assert model.training, "the mode must be put back"


def test_log_odds_survive_a_probability_of_one():
    got = behaviour(Logits(), torch.tensor([100.0, 0.0]), 0)
    assert got.p == 1.0
    assert got.log_odds == pytest.approx(100.0)
    assert behaviour(Logits(), torch.tensor([100.0, 0.0]), 1).log_odds == -100.0


def test_holding_costs_the_divergence_of_other_predictions():
    torch.manual_seed(0)
    model, inputs = Logits(), torch.randn(4, 3)
    task, batch = classification(model), Batch(inputs, torch.zeros(4).long())
    held = holding(log_prob(inputs[0], 1), task, batch, weight=2.0)
    assert model.training, "the mode must be put back"
    model.eval()
    own = log_prob(inputs[0], 1)(model)
    assert held(model).item() == pytest.approx(own.item(), abs=1e-6), "no divergence"
    model.weight.data.fill_(1.5)
    p, q = inputs.softmax(-1), (1.5 * inputs).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean().item()
    moved = log_prob(inputs[0], 1)(model).item()
    assert divergence > 0.01
    (slope,) = torch.autograd.grad(held(model), model.weight)
    assert abs(float(slope)) > 0.01
    model.weight.data.fill_(1.0)
    (slope,) = torch.autograd.grad(
        held(model) - log_prob(inputs[0], 1)(model), model.weight
    )
    assert abs(float(slope)) < 1e-6, "at its own parameters only the measurement pulls"
    model.weight.data.fill_(1.5)
    assert held(model).item() == pytest.approx(moved - 2 * divergence, rel=1e-5)
    with pytest.raises(InputError, match="weight must be > 0 and finite, got 0"):
        holding(log_prob(inputs[0], 1), task, batch, weight=0.0)
    with pytest.raises(InputError, match="must be kept on some inputs, got none"):
        holding(log_prob(inputs[0], 1), task, Batch(inputs[:0], None), weight=1.0)


def test_holding_leaves_out_padding_and_classes_that_are_ruled_out():
    class Ruled(Logits):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return torch.cat([out, torch.full_like(out[..., :1], -math.inf)], -1)

    torch.manual_seed(0)
    model, inputs = Ruled().eval(), torch.randn(2, 4, 3)
    counted = torch.tensor([[True, True, False, False], [True, False, False, False]])
    task = replace(classification(model), mask=lambda _: counted)
    batch = Batch(inputs, torch.zeros(2, 4).long())
    held = holding(lambda _: torch.zeros(()), task, batch, weight=1.0)
    model.weight.data.fill_(1.5)
    p, q = inputs[counted].softmax(-1), (1.5 * inputs[counted]).softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean().item()
    assert held(model).item() == pytest.approx(-divergence, rel=1e-5)
    regression = replace(task, likelihood="gaussian")
    with pytest.raises(InputError, match="must be of likelihood='categorical', got"):
        holding(lambda _: torch.zeros(()), regression, batch, weight=1.0)


def test_log_prob_is_what_behaviour_reports():
    logits = torch.tensor([0.3, 2.0, -1.0, 0.0])
    model = Logits().eval()
    value = log_prob(logits, 3)(model)
    assert value.shape == ()
    assert value.requires_grad
    assert float(value.detach()) == pytest.approx(behaviour(model, logits, 3).log_p)


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("model", "shape", "wanted"),
    [
        (conv(), (1, 1, 4, 4), "the model takes it as a batch"),
        (conv(), (5, 1, 4, 4), "the model takes it as a batch"),
        (
            nn.Sequential(nn.BatchNorm2d(1), conv()).eval(),
            (1, 1, 4, 4),
            "the model takes it as a batch",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
            (2, 1, 4, 4),
            "the model takes it as a batch",
        ),
        (nn.Linear(4, 3), (1, 4), r"which gives outputs \(1, 1, 3\)"),
    ],
    ids=["conv", "conv of five", "batch norm", "flat", "linear"],
)
def test_log_prob_refuses_a_probe_with_a_batch_axis(
    model: nn.Module, shape: tuple[int, ...], wanted: str
):
    probe = torch.zeros(shape)
    assert log_prob(probe[0], 1)(model).shape == ()
    got = rf"without batch axis, .* got shape {re.escape(str(shape))}: {wanted}; pass"
    with pytest.raises(InputError, match=got):
        log_prob(probe, 1)(model)


def test_log_prob_leaves_other_failures_of_a_model_alone():
    with pytest.raises(RuntimeError, match=r"expected input.* to have 1 channels"):
        log_prob(torch.zeros(2, 4, 4), 1)(conv())


@pytest.mark.parametrize("size", [1, 7, 1203])
def test_accuracy_counts_every_document_once(size: int, generator: torch.Generator):
    logits = torch.randn(size, 5, generator=generator)
    labels = torch.randint(0, 5, (size,), generator=generator)
    task, data = classification(Logits()), Dataset(logits, labels, num_classes=5)
    assert torch.equal(predictions(task, data, batch_size=4), logits.argmax(1))
    right = sum(int(z.argmax()) == int(y) for z, y in zip(logits, labels, strict=True))
    assert accuracy(task, data) == pytest.approx(right / size, rel=1e-15)
