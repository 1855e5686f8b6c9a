"""The one training loop: deterministic, with a checkpoint after every epoch.

Nothing but the seed, the recipe, the documents and the thread count decides the bits:
orders come from named streams, so a checkpoint needs no generator state.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from infusion.configs import TrainConfig
from infusion.errors import DivergedError, InputError
from infusion.params import is_finite
from infusion.records import Dataset, Task
from infusion.seeding import derive
from infusion.tasks import first_parameter, losses
from infusion.training.augmentation import disturbed
from infusion.training.checkpoints import (
    Checkpoint,
    check_start,
    load_model,
    load_optimiser,
    optimiser_state,
    order_hash,
)
from infusion.training.recipe import OPTIMISERS, check_recipe
from infusion.training.steps import Step, epoch_steps


def train(
    task: Task,
    data: Dataset,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint | None = None,
) -> Checkpoint:
    """Train the task's model in place to the end of the recipe.

    Args:
        task: Its model is overwritten.
        data: Training documents.
        config: Recipe.
        seed: Decides the orders.
        start: Continue after this checkpoint instead of from the model as it is.

    Returns:
        The state after the last epoch; ``start`` itself where nothing was left to do.

    Raises:
        InputError: There is no epoch to train and no start.
        ArtefactError: ``start`` is of another architecture, optimiser or data order.
        DivergedError: A training loss became NaN or infinite.
    """
    final = start
    for checkpoint in train_epochs(task, data, config, seed=seed, start=start):
        final = checkpoint
    if final is None:
        raise InputError(f"epochs must be ≥ 1, got {config.epochs}; train for more")
    return final


def train_epochs(
    task: Task,
    data: Dataset,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Checkpoint]:
    """Train the task's model in place, an epoch per checkpoint.

    Args:
        task: Its model is overwritten.
        data: Training documents; the objective is the mean loss of each batch.
        config: Recipe.
        seed: Decides the orders. Initialisation is the caller's, see ``init_model``.
        start: Continue after this checkpoint instead of from the model as it is.
        on_step: Called after every optimiser step.

    Yields:
        The state after each epoch; consume all to train to the end.

    Raises:
        InputError: A setting of the recipe cannot be used, or the loss is not one
            value per document.
        ArtefactError: ``start`` is of another architecture, optimiser or data order.
        DivergedError: A training loss became NaN or infinite.
    """
    check_recipe(config)
    task.model.train()
    lay_out(task.model, config)
    optimiser = OPTIMISERS[config.optimiser](task.model.parameters(), config)
    first, rate = 0, config.lr
    if start is not None:
        check_start(start, config, seed=seed, size=len(data))
        first, rate = start.epoch, start.learning_rate
        load_model(task.model, start.model)
        load_optimiser(optimiser, start)
    for epoch in range(first, config.epochs):
        steps = epoch_steps(config, seed=seed, epoch=epoch, size=len(data), rate=rate)
        torch.manual_seed(derive(seed, "train", "noise", epoch))
        _train_epoch(task, data, optimiser, steps, config, on_step=on_step)
        state = {k: v.clone() for k, v in task.model.state_dict().items()}
        if not is_finite(state):
            raise DivergedError(
                "weights and buffers must stay finite, got NaN or infinity after "
                f"epoch {epoch + 1}; lower the learning rate (now {config.lr:g})"
            )
        if epoch + 1 in config.milestones:
            rate *= config.gamma
        yield Checkpoint(
            epoch=epoch + 1,
            order_sha256=order_hash(seed, epoch + 1, len(data), config),
            model=state,
            optimiser=optimiser_state(optimiser),
            learning_rate=rate,
        )


def _train_epoch(
    task: Task,
    data: Dataset,
    optimiser: torch.optim.Optimizer,
    steps: list[Step],
    config: TrainConfig,
    *,
    on_step: Callable[[], None],
) -> None:
    like = first_parameter(task)
    parameters = list(task.model.parameters())
    for number, step in enumerate(steps):
        for group in optimiser.param_groups:
            group["lr"] = step.learning_rate
        batch = disturbed(data.batch(step.documents, like=like), config)
        optimiser.zero_grad()
        loss = losses(task, task.outputs(task.model, batch), batch).mean()
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"the training loss must stay finite, got {loss.item()} at step "
                f"{number} of an epoch; lower the learning rate "
                f"(now {step.learning_rate:g})"
            )
        loss.backward()
        if config.clip is not None:
            nn.utils.clip_grad_norm_(parameters, config.clip)
        optimiser.step()
        on_step()


def lay_out(model: nn.Module, config: TrainConfig) -> None:
    """Lay a model out in memory as its recipe trains it: rounding depends on it.

    Args:
        model: Changed in place.
        config: Its ``channels_last``.
    """
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def init_model(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model whose initialisation depends on the seed alone.

    Args:
        make_model: Builds it, drawing from torch's global generator.
        seed: Root seed of the run.

    Returns:
        The model; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "train", "init"))
        return make_model()
