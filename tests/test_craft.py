"""Crafted edits: projections, delivery on the grid, effect, manifest and undo."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn

import infusion as inf
from infusion.data.edits import Edits
from infusion.data.hashing import dataset_hash, row_hashes
from infusion.errors import DivergedError, InputError
from infusion.params import Params
from infusion.perturb.ascent import deliver
from infusion.perturb.gradient import influence_gradient
from infusion.records import Dataset, call_model

from .oracles import gaussian_loss

ROUNDING = 1e-6
"""Relative, of float32 arithmetic on values in [0, 1]."""

BUDGETS = [inf.LInf(3 / 16), inf.LInf(0.3), inf.L2(0.5), inf.L2(1.0)]


# Projections


@st.composite
def projections(draw: st.DrawFn) -> tuple[Any, Tensor, torch.Generator]:
    """A budget, wanted edits of random shape and size, a generator for more."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    shape = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    size = draw(st.floats(1e-3, 1e3))
    budget = draw(st.sampled_from([inf.LInf, inf.L2]))(draw(st.floats(1e-3, 1e3)))
    delta = torch.randn(shape, generator=generator, dtype=torch.float64) * size
    return budget, delta, generator


@settings(max_examples=60)
@given(projections())
def test_projection_is_feasible_idempotent_and_nearest(
    case: tuple[Any, Tensor, torch.Generator],
) -> None:
    budget, delta, generator = case
    projected = budget.project(delta)
    limit = budget.epsilon * (1 + 1e-12)
    assert float(budget.size(projected).max()) <= limit
    torch.testing.assert_close(budget.project(projected), projected, rtol=1e-12, atol=0)
    inside = budget.size(delta) <= budget.epsilon
    assert torch.equal(projected[inside], delta[inside])
    distance = (delta - projected).flatten(1).norm(dim=1)
    for scale in (0.01, 0.3, 3.0):
        step = torch.randn(delta.shape, generator=generator, dtype=delta.dtype)
        other = budget.project(projected + scale * budget.epsilon * step)
        farther = (delta - other).flatten(1).norm(dim=1)
        assert bool((farther >= distance * (1 - 1e-12)).all())


@pytest.mark.parametrize("make", [inf.LInf, inf.L2])
def test_a_projection_solves_its_quadratic_programme(make: Any) -> None:
    """``min ‖x − y‖²`` within the budget, by a general solver."""
    torch.manual_seed(0)
    epsilon = 0.7
    for y in torch.randn(6, 8, dtype=torch.float64):
        box = [(-epsilon, epsilon)] * len(y) if make is inf.LInf else None
        ball = {"type": "ineq", "fun": lambda x: epsilon**2 - x @ x}
        solved = minimize(
            lambda x, y=y: ((x - y.numpy()) ** 2).sum(),
            torch.zeros_like(y).numpy(),
            jac=lambda x, y=y: 2 * (x - y.numpy()),
            bounds=box,
            constraints=[] if box else [ball],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found = make(epsilon).project(y[None])[0]
        assert not torch.equal(found, y), "the budget has to bind"
        torch.testing.assert_close(found, torch.from_numpy(solved.x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [inf.LInf, inf.L2])
@pytest.mark.parametrize("epsilon", [0.0, -0.1, float("nan"), float("inf")])
def test_empty_budgets_are_refused(make: type, epsilon: float) -> None:
    with pytest.raises(InputError, match="budget must be > 0 and finite, got epsilon="):
        make(epsilon)


def test_sizes_are_per_document() -> None:
    delta = torch.tensor([[[3.0, -4.0]], [[0.0, 1.0]]])
    assert inf.LInf.size(delta).tolist() == [4.0, 1.0]
    assert inf.L2.size(delta).tolist() == [5.0, 1.0]
    expected = torch.tensor([[[1.5, -2.0]], [[0.0, 1.0]]])
    torch.testing.assert_close(inf.L2(2.5).project(delta), expected)


# Delivery


@settings(max_examples=150)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 16, 255]),
    st.sampled_from([inf.LInf, inf.L2]),
    st.floats(1e-3, 1.5),
    st.tuples(st.integers(1, 20), st.sampled_from([0, 1e-9, 1e-5, 5e-4, 2e-3])),
)
def test_delivery_keeps_grid_range_and_budget(
    seed: int, levels: int, make: Any, epsilon: float, near: tuple[int, float]
) -> None:
    """For any budget, also whole levels and a little less, and any wanted change."""
    generator = torch.Generator().manual_seed(seed)
    before = Dataset(
        torch.randint(0, levels + 1, (3, 1, 4, 4), generator=generator).byte(),
        torch.zeros(3, dtype=torch.int64),
        levels=levels,
        valid=(0.0, 1.0),
        num_classes=1,
    )
    wanted = torch.randn(before.inputs.shape, generator=generator)
    for budget in (make(epsilon), make((near[0] - near[1]) / levels)):
        after = deliver(before, wanted, budget)
        assert after.levels == levels
        assert after.inputs.dtype == torch.uint8
        assert int(after.inputs.max()) <= levels
        change = (after.inputs.double() - before.inputs.double()) / levels
        assert float(budget.size(change).max()) <= budget.epsilon * (1 + ROUNDING)
        towards = change * budget.project(wanted)
        assert bool((towards >= 0).all())


@pytest.mark.parametrize("levels", [16, 255])
def test_whole_levels_survive_float32(levels: int) -> None:
    """A step of ε on ``LInf(m / levels)`` is m levels, for every pixel and every m."""
    inputs = torch.arange(levels + 1).byte()[:, None]
    before = Dataset(inputs, torch.zeros(levels + 1), levels=levels, valid=(0.0, 1.0))
    for m in range(1, levels + 1):
        budget = inf.LInf(m / levels)
        for sign in (-1.0, 1.0):
            after = deliver(before, torch.full(inputs.shape, sign), budget)
            expected = (inputs.long() + int(sign) * m).clamp(0, levels)
            assert torch.equal(after.inputs.long(), expected)


def test_levels_are_rounded_towards_the_original() -> None:
    before = Dataset(torch.tensor([[8, 8, 8]]).byte(), torch.zeros(1), levels=16)
    delta = torch.tensor([[2.9, -2.9, 0.9]]) / 16
    assert deliver(before, delta, None).inputs.tolist() == [[10, 6, 8]]


# Craft


@pytest.fixture(params=[16, 255], ids="{} levels".format)
def pictures(request: pytest.FixtureRequest, generator: torch.Generator) -> Dataset:
    levels = request.param
    return Dataset(
        inputs=torch.randint(0, levels + 1, (14, 2, 6, 6), generator=generator).byte(),
        labels=torch.randint(0, 3, (14,), generator=generator),
        levels=levels,
        valid=(0.0, 1.0),
        num_classes=3,
    )


@pytest.fixture
def scene(
    pictures: Dataset, make_cnn: Callable[..., nn.Module]
) -> tuple[inf.Task, Dataset, Tensor, Params]:
    """A task, its data, five chosen documents and an IHVP."""
    return make_scene(make_cnn(dtype=torch.float32), pictures)


def make_scene(
    model: nn.Module, data: Dataset
) -> tuple[inf.Task, Dataset, Tensor, Params]:
    task = inf.classification(model)
    curvature = inf.fit_ekfac(task, data, skip=("BatchNorm2d",))
    probe = torch.linspace(0, 1, 72).reshape(2, 6, 6)
    ihvp = curvature.solve(
        inf.gradient(task, inf.log_prob(probe, 1)), damping_ratio=0.1
    )
    return task, data, inf.select(inf.influence(task, data, ihvp), k=5), ihvp


def craft(scene: tuple, **options: Any) -> Edits:
    options = {"budget": inf.LInf(3 / 16), "steps": 10, **options}
    return inf.craft(*scene, **options)


@pytest.mark.parametrize("ascent", ["sign", "raw"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_edits_are_delivered_within_budget_range_and_grid(
    budget: Any, ascent: Any, scene: tuple
) -> None:
    _, data, chosen, _ = scene
    edits = craft(scene, budget=budget, ascent=ascent)
    assert torch.equal(edits.documents, chosen)
    assert edits.after.inputs.dtype == torch.uint8
    assert edits.after.levels == data.levels
    assert edits.after.valid == data.valid
    assert int(edits.after.inputs.max()) <= data.levels
    assert torch.equal(edits.after.labels, edits.before.labels)
    reached = budget.size(edits.delta)
    assert float(reached.max()) <= budget.epsilon * (1 + ROUNDING)
    assert float(reached.max()) > 0.5 * budget.epsilon
    for record, size in zip(edits.manifest, reached.tolist(), strict=True):
        assert record["reached"][budget.name] == pytest.approx(size, rel=1e-6)
        assert record["asked"]["norm"] == budget.name
        assert record["asked"]["epsilon"] == budget.epsilon


@pytest.mark.parametrize("ascent", ["sign", "raw"])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_edits_raise_the_predicted_effect_above_noise(
    budget: Any, ascent: Any, scene: tuple, generator: torch.Generator
) -> None:
    task, data, _, ihvp = scene
    edits = craft(scene, budget=budget, ascent=ascent)
    effect = inf.predicted_effect(task, data, edits, ihvp)
    assert effect > 0
    size = budget.size(edits.delta)[:, None, None, None]
    for _ in range(10):
        noise = torch.randn(edits.delta.shape, generator=generator).sign()
        noise = noise * size / budget.size(noise)[:, None, None, None]
        after = edits.before.values()
        after = replace(after, inputs=after.inputs + noise)
        random = replace(edits, after=after)
        assert effect > 2 * inf.predicted_effect(task, data, random, ihvp)


def test_more_steps_and_larger_budgets_predict_more(scene: tuple) -> None:
    task, data, _, ihvp = scene

    def effect(epsilon: float, steps: int) -> float:
        edits = craft(scene, budget=inf.LInf(epsilon), steps=steps)
        return inf.predicted_effect(task, data, edits, ihvp)

    assert 0 < effect(1 / 16, 10) < effect(3 / 16, 10) < effect(6 / 16, 10)


def test_crafting_does_not_depend_on_the_batch_size(scene: tuple) -> None:
    calls: list[None] = []
    whole = craft(scene)
    parts = craft(scene, batch_size=2, on_step=lambda: calls.append(None))
    assert torch.equal(whole.after.inputs, parts.after.inputs)
    assert len(calls) == 10


def test_the_step_size_defaults_to_the_one_of_madry(scene: tuple) -> None:
    edits = craft(scene, steps=4)
    assert edits.asked["step_size"] == pytest.approx(2.5 * 3 / 16 / 4)
    same = craft(scene, steps=4, step_size=2.5 * 3 / 16 / 4)
    assert torch.equal(edits.after.inputs, same.after.inputs)


def test_momentum_remembers_the_direction() -> None:
    data = Dataset(torch.full((2, 3), 0.5), torch.zeros(2), valid=(0.0, 1.0))
    slopes = iter([1.0, 1.0, -1.0, -1.0])
    sizes = iter([[1.0, 1e3], [1.0, 1e-3], [1.0, 1.0], [1.0, 1e3]])

    def climb(inputs: Tensor) -> Tensor:
        return torch.full_like(inputs, next(slopes)) * torch.tensor([next(sizes)]).T

    edits = inf.ascend(
        data,
        torch.arange(2),
        climb,
        like=torch.zeros(1),
        budget=inf.LInf(0.2),
        steps=4,
        step_size=0.01,
        momentum=0.9,
    )
    # 1, 1.9, 0.71, −0.36 whatever the sizes; without a memory the signs would cancel
    torch.testing.assert_close(edits.delta, torch.full((2, 3), 0.02))
    assert edits.asked["momentum"] == 0.9


def test_a_momentum_that_forgets_nothing_is_refused(scene: tuple) -> None:
    task, train, chosen, ihvp = scene
    climb = influence_gradient([(task, ihvp)], train, chosen)
    with pytest.raises(InputError, match="momentum of an ascent must be in"):
        inf.ascend(
            train,
            chosen,
            climb,
            like=torch.zeros(1),
            budget=inf.LInf(0.2),
            momentum=1.0,
        )


def test_as_coded_leaves_range_and_grid(scene: tuple) -> None:
    """The paper's code: 50 steps of 0.001, and an ε of 1 that never binds."""
    _, data, _, _ = scene
    paper = {"steps": 50, "step_size": 0.001, "delivery": "as_coded"}
    edits = craft(scene, budget=inf.LInf(1.0), **paper)
    values = edits.after.inputs
    assert values.dtype == torch.float32
    assert edits.after.levels is None
    assert float(values.min()) < 0.0
    assert float(values.max()) > 1.0
    steps = values * data.levels
    assert float((steps - steps.round()).abs().max()) > 0.1
    assert 0.03 < float(edits.delta.abs().max()) <= 0.05 * (1 + 1e-5)
    wider = craft(scene, budget=inf.LInf(100.0), **paper)
    assert torch.equal(values, wider.after.inputs)


def test_constant_signs_reach_steps_times_step_size() -> None:
    """``f`` rises with ``−⟨s, ∇ℓ⟩ = (y − xθ)(x s)``, monotone in x here."""
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -1.0, 2.0]])
    task = inf.Task(model, call_model, gaussian_loss, "gaussian")
    data = Dataset(torch.ones(2, 3), torch.full((2, 1), 100.0))
    ihvp = {"weight": torch.tensor([[1.0, -1.0, 1.0]])}
    edits = inf.craft(
        task,
        data,
        torch.tensor([1]),
        ihvp,
        budget=inf.LInf(1.0),
        steps=50,
        step_size=0.001,
        delivery="as_coded",
    )
    expected = torch.tensor([[0.05, -0.05, 0.05]])
    torch.testing.assert_close(edits.delta, expected, rtol=1e-5, atol=0)


# Apply, undo, manifest


@pytest.mark.parametrize("delivery", ["realisable", "as_coded"])
def test_undo_restores_the_dataset(delivery: Any, scene: tuple) -> None:
    _, data, chosen, _ = scene
    edits = craft(scene, delivery=delivery)
    edited = edits.apply(data)
    values, edited_values = data.values().inputs, edited.values().inputs
    others = torch.ones(len(data), dtype=torch.bool).index_fill(0, chosen, False)
    assert torch.equal(edited_values[others], values[others])
    assert torch.equal(edited_values[chosen] - values[chosen], edits.delta)
    assert float(edits.delta.abs().amax((1, 2, 3)).min()) > 0
    restored = edits.undo(edited)
    assert row_hashes(restored) == row_hashes(data)
    assert dataset_hash(restored) == dataset_hash(data)
    assert (restored.levels, restored.valid) == (data.levels, data.valid)
    assert dataset_hash(edited) != dataset_hash(data)


@pytest.mark.parametrize("delivery", ["realisable", "as_coded"])
def test_undo_restores_float_datasets(
    delivery: Any, make_cnn: Callable[..., nn.Module], pictures: Dataset
) -> None:
    data = replace(pictures.values(), valid=(0.0, 1.0))
    scene = make_scene(make_cnn(dtype=torch.float32), data)
    edits = craft(scene, delivery=delivery)
    edited = edits.apply(data)
    outside = float(edited.inputs.min()) < 0 or float(edited.inputs.max()) > 1
    assert outside == (delivery == "as_coded")
    reach = 3 / 16 if delivery == "realisable" else 10 * 0.75 / 16  # steps · step size
    assert float(edits.delta.abs().max()) <= reach * (1 + ROUNDING)
    restored = edits.undo(edited)
    assert row_hashes(restored) == row_hashes(data)
    assert restored.valid == data.valid


def test_edits_of_another_dataset_are_refused(scene: tuple) -> None:
    _, data, chosen, _ = scene
    edits = craft(scene)
    edited = edits.apply(data)
    with pytest.raises(InputError, match=r"to apply edits every row .* got 5 others"):
        edits.apply(edited)
    with pytest.raises(InputError, match=r"to undo edits every row .* got 5 others"):
        edits.undo(data)
    relabelled = replace(data, labels=(data.labels + 1) % 3)
    with pytest.raises(InputError, match=f"first document {int(chosen[0])}"):
        edits.apply(relabelled)
    with pytest.raises(InputError, match="must hold document"):
        edits.apply(data.take(torch.arange(int(chosen.max()))))
    one_off = replace(data, inputs=data.inputs.clone())
    one_off.inputs[int(chosen[2]), 0, 0, 0] ^= 1
    with pytest.raises(InputError, match=f"1 others, first document {int(chosen[2])}"):
        edits.apply(one_off)


@pytest.mark.parametrize("delivery", ["realisable", "as_coded"])
def test_manifest_records_true_hashes(delivery: Any, scene: tuple) -> None:
    _, data, chosen, _ = scene
    edits = craft(scene, delivery=delivery)
    clean, edited = row_hashes(data), row_hashes(edits.apply(data))
    assert [record["index"] for record in edits.manifest] == chosen.tolist()
    for record in edits.manifest:
        index = record["index"]
        assert record["hash_before"] == clean[index]
        assert record["hash_after"] == edited[index]
        assert record["hash_before"] != record["hash_after"]
        assert record["label_before"] == record["label"] == int(data.labels[index])
        assert record["operator"] == "ascent"
        assert record["asked"]["delivery"] == delivery


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be a whole number ≥ 1, got 0"),
        ({"step_size": 0.0}, "step_size must be > 0 and finite, got 0.0"),
        ({"step_size": float("inf")}, "step_size must be > 0 and finite, got inf"),
    ],
)
def test_steps_that_go_nowhere_are_refused(
    options: dict, message: str, scene: tuple
) -> None:
    with pytest.raises(InputError, match=message):
        craft(scene, **options)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "at least one and all different, got 0"),
        ([1, 1], "all different, got 2 of which 1 differ"),
        ([0, 14], r"must lie in 0…13, got 0…14"),
        ([-1, 3], r"must lie in 0…13, got -1…3"),
    ],
)
def test_documents_that_cannot_be_edited_are_refused(
    chosen: list[int], message: str, scene: tuple
) -> None:
    task, data, _, ihvp = scene
    documents = torch.tensor(chosen, dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        craft((task, data, documents, ihvp))


@pytest.mark.parametrize("k", [0, -1, 15])
def test_choosing_none_or_too_many_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"k must be a whole number in 1…14.* got {k}"):
        inf.select(torch.zeros(14), k=k)


def test_tokens_are_refused(scene: tuple) -> None:
    task, data, chosen, ihvp = scene
    tokens = Dataset(data.inputs.long(), data.labels)
    with pytest.raises(InputError, match=r"continuous inputs .* got torch.int64"):
        craft((task, tokens, chosen, ihvp))


def test_gradients_that_are_not_finite_are_refused(scene: tuple) -> None:
    task, data, chosen, ihvp = scene
    broken = {**ihvp, "6.bias": torch.full((3,), torch.nan)}
    with pytest.raises(DivergedError, match="perturbation gradient must be finite"):
        craft((task, data, chosen, broken))


def _double(scene: tuple) -> tuple:
    """The scene in float64 and a second measurement: the first one's IHVP, turned."""
    task, train, chosen, ihvp = scene
    task.model.double()
    first = {name: value.double() for name, value in ihvp.items()}
    second = {name: value.flip(0).contiguous() for name, value in first.items()}
    others = (chosen + 1) % len(train)
    return task, train, [chosen, others], [first, second]


@pytest.mark.parametrize("batch_size", [1, 4, 128])
def test_crafting_together_is_crafting_apart(scene: tuple, batch_size: int) -> None:
    task, train, chosen, ihvps = _double(scene)
    options: dict[str, Any] = {"budget": inf.LInf(0.2), "steps": 8}
    together = inf.craft_together(
        task, train, chosen, ihvps, batch_size=batch_size, **options
    )
    for edits, documents, ihvp in zip(together, chosen, ihvps, strict=True):
        apart = inf.craft(task, train, documents, ihvp, **options)
        assert torch.equal(edits.documents, apart.documents)
        assert torch.equal(edits.after.inputs, apart.after.inputs)
        assert edits.asked == apart.asked
    assert not torch.equal(together[0].delta, together[1].delta)


def test_measurements_that_do_not_go_together_are_refused(scene: tuple) -> None:
    task, train, chosen, ihvps = _double(scene)
    budget = inf.LInf(0.2)
    with pytest.raises(InputError, match="need equally many documents, got"):
        inf.craft_together(
            task, train, [chosen[0], chosen[1][1:]], ihvps, budget=budget
        )
    with pytest.raises(InputError, match="equally long, got 2 and 1"):
        inf.craft_together(task, train, chosen, ihvps[:1], budget=budget)
    fewer = dict(list(ihvps[1].items())[1:])
    with pytest.raises(InputError, match="must cover the same parameters"):
        inf.craft_together(task, train, chosen, [ihvps[0], fewer], budget=budget)
