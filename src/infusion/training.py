"""The one training loop: deterministic, with a checkpoint after every epoch.

Nothing but the seed, the recipe, the documents and the thread count decides the bits:
orders come from named streams, so a checkpoint needs no generator state.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from infusion.augmentation import disturbed
from infusion.configs import TrainConfig
from infusion.errors import (
    ArtefactError,
    DivergedError,
    InputError,
    check_choice,
    check_whole,
)
from infusion.params import Params, is_finite
from infusion.records import Dataset, Task
from infusion.seeding import derive, stream
from infusion.tasks import first_parameter, losses

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, config: torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    ),
    "adam": lambda parameters, config: torch.optim.Adam(
        parameters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    ),
    "adamw": lambda parameters, config: torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    ),
}
_ADAM = {"step", "exp_avg", "exp_avg_sq"}
STATES = {"adam": _ADAM, "adamw": _ADAM}
"""Optimisers' state of a parameter; that of SGD depends on its momentum."""
_LOWEST, _LAST = 25.0, 1e4
"""Largest rate over the first, and first over the last, of a cycle."""


@dataclass(frozen=True)
class Checkpoint:
    """A training run after a whole number of epochs.

    Attributes:
        epoch: Epochs done; the data order goes on with this epoch's permutation.
        order_sha256: Hash of that permutation: a replay on another order is refused.
        model: Weights and buffers.
        optimiser: ``"{parameter index}.{name}"`` to the optimiser's state.
        learning_rate: As the last milestone left it.
    """

    epoch: int
    order_sha256: str
    model: Params
    optimiser: Params
    learning_rate: float


def epoch_order(
    seed: int, epoch: int, size: int, config: TrainConfig
) -> Int[Tensor, " n"]:
    """Return the order in which one epoch visits the documents.

    Args:
        seed: Root seed of the run.
        epoch: Counted from 0.
        size: Training documents.
        config: ``"fixed"`` order ignores the epoch.

    Returns:
        A permutation of ``0…size−1``.
    """
    part = 0 if config.order == "fixed" else epoch
    return torch.randperm(size, generator=stream(seed, "train", "order", part))


def cycle_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Return the learning rate of one step of a cycle.

    Args:
        config: Its largest rate and its warm-up.
        step: Counted from 0 over all epochs.
        steps: Of all epochs.

    Returns:
        That of ``torch.optim.lr_scheduler.OneCycleLR`` (Smith & Topin, 2018,
        arXiv 1708.07120) as a function of the step alone, so that a replay needs no
        state of it. Momentum stays; torch's default moves Adam's first beta too.
    """
    top, low = config.lr, config.lr / _LOWEST
    peak = config.warmup - 1
    if step <= peak:
        return _eased(low, top, step / peak if peak else 1.0)
    return _eased(top, low / _LAST, (step - peak) / (steps - 1 - peak))


def _eased(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


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


def check_recipe(config: TrainConfig) -> None:
    """Refuse a recipe that cannot train.

    Args:
        config: Recipe.

    Raises:
        InputError: A setting is out of range; the message names it.
    """
    check_choice("optimiser", config.optimiser, tuple(OPTIMISERS))
    check_choice("order", config.order, ("fixed", "fresh"))
    check_choice("schedule", config.schedule, ("steps", "cycle"))
    check_whole("epochs of the training recipe", config.epochs, 0)
    check_whole("batch_size of the training recipe", config.batch_size)
    check_whole("shift of the training recipe", config.shift, 0)
    check_whole("warmup of the training recipe", config.warmup, 0)
    check_choice("flip", config.flip, (False, True))
    if not isinstance(config.milestones, (tuple, list)):
        raise InputError(
            f"milestones of the training recipe must be a tuple of epochs, got "
            f"{config.milestones!r}; write e.g. (5, 8)"
        )
    for name, fits, must in (
        ("lr", 0 < config.lr < math.inf, "> 0 and finite"),
        ("momentum", 0 <= config.momentum < 1, "in [0, 1)"),
        ("weight_decay", 0 <= config.weight_decay < math.inf, "≥ 0 and finite"),
        ("gamma", 0 < config.gamma < math.inf, "> 0 and finite"),
        ("clip", config.clip is None or 0 < config.clip < math.inf, "> 0 and finite"),
        ("noise", 0 <= config.noise < math.inf, "≥ 0 and finite"),
        (
            "betas",
            len(config.betas) == 2 and all(0 <= b < 1 for b in config.betas),
            "two numbers in [0, 1)",
        ),
        (
            "milestones",
            config.schedule == "steps" or not config.milestones,
            "empty in a cycle",
        ),
        (
            "warmup",
            (config.schedule == "cycle") == (config.warmup > 0),
            "≥ 1 in a cycle and 0 without one",
        ),
    ):
        if not fits:
            raise InputError(
                f"{name} of the training recipe must be {must}, got "
                f"{getattr(config, name)}; choose another"
            )


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
        _load_optimiser(optimiser, start)
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
            order_sha256=_order_hash(seed, epoch + 1, len(data), config),
            model=state,
            optimiser=_optimiser_state(optimiser),
            learning_rate=rate,
        )


class Step(NamedTuple):
    """One optimiser step.

    Attributes:
        documents: Of its batch, in order.
        learning_rate: Of this step.
    """

    documents: Tensor
    learning_rate: float


def epoch_steps(
    config: TrainConfig, *, seed: int, epoch: int, size: int, rate: float
) -> list[Step]:
    """List the steps of one epoch.

    Args:
        config: Recipe.
        seed: Of its orders.
        epoch: Counted from 0.
        size: Training documents.
        rate: What the last milestone left of the learning rate; a cycle has its own.

    Returns:
        The steps in order.

    Raises:
        InputError: The warm-up is as long as the training.
    """
    parts = epoch_order(seed, epoch, size, config).split(config.batch_size)
    if config.schedule == "steps":
        return [Step(documents, rate) for documents in parts]
    before, whole = epoch * len(parts), config.epochs * len(parts)
    if config.warmup >= whole:
        raise InputError(
            f"warmup of the training recipe must end before its {whole} steps, got "
            f"{config.warmup}; shorten it"
        )
    return [
        Step(documents, cycle_rate(config, before + step, whole))
        for step, documents in enumerate(parts)
    ]


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


def load_model(model: nn.Module, state: Params) -> None:
    """Copy weights and buffers into a model of the same architecture.

    Args:
        model: Overwritten.
        state: As in :class:`Checkpoint`.

    Raises:
        ArtefactError: Names or shapes differ; the first difference is named.
    """
    check_state(model, state)
    model.load_state_dict(state)


def check_state(model: nn.Module, state: Params) -> None:
    """Refuse weights of another architecture.

    Args:
        model: Any.
        state: Weights and buffers to load into it.

    Raises:
        ArtefactError: Names or shapes differ; the first difference is named.
    """
    own = model.state_dict()
    for name in [*own, *state]:
        have = tuple(own[name].shape) if name in own else "nothing"
        got = tuple(state[name].shape) if name in state else "nothing"
        if have != got:
            raise ArtefactError(
                f"a checkpoint must be of the same architecture, got {got} for "
                f"{name} where the model has {have}; use the checkpoint's own model"
            )


def _order_hash(seed: int, epoch: int, size: int, config: TrainConfig) -> str:
    order = epoch_order(seed, epoch, size, config)
    return hashlib.sha256(order.numpy().tobytes()).hexdigest()


def _optimiser_state(optimiser: torch.optim.Optimizer) -> Params:
    return {
        f"{index}.{name}": value.clone()
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def check_start(
    start: Checkpoint, config: TrainConfig, *, seed: int, size: int
) -> None:
    """Refuse a checkpoint of another data order or optimiser.

    Args:
        start: Checkpoint to continue from.
        config: Recipe to continue with.
        seed: Seed of the orders.
        size: Training documents.

    Raises:
        ArtefactError: The checkpoint is of another seed, recipe or number of documents.
    """
    if _order_hash(seed, start.epoch, size, config) != start.order_sha256:
        raise ArtefactError(
            f"a replay must visit the documents in the order of seed {seed}, got a "
            f"checkpoint of epoch {start.epoch} with another order; use its seed, "
            "recipe and number of documents"
        )
    momentum = {"momentum_buffer"} if config.momentum else set()
    wanted = STATES.get(config.optimiser, momentum)
    got = {key.split(".", 1)[1] for key in start.optimiser}
    if got != wanted:
        raise ArtefactError(
            f"a replay must use the optimiser of its checkpoint, got state "
            f"{sorted(got)} where the recipe has {sorted(wanted)}; use its recipe"
        )


def reordered(
    start: Checkpoint, config: TrainConfig, *, seed: int, size: int
) -> Checkpoint:
    """Let a checkpoint go on in the order of another seed.

    Args:
        start: Checkpoint to continue from.
        config: Recipe to continue with.
        seed: Seed of the orders from here on.
        size: Training documents.

    Returns:
        The checkpoint, which :func:`check_start` accepts with that seed.
    """
    return replace(start, order_sha256=_order_hash(seed, start.epoch, size, config))


def _load_optimiser(optimiser: torch.optim.Optimizer, start: Checkpoint) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in start.optimiser.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value.clone()
    whole = optimiser.state_dict()
    if state and max(state) >= sum(len(g["params"]) for g in whole["param_groups"]):
        raise ArtefactError(
            "an optimiser state must belong to the model's parameters, got state for "
            f"parameter {max(state)}; use the checkpoint's own model"
        )
    optimiser.load_state_dict({**whole, "state": state})
