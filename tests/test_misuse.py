"""Values that would give wrong numbers without a word are refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.configs import TrainConfig
from infusion.errors import InputError
from infusion.measure import predictions
from infusion.params import model_sha256
from infusion.perturb.ascent import deliver
from infusion.perturb.budget import LInf
from infusion.perturb.pixels import predicted_effect

DATA = inf.Dataset(
    torch.arange(96, dtype=torch.uint8).reshape(6, 1, 4, 4),
    torch.tensor([0, 1, 2, 0, 1, 2]),
    levels=255,
    valid=(0.0, 1.0),
    num_classes=3,
)


def make_task(loss: Any = None) -> inf.Task:
    torch.manual_seed(0)
    task = inf.classification(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    return task if loss is None else inf.Task(task.model, task.outputs, loss)


def solved(task: inf.Task) -> dict[str, Tensor]:
    probe = DATA.batch(torch.tensor([0])).inputs[0]
    curvature = inf.fit_ekfac(task, DATA)
    return curvature.solve(
        inf.gradient(task, inf.log_prob(probe, 1)), damping_ratio=0.1
    )


def craft(**options: Any) -> inf.Edits:
    task = make_task()
    chosen, budget = torch.tensor([1, 3]), options.pop("budget", LInf(8 / 255))
    return inf.craft(task, DATA, chosen, solved(task), budget=budget, **options)


def trained(**recipe: Any) -> None:
    given = {"epochs": 1, "batch_size": 2} | recipe
    inf.train(make_task(), DATA, TrainConfig(**given), seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: craft(ascent="up"), "ascent must be one of sign, raw, got 'up'"),
        (lambda: craft(delivery="raw"), "delivery must be one of realisable, as_coded"),
        (
            lambda: inf.fit_ekfac(make_task(), DATA, fisher="true"),  # pyright: ignore
            "fisher must be one of exact, sampled, empirical, got 'true'",
        ),
        (
            lambda: inf.train(
                make_task(),
                DATA,
                TrainConfig(epochs=1, batch_size=2, order="any"),  # pyright: ignore
                seed=0,
            ),
            "order must be one of fixed, fresh, got 'any'",
        ),
        (
            lambda: trained(lr=-0.1),
            "lr of the training recipe must be > 0 and finite, got -0.1",
        ),
        (
            lambda: trained(lr=float("nan")),
            "lr of the training recipe must be > 0 and finite, got nan",
        ),
        (
            lambda: trained(batch_size=0),
            "batch_size of the training recipe must be a whole number ≥ 1, got 0",
        ),
        (
            lambda: trained(momentum=1.0),
            r"momentum of the training recipe must be in \[0, 1\), got 1.0",
        ),
        (
            lambda: trained(weight_decay=-1.0),
            "weight_decay of the training recipe must be ≥ 0 and finite, got -1.0",
        ),
        (
            lambda: trained(gamma=0.0),
            "gamma of the training recipe must be > 0 and finite, got 0.0",
        ),
        (lambda: craft(budget=LInf(0.001)), "at least one storage level, 1/255"),
        (
            lambda: inf.select(torch.tensor([torch.nan, 1.0]), k=1),
            "scores must be finite, one per document",
        ),
        (lambda: inf.select(torch.ones(2, 2), k=1), r"got shape \(2, 2\)"),
        (
            lambda: inf.fit_ekfac(make_task(), DATA, skip="Linear"),  # pyright: ignore
            r"skip must be a tuple of names, got 'Linear'",
        ),
        (
            lambda: inf.fit_ekfac(make_task(), DATA, skip=None),  # pyright: ignore
            "skip must be a tuple of names, got None",
        ),
        (
            lambda: inf.fit_ekfac(make_task(), DATA, documents=[0, 1]),  # pyright: ignore
            "documents must be a tensor of positions, got list",
        ),
        (
            lambda: inf.fit_ekfac(make_task(), DATA, batch_size="7"),  # pyright: ignore
            "batch_size must be a whole number ≥ 1, got '7'",
        ),
        (
            lambda: inf.fit_ekfac(make_task(), DATA).damping(damping="1"),  # pyright: ignore
            "damping must be a number > 0 and finite, got '1'",
        ),
        (
            lambda: inf.select(torch.ones(3), k=2.5),  # pyright: ignore
            "k must be a whole number in 1…3, the number of documents, got 2.5",
        ),
        (
            lambda: inf.gradient(make_task(), lambda _: 1.5),  # pyright: ignore
            "a measurement must return a scalar tensor, got float",
        ),
        (
            lambda: inf.influences(make_task(), None, [{}]),  # pyright: ignore
            "data must be an infusion.Dataset or Stream, got NoneType",
        ),
        (
            lambda: inf.influences(
                make_task(),
                DATA,
                [solved(make_task())],
                memory_limit="1G",  # pyright: ignore
            ),
            "memory_limit must be a whole number ≥ 1, got .1G.",
        ),
        (
            lambda: inf.self_influence(make_task(), DATA, {}, damping=1.0),  # pyright: ignore
            "curvature must be an infusion.Curvature, got dict",
        ),
        (
            lambda: inf.save_curvature(
                "c.safetensors", inf.fit_ekfac(make_task(), DATA)
            ),  # pyright: ignore
            "curvature must be an infusion.Curvature, got str",
        ),
        (
            lambda: inf.craft(
                make_task(),
                DATA,
                [1, 3],
                {},
                budget=LInf(8 / 255),  # pyright: ignore
            ),
            "chosen documents must be a tensor of positions, got list",
        ),
        (
            lambda: inf.influence(
                make_task(lambda outputs, batch: outputs[:, 9]),
                DATA,
                solved(make_task()),
            ),
            "a loss must take the outputs .* got IndexError: index 9 is out of bounds",
        ),
        (
            lambda: inf.Dataset([[1.0]], [0]),  # pyright: ignore
            "inputs must be a tensor with the documents first, got list",
        ),
        (
            lambda: inf.log_prob(np.zeros((1, 4, 4)), 1),  # pyright: ignore
            "a probe must be a tensor, one input without batch axis, got ndarray; use",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_refused(call: Any, message: str, no_type_check: None) -> None:
    with pytest.raises(InputError, match=message):
        call()


def climb_elsewhere() -> inf.Edits:
    """A gradient made for other documents than those that are edited."""
    task = make_task()
    given = [(task, solved(task))]
    gradient = inf.influence_gradient(given, DATA, torch.tensor([1, 3]))
    return ascend(gradient, chosen=torch.tensor([0, 2]))


def ascend(climb: Any, **options: Any) -> inf.Edits:
    settings = {
        "chosen": torch.tensor([1, 3]),
        "like": torch.zeros(()),
        "budget": LInf(8 / 255),
    } | options
    chosen = settings.pop("chosen")
    return inf.ascend(DATA, chosen, climb, **settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            climb_elsewhere,
            "a gradient must be of the chosen documents, got one of others",
        ),
        (
            lambda: ascend(lambda x: x.sum()),
            r"a tensor like the inputs, \(2, 1, 4, 4\), got \(\); return",
        ),
        (
            lambda: ascend(lambda _: None),
            "a tensor like the inputs, .* got NoneType",
        ),
        (
            lambda: ascend(lambda x: 0 * x),
            "an ascent must change a document, got none within linf 0.0313",
        ),
        (
            lambda: ascend(lambda x: x + 1, budget=0.03),
            "budget must be an infusion.LInf or L2, got 0.03",
        ),
        (
            lambda: ascend(lambda x: x + 1, chosen=torch.tensor([1.0, 3.0])),
            r"must be int64 positions of shape \[k\], got torch.float32 of",
        ),
        (
            lambda: inf.influence_gradient([], DATA, torch.tensor([1])),
            r"a list of at least one pair \(task, ihvp\), got list",
        ),
        (
            lambda: inf.influence_gradient(
                [make_task()],
                DATA,
                torch.tensor([1]),  # pyright: ignore
            ),
            r"a list of at least one pair \(task, ihvp\), got list",
        ),
        (
            lambda: inf.Dataset(DATA.inputs, DATA.labels, levels=255, valid=(1.0, 0.0)),
            "valid must be the smallest and the largest value, got 1 and 0",
        ),
        (
            lambda: trained(shift=1.5),
            "shift of the training recipe must be a whole number ≥ 0, got 1.5",
        ),
        (
            lambda: trained(milestones=5),
            "milestones of the training recipe must be a tuple of epochs, got 5",
        ),
        (
            lambda: inf.retrain_stacked(
                make_task,
                DATA,
                None,  # pyright: ignore
                TrainConfig(epochs=2, batch_size=2),
                seed=0,
                start=None,  # pyright: ignore
            ),
            "start must be an infusion.Checkpoint, got NoneType",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_new_parts_refuse(call: Any, message: str, no_type_check: None) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("batch_size", [0, -1])
@pytest.mark.parametrize(
    "call",
    [
        lambda size: inf.fit_ekfac(make_task(), DATA, batch_size=size),
        lambda size: inf.influence(
            make_task(), DATA, solved(make_task()), batch_size=size
        ),
        lambda size: predictions(make_task(), DATA, batch_size=size),
        lambda size: craft(batch_size=size),
        lambda size: predicted_effect(
            make_task(), DATA, craft(), solved(make_task()), batch_size=size
        ),
    ],
    ids=["fit_ekfac", "influence", "predictions", "craft", "predicted_effect"],
)
def test_a_batch_holds_a_document(call: Any, batch_size: int) -> None:
    message = f"batch_size must be a whole number ≥ 1, got {batch_size}; give one"
    with pytest.raises(InputError, match=message):
        call(batch_size)


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, batch: nn.functional.cross_entropy(outputs, batch.labels),
        lambda outputs, batch: (outputs[:, :1] - batch.labels) ** 2,
    ],
    ids=["averaged", "broadcast"],
)
def test_a_loss_must_be_one_value_per_document(loss: Any) -> None:
    task = make_task(loss)
    message = "a loss must return one value per document"
    with pytest.raises(InputError, match=message):
        inf.fit_ekfac(task, DATA, fisher="empirical")
    with pytest.raises(InputError, match=message):
        inf.influence(task, DATA, solved(make_task()))
    with pytest.raises(InputError, match=message):
        inf.train(task, DATA, TrainConfig(epochs=1, batch_size=2), seed=0)


@pytest.mark.parametrize(
    "outputs",
    [
        lambda model, batch: model(batch.inputs).detach(),
        lambda _, batch: make_task().model(batch.inputs),
    ],
    ids=["detached", "another model"],
)
def test_losses_that_no_parameter_moves_have_no_influence(outputs: Any) -> None:
    task = make_task()
    blind = replace(task, outputs=outputs)
    with pytest.raises(InputError, match="must depend on the parameters of the task's"):
        inf.influence(blind, DATA, solved(task))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {}, "an IHVP must name at least one parameter, got none"),
        (
            lambda ihvp: {name: value.double() for name, value in ihvp.items()},
            "an IHVP must be of the model's dtype, got torch.float64 for 1.weight",
        ),
        (lambda ihvp: [ihvp], "an IHVP must be a dict of tensors, got list"),
        (lambda _: None, "an IHVP must be a dict of tensors, got NoneType"),
    ],
    ids=["empty", "dtype", "list", "None"],
)
def test_unusable_ihvps_are_refused_by_every_score(
    change: Any, message: str, no_type_check: None
) -> None:
    task = make_task()
    wrong = change(solved(task))
    for call in (
        lambda: inf.influence(task, DATA, wrong),
        lambda: inf.influences(task, DATA, [wrong]),
        lambda: inf.influence_by_module(task, DATA, wrong),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_fitting_in_train_mode_leaves_statistics_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)
    ).train()
    task, before = inf.classification(model), model_sha256(model)
    curvature = inf.fit_ekfac(task, DATA)
    ihvp = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    inf.influences(task, DATA, [ihvp, ihvp])
    inf.self_influence(task, DATA, curvature, damping=1.0)
    assert model_sha256(model) == before
    assert model.training


def test_labels_without_an_output_are_named() -> None:
    data = inf.Dataset(DATA.inputs, DATA.labels + 2, levels=255, valid=(0.0, 1.0))
    message = r"labels must lie in 0…2, one output each, got [34]; renumber"
    with pytest.raises(InputError, match=message):
        inf.train(make_task(), data, TrainConfig(epochs=1, batch_size=6), seed=0)
    with pytest.raises(InputError, match=message):
        inf.fit_ekfac(make_task(), data, fisher="empirical")


def test_a_gradient_of_another_model_is_refused() -> None:
    curvature = inf.fit_ekfac(make_task(), DATA)
    other = {"1.weight": torch.zeros(3, 9), "1.bias": torch.zeros(3)}
    with pytest.raises(InputError, match="of the model the curvature was fitted on"):
        curvature.solve(other, damping=1.0)


def test_levels_do_not_wrap_around_where_no_range_is_given() -> None:
    before = inf.Dataset(
        torch.tensor([[250, 3]], dtype=torch.uint8), torch.tensor([0]), levels=255
    )
    after = deliver(before, torch.tensor([[12 / 255, -5 / 255]]), None)
    assert after.inputs.tolist() == [[255, 0]]
