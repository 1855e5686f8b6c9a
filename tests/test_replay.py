"""The derivative through retraining, against retraining again on moved documents."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import infusion as inf
from infusion.configs import TrainConfig
from infusion.errors import ArtefactError, DivergedError, InputError
from infusion.records import Dataset
from infusion.replay import gradient as replay
from infusion.replay.gradient import Replay, replay_gradient
from infusion.training.checkpoints import Checkpoint
from infusion.training.loop import init_model, train, train_epochs
from infusion.training.retrain import retrain
from infusion.training.steps import epoch_order

RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1},
    "weight decay": {"lr": 0.1, "weight_decay": 1e-2},
    "momentum": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "milestone": {"lr": 0.1, "milestones": (3,), "gamma": 0.3},
    "clipped": {"lr": 0.1, "clip": 0.5},
    "augmented": {"lr": 0.1, "flip": True, "shift": 1, "noise": 0.05},
    "adam": {"optimiser": "adam", "lr": 1e-2, "weight_decay": 1e-3},
    "adamw in a cycle": {
        "optimiser": "adamw",
        "lr": 1e-2,
        "weight_decay": 0.1,
        "betas": (0.8, 0.99),
        "schedule": "cycle",
        "warmup": 3,
    },
}
DOCUMENTS = torch.tensor([9, 2, 5])
PROBE = torch.rand(
    2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)
MEASUREMENT = inf.log_prob(PROBE, 1)


@pytest.fixture
def values(pictures: Dataset) -> Dataset:
    """The pictures as float64 values, to be moved off their grid."""
    return Dataset(pictures.inputs.double() / 16, pictures.labels, num_classes=3)


@pytest.fixture
def make_task(make_cnn: Callable[..., nn.Module]) -> Callable[[], inf.Task]:
    """Smooth, with BatchNorm, in float64."""
    return lambda: inf.classification(make_cnn(activation=nn.Softplus))


def started(make_task: Callable[[], inf.Task], data: Dataset, **recipe: Any) -> Any:
    """A recipe of four epochs and the checkpoint after two."""
    config = TrainConfig(epochs=4, batch_size=4, **recipe)
    start = list(train_epochs(make_task(), data, config, seed=0))[1]
    return config, start


def after_retraining(
    make_task: Callable[[], inf.Task],
    data: Dataset,
    moved: Tensor,
    config: TrainConfig,
    start: Checkpoint,
) -> float:
    """Measure a real retraining on moved documents."""
    inputs = data.inputs.clone()
    inputs[DOCUMENTS] = moved
    edited = replace(data, inputs=inputs)
    task, _ = retrain(make_task, edited, config, seed=0, start=start)
    with torch.no_grad():
        return float(MEASUREMENT(task.model.eval()))


def slopes(make_task: Callable[[], inf.Task], data: Dataset, **recipe: Any) -> Any:
    """The derivative along a random direction, and by central differences."""
    config, start = started(make_task, data, **recipe)
    found = replay_gradient(
        make_task(), data, DOCUMENTS, MEASUREMENT, config, seed=0, start=start
    )
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64)
    # AdamW at full rate scales the rounding of gradients that are zero up to its steps.
    step = 1e-4 if config.optimiser == "adamw" else 1e-5
    here = data.inputs[DOCUMENTS]
    ends = [
        after_retraining(make_task, data, here + sign * step * direction, config, start)
        for sign in (1, -1)
    ]
    return float((found.gradient * direction).sum()), (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_it_is_the_slope_of_real_retraining(
    recipe: dict[str, Any], make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    derivative, differences = slopes(make_task, values, **recipe)
    assert derivative == pytest.approx(differences, rel=1e-6)


def test_running_statistics_are_part_of_the_derivative(
    make_task: Callable[[], inf.Task],
    values: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = replay.moved_statistics

    def detached(*given: Any) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in running(*given).items()}

    monkeypatch.setattr(replay, "moved_statistics", detached)
    derivative, differences = slopes(make_task, values, lr=0.1)
    assert derivative != pytest.approx(differences, rel=1e-2)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_replayed_training_is_the_real_one(
    recipe: dict[str, Any], make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    config, start = started(make_task, values, **recipe)
    found = replay_gradient(
        make_task(), values, DOCUMENTS, MEASUREMENT, config, seed=0, start=start
    )
    here = values.inputs[DOCUMENTS]
    real = after_retraining(make_task, values, here, config, start)
    assert found.value == pytest.approx(real, rel=1e-9)
    assert found.steps == 8


def test_dropout_is_drawn_as_in_training(
    make_cnn: Callable[..., nn.Module], values: Dataset
) -> None:
    def make_task() -> inf.Task:
        model = make_cnn(activation=nn.Softplus)
        return inf.classification(nn.Sequential(model, nn.Dropout(0.4)))

    derivative, differences = slopes(make_task, values, lr=0.1)
    assert derivative == pytest.approx(differences, rel=1e-6)


class Frozen(nn.BatchNorm2d):
    """Keeps its statistics while the rest is trained."""

    def train(self, mode: bool = True) -> "Frozen":
        del mode
        return super().train(False)


@pytest.mark.parametrize(
    "norm",
    [
        lambda: Frozen(4),
        lambda: nn.BatchNorm2d(4, momentum=None),
        lambda: nn.BatchNorm2d(4, affine=False),
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        lambda: nn.GroupNorm(2, 4),
    ],
    ids=["frozen", "cumulative mean", "no weight", "no statistics", "GroupNorm"],
)
def test_other_norms(norm: Callable[[], nn.Module], values: Dataset) -> None:
    def make_task() -> inf.Task:
        def build() -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(2, 4, 3),
                norm(),
                nn.Softplus(),
                nn.Flatten(),
                nn.Linear(64, 3),
            )

        return inf.classification(init_model(build, 0).double())

    derivative, differences = slopes(make_task, values, lr=0.1)
    assert derivative == pytest.approx(differences, rel=1e-6)


def test_in_single_precision_it_is_the_real_training(
    make_cnn: Callable[..., nn.Module], pictures: Dataset
) -> None:
    def make_task() -> inf.Task:
        return inf.classification(make_cnn(dtype=torch.float32))

    config, start = started(make_task, pictures, lr=0.1, momentum=0.9)
    measurement = inf.log_prob(PROBE.float(), 1)
    found = replay_gradient(
        make_task(), pictures, DOCUMENTS, measurement, config, seed=0, start=start
    )
    task, _ = retrain(make_task, pictures, config, seed=0, start=start)
    with torch.no_grad():
        real = float(measurement(task.model.eval()))
    assert found.value == pytest.approx(real, abs=1e-5)


def test_it_does_not_mind_no_grad(
    make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    config, start = started(make_task, values, lr=0.1)
    given = (values, DOCUMENTS, MEASUREMENT, config)
    one = replay_gradient(make_task(), *given, seed=0, start=start)
    with torch.no_grad():
        other = replay_gradient(make_task(), *given, seed=0, start=start)
    assert torch.equal(one.gradient, other.gradient)
    assert bool(one.gradient.any())


class Averaging(nn.Module):
    """Keeps a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        return x - self.mean[:, None, None]


class Doubling(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("make_module", "message"),
    [
        (
            Averaging,
            "buffers of BatchNorm only, got a training step that changed 0.mean",
        ),
        (lambda: Doubling(2), "another forward of Doubling at 0"),
    ],
)
def test_statistics_it_does_not_know_are_refused(
    make_module: Callable[[], nn.Module], message: str, values: Dataset
) -> None:
    def make_task() -> inf.Task:
        def build() -> nn.Module:
            return nn.Sequential(make_module(), nn.Flatten(), nn.Linear(72, 3))

        return inf.classification(init_model(build, 0).double())

    config, start = started(make_task, values, lr=0.1)
    with pytest.raises(InputError, match=message):
        replay_gradient(
            make_task(), values, DOCUMENTS, MEASUREMENT, config, seed=0, start=start
        )


def test_a_norm_that_runs_twice_is_refused(values: Dataset) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(2), nn.Linear(72, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.norm(x)).flatten(1))

    def make_task() -> inf.Task:
        return inf.classification(init_model(Twice, 0).double())

    config, start = started(make_task, values, lr=0.1)
    with pytest.raises(
        InputError,
        match="must run once per step to be differentiated, got more calls of norm",
    ):
        replay_gradient(
            make_task(), values, DOCUMENTS, MEASUREMENT, config, seed=0, start=start
        )


def test_given_inputs_stand_in_for_the_documents(
    make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    config, start = started(make_task, values, lr=0.1)
    moved = values.inputs[DOCUMENTS] * 0.5
    inputs = values.inputs.clone()
    inputs[DOCUMENTS] = moved
    settings: dict[str, Any] = {"seed": 0, "start": start}
    given = (DOCUMENTS, MEASUREMENT, config)
    one = replay_gradient(make_task(), values, *given, inputs=moved, **settings)
    other = replay_gradient(
        make_task(), replace(values, inputs=inputs), *given, **settings
    )
    assert one.value == other.value
    torch.testing.assert_close(one.gradient, other.gradient, rtol=1e-12, atol=0)


def test_the_model_is_left_as_it_was(
    make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    config, start = started(make_task, values, lr=0.1)
    task = make_task()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    drawn = torch.get_rng_state()
    replay_gradient(task, values, DOCUMENTS, MEASUREMENT, config, seed=0, start=start)
    assert all(torch.equal(v, before[k]) for k, v in task.model.state_dict().items())
    assert not task.model.training
    assert torch.equal(torch.get_rng_state(), drawn)


def test_states_grow_with_the_square_root_of_the_steps(
    make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    held = {}
    for epochs in (5, 17, 65):
        config = TrainConfig(epochs=epochs, batch_size=14, lr=0.01)
        first = replace(config, epochs=1)
        start = train(make_task(), values, first, seed=0)
        everything = torch.arange(len(values))
        found = replay_gradient(
            make_task(), values, everything, MEASUREMENT, config, seed=0, start=start
        )
        held[found.steps] = found.states
    assert held == {4: 3, 16: 7, 64: 15}


def test_only_steps_after_the_first_visit_are_differentiated(
    make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    config = TrainConfig(epochs=2, batch_size=4, lr=0.1)
    start = train(make_task(), values, replace(config, epochs=1), seed=0)
    order = epoch_order(0, 1, len(values), config)

    def through(documents: Tensor) -> Replay:
        return replay_gradient(
            make_task(), values, documents, MEASUREMENT, config, seed=0, start=start
        )

    whole, late = through(order), through(order[-3:])
    assert whole.differentiated == whole.steps == late.steps
    assert late.differentiated == 1 + (len(values) % 4 in (1, 2))  # three documents
    assert torch.equal(late.gradient, whole.gradient[-3:])
    assert late.value == whole.value


def test_adam_where_a_second_moment_is_zero(
    make_cnn: Callable[..., nn.Module], values: Dataset
) -> None:
    """The root of zero has no derivative, and nothing depends on it.

    Without BatchNorm: the bias before it has a gradient of rounding errors, which Adam
    scales up to steps of full size.
    """

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_cnn(activation=nn.Softplus, batch_norm=False)
            self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.ignored = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 0 * self.ignored

    derivative, differences = slopes(
        lambda: inf.classification(Dead()), values, optimiser="adam", lr=1e-2
    )
    assert derivative == pytest.approx(differences, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"documents": torch.tensor([1, 1])},
            InputError,
            "chosen documents must",
        ),
        ({"documents": torch.tensor([14])}, InputError, "chosen documents must"),
        ({"epochs": 2}, InputError, "at least one epoch, got a start at epoch 2 of 2"),
        ({"seed": 1}, ArtefactError, "in the order of seed 1"),
        ({"lr": -1.0}, InputError, "lr of the training recipe must be > 0"),
        (
            {"measurement": lambda model: torch.ones(2)},
            InputError,
            r"that depends on the model's parameters, got shape \(2,\)",
        ),
    ],
)
def test_refused(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    make_task: Callable[[], inf.Task],
    values: Dataset,
) -> None:
    config, start = started(make_task, values, lr=0.1)
    config = replace(
        config, **{k: v for k, v in changes.items() if k in ("epochs", "lr")}
    )
    with pytest.raises(error, match=message):
        replay_gradient(
            make_task(),
            values,
            changes.get("documents", DOCUMENTS),
            changes.get("measurement", MEASUREMENT),
            config,
            seed=changes.get("seed", 0),
            start=start,
        )


def test_a_derivative_that_explodes_is_named(
    make_task: Callable[[], inf.Task], values: Dataset
) -> None:
    config, start = started(make_task, values, lr=0.1)
    far = replace(start, learning_rate=1e200)
    with pytest.raises(DivergedError, match="must be finite, got NaN or infinity"):
        replay_gradient(
            make_task(), values, DOCUMENTS, MEASUREMENT, config, seed=0, start=far
        )
