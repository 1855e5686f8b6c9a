"""Stacked retraining is one-at-a-time retraining, up to rounding."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import infusion as inf
from infusion.configs import TrainConfig
from infusion.data.edits import Edits
from infusion.errors import InputError
from infusion.perturb.ascent import deliver
from infusion.perturb.controls import copies
from infusion.records import Dataset
from infusion.training.loop import train_epochs
from infusion.training.retrain import retrain
from infusion.training.stacked import retrain_stacked

RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1},
    "momentum": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
    "adam, milestone": {"optimiser": "adam", "lr": 1e-2, "milestones": (3,)},
    "adamw in a cycle": {
        "optimiser": "adamw",
        "lr": 1e-2,
        "weight_decay": 0.1,
        "schedule": "cycle",
        "warmup": 3,
    },
    "disturbed": {"lr": 0.1, "noise": 0.1, "shift": 1},
    "fixed order": {"lr": 0.1, "order": "fixed", "channels_last": False},
}


def changed(data: Dataset, seed: int) -> Edits:
    generator = torch.Generator().manual_seed(seed)
    documents = torch.randperm(len(data), generator=generator)[:4]
    before = data.take(documents)
    delta = torch.randn(before.inputs.shape, generator=generator) * 0.3
    after = deliver(before, delta, None)
    return Edits(documents, before, after, operator="test", asked={})


@pytest.fixture
def make_task(make_cnn: Callable[..., nn.Module]) -> Callable[[], inf.Task]:
    return lambda: inf.classification(make_cnn())


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_each_model_of_a_stack_is_its_own_retraining(
    recipe: dict[str, Any], make_task: Callable[[], inf.Task], pictures: Dataset
) -> None:
    config = TrainConfig(epochs=4, batch_size=5, **recipe)
    start = list(train_epochs(make_task(), pictures, config, seed=0))[1]
    probe = pictures.take(torch.tensor([13]))
    edits = [
        None,
        changed(pictures, 1),
        changed(pictures, 2),
        copies(pictures, torch.tensor([0, 7]), probe, 2),
    ]
    found = retrain_stacked(make_task, pictures, edits, config, seed=0, start=start)
    for state, each in zip(found, edits, strict=True):
        data = pictures if each is None else each.apply(pictures)
        alone, _ = retrain(make_task, data, config, seed=0, start=start)
        expected = alone.model.state_dict()
        assert set(state) == set(expected)
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-7, atol=1e-9)
    weights = [state["0.weight"] for state in found]
    assert not torch.allclose(weights[0], weights[1], rtol=1e-4)


def test_refused(make_task: Callable[[], inf.Task], pictures: Dataset) -> None:
    config = TrainConfig(epochs=2, batch_size=5, lr=0.1)
    first, last = train_epochs(make_task(), pictures, config, seed=0)
    settings: dict[str, Any] = {"seed": 0, "start": first}
    with pytest.raises(
        InputError, match="edits must be a list with one entry per model"
    ):
        retrain_stacked(make_task, pictures, [], config, **settings)
    with pytest.raises(
        InputError, match="must train at least one epoch, got a start at epoch 2"
    ):
        retrain_stacked(make_task, pictures, [None], config, seed=0, start=last)
    clipped = TrainConfig(epochs=2, batch_size=5, lr=0.1, clip=1.0)
    with pytest.raises(InputError, match="cannot clip each model's gradient"):
        retrain_stacked(make_task, pictures, [None], clipped, **settings)


def test_edits_of_other_documents_and_labels_without_output_are_refused(
    make_task: Callable[[], inf.Task], pictures: Dataset
) -> None:
    config = TrainConfig(epochs=2, batch_size=5, lr=0.1)
    first, _ = train_epochs(make_task(), pictures, config, seed=0)
    settings: dict[str, Any] = {"seed": 0, "start": first}
    edits = changed(pictures, 1)
    other = replace(pictures, labels=(pictures.labels + 1) % 3)
    with pytest.raises(
        InputError, match="to apply edits every row must hash as listed"
    ):
        retrain_stacked(make_task, other, [edits], config, **settings)
    wide = replace(pictures, labels=pictures.labels + 3, num_classes=6)
    with pytest.raises(InputError, match="labels must lie in 0…2, one output each"):
        retrain_stacked(make_task, wide, [None], config, **settings)
