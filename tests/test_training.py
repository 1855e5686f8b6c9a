"""Training is deterministic, and a replay from a checkpoint is the run itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import infusion as inf
from infusion.configs import TrainConfig, as_plain
from infusion.errors import ArtefactError, DivergedError, InputError
from infusion.params import Params
from infusion.records import Dataset
from infusion.runs.store import digest
from infusion.training.checkpoints import Checkpoint, load_model
from infusion.training.loop import init_model, train_epochs
from infusion.training.steps import epoch_order, epoch_steps

from .oracles import document_gradients

RECIPES = {
    "sgd": {"lr": 0.1},
    "sgd, fixed order": {"lr": 0.1, "order": "fixed"},
    "momentum": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "momentum, contiguous": {"lr": 0.05, "momentum": 0.9, "channels_last": False},
    "adam, milestones": {"optimiser": "adam", "milestones": (1, 3), "gamma": 0.5},
    "adamw in a cycle": {
        "optimiser": "adamw",
        "lr": 1e-2,
        "weight_decay": 0.1,
        "betas": (0.8, 0.9),
        "schedule": "cycle",
        "warmup": 3,
    },
}


@pytest.fixture(params=RECIPES.values(), ids=RECIPES)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return TrainConfig(epochs=4, batch_size=4, **request.param)


@pytest.fixture
def make_task(make_cnn: Callable[..., nn.Module]) -> Callable[..., inf.Task]:
    """A network with BatchNorm and dropout in float32, as the presets train it."""

    def make(**options: Any) -> inf.Task:
        model = make_cnn(**{"dtype": torch.float32, **options})
        return inf.classification(nn.Sequential(model, nn.Dropout(0.2)))

    return make


def run(task: inf.Task, data: Dataset, config: TrainConfig, **options: Any) -> list:
    return list(train_epochs(task, data, config, **{"seed": 0, **options}))


def stored(checkpoint: Checkpoint) -> Checkpoint:
    """Lay tensors out as a file does: contiguous, sharing nothing."""

    def copy(tensors: Params) -> Params:
        return {k: v.contiguous().clone() for k, v in tensors.items()}

    return replace(
        checkpoint, model=copy(checkpoint.model), optimiser=copy(checkpoint.optimiser)
    )


def assert_same(left: Checkpoint, right: Checkpoint) -> None:
    assert left.epoch == right.epoch
    assert left.order_sha256 == right.order_sha256
    assert left.learning_rate == right.learning_rate
    for mine, other in [(left.model, right.model), (left.optimiser, right.optimiser)]:
        assert list(mine) == list(other)
        for name, value in mine.items():
            assert torch.equal(value, other[name]), name


# Determinism


def test_two_runs_are_bitwise_equal(
    make_task: Callable[..., inf.Task], pictures: Dataset, config: TrainConfig
) -> None:
    first = run(make_task(), pictures, config)
    torch.rand(3)  # the global generator must not matter
    second = run(make_task(), pictures, config)
    assert [checkpoint.epoch for checkpoint in first] == [1, 2, 3, 4]
    for left, right in zip(first, second, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("epochs_left", [1, 3])
def test_a_replay_without_edits_is_the_run_itself(
    epochs_left: int,
    make_task: Callable[..., inf.Task],
    pictures: Dataset,
    config: TrainConfig,
) -> None:
    original = run(make_task(), pictures, config)
    start = stored(original[-1 - epochs_left])
    task = make_task(seed=5)
    replayed = run(task, pictures, config, start=start)
    assert len(replayed) == epochs_left
    assert_same(replayed[-1], original[-1])
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, original[-1].model[name])


def test_optimiser_state_is_kept_where_there_is_some(
    make_task: Callable[..., inf.Task], pictures: Dataset, config: TrainConfig
) -> None:
    names = {
        key.split(".")[1] for key in run(make_task(), pictures, config)[-1].optimiser
    }
    adam = {"step", "exp_avg", "exp_avg_sq"}
    momentum = {"momentum_buffer"} if config.momentum else set()
    assert names == (momentum if config.optimiser == "sgd" else adam)


def test_checkpoints_do_not_change_as_training_goes_on(
    make_task: Callable[..., inf.Task], pictures: Dataset, config: TrainConfig
) -> None:
    steps = train_epochs(make_task(), pictures, config, seed=0)
    first = next(steps)
    kept = stored(first)
    rest = list(steps)
    assert_same(first, kept)
    assert not torch.equal(rest[-1].model["0.0.weight"], kept.model["0.0.weight"])


def test_an_edit_or_another_seed_changes_the_outcome(
    make_task: Callable[..., inf.Task], pictures: Dataset, config: TrainConfig
) -> None:
    original = run(make_task(), pictures, config)
    edited = replace(pictures, inputs=pictures.inputs.clone())
    edited.inputs[3, 0, 2, 2] ^= 1
    replayed = run(make_task(), edited, config, start=original[-2])
    reordered = run(make_task(), pictures, config, seed=1)
    for other in (replayed, reordered):
        assert not torch.equal(
            other[-1].model["0.0.weight"], original[-1].model["0.0.weight"]
        )


# The recipe


def test_one_step_of_sgd_is_the_formula(
    make_cnn: Callable[..., nn.Module], pictures: Dataset
) -> None:
    """``θ ← θ − lr (mean ∇ℓ + decay θ)`` with all documents in one batch."""
    task = inf.classification(make_cnn(batch_norm=False))
    before = {n: p.detach().clone() for n, p in task.model.named_parameters()}
    batch = pictures.batch(torch.arange(14), like=before["0.weight"])
    gradients = document_gradients(task, batch)
    config = TrainConfig(epochs=1, batch_size=14, lr=0.3, weight_decay=0.1)
    (after,) = run(task, pictures, config)
    for name, value in before.items():
        mean = sum(g[name] for g in gradients) / 14
        expected = value - 0.3 * (mean + 0.1 * value)
        torch.testing.assert_close(after.model[name], expected, rtol=1e-10, atol=1e-14)


def test_milestones_multiply_the_learning_rate(
    make_task: Callable[..., inf.Task], pictures: Dataset
) -> None:
    config = TrainConfig(epochs=4, batch_size=4, lr=0.08, milestones=(1, 3), gamma=0.5)
    rates = [c.learning_rate for c in run(make_task(), pictures, config)]
    assert rates == pytest.approx([0.04, 0.04, 0.02, 0.02])


@pytest.mark.parametrize("warmup", [2, 5])
def test_a_cycle_is_the_one_of_torch(warmup: int) -> None:
    config = TrainConfig(
        epochs=3, batch_size=4, lr=0.3, schedule="cycle", warmup=warmup
    )
    found = [
        step.learning_rate
        for epoch in range(3)
        for step in epoch_steps(config, seed=0, epoch=epoch, size=14, rate=0.3)
    ]
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.3, total_steps=12, pct_start=warmup / 12
    )
    for rate in found:
        assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if schedule.last_epoch < 11:
            schedule.step()


def test_a_warmup_needs_a_cycle_that_is_longer(
    make_task: Callable[..., inf.Task], pictures: Dataset
) -> None:
    steady = TrainConfig(epochs=2, batch_size=4, warmup=2)
    with pytest.raises(InputError, match=r"warmup .* 0 without one, got 2"):
        run(make_task(), pictures, steady)
    short = replace(steady, schedule="cycle", warmup=8)
    with pytest.raises(InputError, match="must end before its 8 steps, got 8"):
        run(make_task(), pictures, short)


def test_a_later_setting_leaves_hashes_alone_until_it_is_used() -> None:
    config = TrainConfig(epochs=1, batch_size=2)
    stored = as_plain(config)
    assert "flip" in stored
    assert not {"betas", "schedule", "warmup"} & set(stored)
    assert as_plain(replace(config, betas=(0.9, 0.95)))["betas"] == (0.9, 0.95)
    assert digest(config) == digest(stored) != digest(replace(config, warmup=1))


def test_every_document_is_visited_once_an_epoch() -> None:
    for order in ("fixed", "fresh"):
        config = TrainConfig(epochs=3, batch_size=4, order=order)
        orders = [epoch_order(0, epoch, 50, config) for epoch in range(3)]
        for visited in orders:
            assert visited.sort().values.tolist() == list(range(50))
        repeated = torch.equal(orders[0], orders[1]) and torch.equal(
            orders[0], orders[2]
        )
        assert repeated == (order == "fixed")
        assert not torch.equal(orders[0], epoch_order(1, 0, 50, config))


def test_every_step_is_reported(
    make_task: Callable[..., inf.Task], pictures: Dataset
) -> None:
    steps: list[None] = []
    config = TrainConfig(epochs=2, batch_size=4)
    run(make_task(), pictures, config, on_step=lambda: steps.append(None))
    assert len(steps) == 2 * 4


def test_initialisation_depends_on_its_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, same, other = (
        init_model(lambda: nn.Linear(3, 2), seed).get_parameter("weight")
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 3)),
            r"got \(3, 5\) for 0.weight .* \(3, 4\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3)),
            r"got nothing for 1.weight where the model has \(3, 3\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(5, 3, bias=False)),
            r"got \(3,\) for 0.bias where the model has nothing",
        ),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    make: Callable[[], nn.Module], message: str
) -> None:
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ArtefactError, match=message):
        load_model(model, nn.Sequential(nn.Linear(5, 3)).state_dict())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_replay_with_another_order_is_refused(
    make_task: Callable[..., inf.Task], pictures: Dataset, config: TrainConfig
) -> None:
    start = run(make_task(), pictures, config)[-2]
    fewer = pictures.take(torch.arange(13))
    for data, seed in [(pictures, 1), (fewer, 0)]:
        with pytest.raises(ArtefactError, match=f"the order of seed {seed}, got a"):
            run(make_task(), data, config, seed=seed, start=start)


def test_a_start_beyond_the_recipe_and_a_seed_that_is_none_are_refused(
    make_task: Any, pictures: Dataset
) -> None:
    config = TrainConfig(epochs=2, batch_size=4)
    _, last = run(make_task(), pictures, config)
    short = replace(config, epochs=1)
    with pytest.raises(InputError, match=r"at its start's epoch 2 or later, got 1"):
        inf.train(make_task(), pictures, short, seed=0, start=last)
    with pytest.raises(InputError, match="seed must be a whole number ≥ 0, got -1"):
        inf.train(make_task(), pictures, config, seed=-1)


@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        ({"optimiser": "sgd"}, {"optimiser": "adam"}),
        ({"optimiser": "adam"}, {"optimiser": "sgd", "momentum": 0.9}),
        ({"momentum": 0.9}, {"momentum": 0.0}),
    ],
)
def test_the_state_of_another_optimiser_is_refused(
    saved: dict,
    resumed: dict,
    make_task: Callable[..., inf.Task],
    pictures: Dataset,
) -> None:
    first, second = (
        TrainConfig(epochs=2, batch_size=4, **recipe) for recipe in (saved, resumed)
    )
    start = run(make_task(), pictures, first)[0]
    with pytest.raises(ArtefactError):
        run(make_task(), pictures, second, start=start)


def test_a_loss_that_is_not_finite_is_refused(
    make_task: Callable[..., inf.Task], pictures: Dataset
) -> None:
    config = TrainConfig(epochs=3, batch_size=4, lr=1e30)
    with pytest.raises(DivergedError, match=r"got (nan|inf) at step \d .*now 1e\+30"):
        run(make_task(), pictures, config)


def test_train_goes_to_the_end_and_from_a_checkpoint(
    make_task: Callable[..., inf.Task], pictures: Dataset
) -> None:
    config = TrainConfig(epochs=3, batch_size=5, lr=0.1)
    task = make_task()
    first = next(train_epochs(task, pictures, config, seed=0))
    whole = inf.train(make_task(), pictures, config, seed=0)
    continued = inf.train(make_task(), pictures, config, seed=0, start=first)
    assert whole.epoch == continued.epoch == 3
    for name, value in whole.model.items():
        assert torch.equal(value, continued.model[name])


def test_weights_that_overflow_in_the_last_step_are_refused(
    make_task: Callable[..., inf.Task], pictures: Dataset
) -> None:
    """No loss is computed after the last step, so the weights are looked at."""
    recipe = {"lr": 1e38, "weight_decay": 1e4}
    config = TrainConfig(epochs=1, batch_size=len(pictures), **recipe)
    with pytest.raises(DivergedError, match="weights and buffers must stay finite"):
        inf.train(make_task(), pictures, config, seed=0)
