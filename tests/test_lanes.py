"""Several trainings at once are each the training alone; on a GPU, bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import infusion as inf
from infusion.configs import TrainConfig
from infusion.device import settle
from infusion.errors import DivergedError, InputError
from infusion.models.resnet import TinyResNet
from infusion.models.simple_cnn import SimpleCNN
from infusion.params import params_sha256
from infusion.records import Dataset
from infusion.training.checkpoints import Checkpoint
from infusion.training.lane import Training, can_record
from infusion.training.loop import init_model, train_epochs
from infusion.training.together import train_together

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
RECIPES = {
    "sgd": TrainConfig(epochs=2, batch_size=16, lr=0.05),
    "momentum, clipped": TrainConfig(
        epochs=2, batch_size=16, lr=0.05, momentum=0.9, clip=0.5, order="fixed"
    ),
    "adam, milestones": TrainConfig(
        epochs=3, batch_size=16, optimiser="adam", milestones=(1,), gamma=0.5
    ),
    "augmented": TrainConfig(epochs=1, batch_size=16, lr=0.05, flip=True, noise=0.1),
    "cycle": TrainConfig(epochs=2, batch_size=16, schedule="cycle", warmup=3, lr=0.05),
}
RECORDED = ["sgd", "momentum, clipped", "adam, milestones"]


def pictures(device: str, size: int = 70, seed: int = 0) -> Dataset:
    """Noise on a grid; the last batch of an epoch is short."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (size, 3, 16, 16), generator=generator)
    labels = torch.randint(0, 10, (size,), generator=generator)
    data = Dataset(inputs.to(torch.uint8), labels, levels=255, num_classes=10)
    return data.to(device)


def training(
    device: str, config: TrainConfig, *, seed: int = 0, **options: Any
) -> Training:
    widths = (8, 8, 16)
    kind: Callable[..., nn.Module] = options.pop("kind", TinyResNet)
    model = init_model(lambda: kind(widths=widths), seed).to(device)
    given = {"record": True, **options}
    data = pictures(device, seed=seed)
    return Training(inf.classification(model), data, config, seed, **given)


def alone(given: Training) -> Checkpoint:
    """Train without recording."""
    *_, last = train_epochs(
        given.task, given.data, given.config, seed=given.seed, start=given.start
    )
    return last


def same(left: Checkpoint, right: Checkpoint) -> bool:
    parts = [(left.model, right.model), (left.optimiser, right.optimiser)]
    alike = all(params_sha256(one) == params_sha256(other) for one, other in parts)
    facts = [(c.epoch, c.order_sha256, c.learning_rate) for c in (left, right)]
    return alike and facts[0] == facts[1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RECIPES)
def test_trainings_together_are_each_alone(name: str, device: str) -> None:
    settle(device, 1)
    config = RECIPES[name]
    longer = replace(config, epochs=config.epochs + 1)
    asked: list[tuple[TrainConfig, dict[str, Any]]] = [
        (config, {"seed": 0}),
        (RECIPES["augmented"], {"seed": 1}),  # never recorded, beside some that are
        (config, {"seed": 2, "kind": SimpleCNN}),
        (longer, {"seed": 3}),
    ]
    together = train_together([training(device, c, **more) for c, more in asked])
    for (recipe, more), found in zip(asked, together, strict=True):
        assert same(found, alone(training(device, recipe, **more)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RECORDED)
def test_a_lane_goes_on_from_a_checkpoint(name: str, device: str) -> None:
    settle(device, 1)
    whole = training(device, RECIPES[name])
    states = list(
        train_epochs(whole.task, whole.data, whole.config, seed=0, record=True)
    )
    again = training(device, RECIPES[name], start=states[0])
    assert same(train_together([again])[0], states[-1])


@GPU
@pytest.mark.parametrize("kind", [TinyResNet, SimpleCNN])
def test_what_is_recorded_repeats(kind: type[nn.Module]) -> None:
    settle("cuda", 1)
    runs = [
        train_together([training("cuda", RECIPES["sgd"], kind=kind)])[0]
        for _ in range(2)
    ]
    assert same(*runs)


@GPU
@pytest.mark.parametrize("name", RECIPES)
def test_only_equal_steps_are_recorded(name: str) -> None:
    assert can_record(training("cuda", RECIPES[name])) == (name in RECORDED)
    assert not can_record(training("cuda", RECIPES[name], record=False))


def test_nothing_is_recorded_on_a_cpu() -> None:
    assert not can_record(training("cpu", RECIPES["sgd"]))


@pytest.mark.parametrize("device", DEVICES)
def test_diverging_is_said(device: str) -> None:
    config = replace(RECIPES["sgd"], lr=1e12)
    good = training(device, RECIPES["sgd"])
    with pytest.raises(DivergedError, match="must stay finite, got") as caught:
        train_together([good, training(device, config)])
    if device == "cuda":
        assert caught.value.__notes__ == ["in training 2 of 2"]


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="at least one Training, got an empty one"):
        train_together([])
    one = training("cpu", RECIPES["sgd"])
    with pytest.raises(InputError, match="a model of its own"):
        train_together([one, replace(one, seed=1)])
    with pytest.raises(InputError, match="got 1 of 1 with neither"):
        train_together([training("cpu", replace(RECIPES["sgd"], epochs=0))])
