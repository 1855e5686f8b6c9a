"""The doctor: a planted fault, a clean case, and one that does not apply, per check."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import infusion as inf
from infusion.attribution.doctor import Diagnosis, Finding, diagnose
from infusion.curvature.blocks import Curvature
from infusion.records import Dataset

from .test_kinds import make, texts

texts = texts


def finding(diagnosis: Diagnosis, code: str) -> Finding:
    (found,) = [f for f in diagnosis.findings if f.code == code]
    return found


def assert_outcome(diagnosis: Diagnosis, code: str, outcome: str, said: str) -> None:
    found = finding(diagnosis, code)
    assert (found.outcome, said in found.evidence) == (outcome, True), found


def test_a_sound_model_passes_every_check(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    diagnosis = diagnose(inf.classification(make_cnn()), pictures)
    assert [f.code for f in diagnosis.findings] == [f"D00{i}" for i in range(1, 9)]
    outcomes = {f.code: f.outcome for f in diagnosis.findings}
    assert outcomes.pop("D004") == "not applicable"
    assert set(outcomes.values()) == {"ok"}


def test_uncovered_layers_are_counted(texts: Dataset) -> None:
    model = nn.Sequential(make("Linear"), nn.PReLU(3)).double()
    diagnosis = diagnose(inf.classification(model), texts)
    assert_outcome(diagnosis, "D001", "warning", "1 (PReLU): 3")
    assert_outcome(
        diagnose(inf.classification(model), texts, skip=("PReLU",)), "D001", "ok", "3"
    )
    assert_outcome(
        diagnose(inf.classification(model), texts, skip=("PReLU", "X")),
        "D001",
        "warning",
        "matches nothing: X",
    )


def test_half_precision_is_a_warning(texts: Dataset) -> None:
    task = inf.classification(make("Linear").bfloat16())
    assert_outcome(diagnose(task, texts), "D002", "warning", "bfloat16")


def test_a_missing_likelihood_is_a_warning(texts: Dataset) -> None:
    task = inf.classification(make("Linear"))
    bare = inf.Task(task.model, task.outputs, task.loss)
    assert_outcome(diagnose(bare, texts), "D003", "warning", "only the empirical")


def test_shared_weights_are_listed(texts: Dataset) -> None:
    task = inf.classification(make("head tied to embedding"))
    assert_outcome(diagnose(task, texts), "D004", "ok", "embed = head")


def test_documents_that_see_each_other_are_found(pictures: Dataset) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(72, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return self.a(flat + flat.mean(0))

    diagnosis = diagnose(inf.classification(Model()), pictures)
    assert_outcome(diagnosis, "D005", "warning", "must not depend on the others")
    assert diagnosis.stages == []


def test_gradients_that_change_with_the_batch_are_found(pictures: Dataset) -> None:
    class Uneven(torch.autograd.Function):
        """A kernel whose backward differs between batch shapes, as fused ones do."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * (1 + 0.1 * (len(grads[0]) > 1))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(72, 5).double()
            self.b = nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(Uneven.apply(self.a(x.flatten(1))))

    diagnosis = diagnose(inf.classification(Model()), pictures)
    assert_outcome(diagnosis, "D006", "warning", "at a: use the math or eager")
    assert_outcome(diagnosis, "D007", "warning", "or use influences")
    one = diagnose(inf.classification(Model()), pictures.take(torch.tensor([0])))
    assert_outcome(one, "D006", "not applicable", "only one document")


def operations(work: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("name", ["Linear", "Conv1d", "LayerNorm"])
def test_operations_are_those_of_a_fit(name: str, texts: Dataset) -> None:
    assert_operations(inf.classification(make(name)), texts, ())


def test_operations_are_those_of_a_fit_on_pictures(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    assert_operations(inf.classification(make_cnn()), pictures, ("BatchNorm2d",))


def assert_operations(task: inf.Task, data: Dataset, skip: tuple[str, ...]) -> None:
    """What torch counts while fitting and scoring, without eigenvectors (not counted),
    the three documents that check the wiring, and solves."""
    data = data.take(torch.arange(10 * len(data)) % len(data))
    found = diagnose(task, data, skip=skip, measurements=2)
    stages = {s.name: s.operations for s in found.stages}
    kept: list[Curvature] = []

    def fit() -> None:
        kept.append(inf.fit_ekfac(task, data, fisher="empirical", skip=skip))

    counted = operations(fit)
    predicted = stages["factors"] + stages["eigenvalues"]
    assert predicted == pytest.approx(counted, rel=0.1)
    vector = {n: torch.ones_like(p) for n, p in task.model.named_parameters()}
    ihvp = kept[0].solve(vector, damping=1.0)
    counted = operations(lambda: inf.influences(task, data, [ihvp, ihvp]))
    assert stages["influence of 2, together"] == pytest.approx(counted, rel=0.1)


def test_memory_grows_with_the_batch_and_the_measurements(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> None:
    task = inf.classification(make_cnn())
    small, large = (
        {s.name: s.memory for s in diagnose(task, pictures, batch_size=b).stages}
        for b in (1, 10)
    )
    assert small["eigenvectors"] == large["eigenvectors"]
    assert all(large[n] > small[n] for n in large if n != "eigenvectors")
    # Per document at least the inputs of every layer: 72 + 144 + 27 float64 numbers.
    assert large["factors"] - small["factors"] > 9 * 8 * (72 + 144 + 27)
