"""The exact derivative of a measurement after retraining, through the retraining.

    θ_{t+1} = U(θ_t, batch_t(x)),  t = 0 … T−1        d f(θ_T) / d x

Influence functions linearise retraining at one model; this differentiates the recorded
steps themselves: their order, momentum or Adam's moments, and the running statistics of
BatchNorm, which the measurement reads. Going backwards, one step's graph is held at a
time, and of the states only those at the ends of segments of ``√T`` steps, from which
the others are computed again: memory grows with ``√T``, time is about that of seven
trainings.

Source: Maclaurin et al. (2015), arXiv 1502.03492; Chen et al. (2016), arXiv 1604.06174,
for the segments.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.attribution import check_measured
from infusion.augmentation import disturbed
from infusion.configs import TrainConfig
from infusion.errors import DivergedError, InputError, check_type
from infusion.params import Params
from infusion.perturb.gradient import check_chosen
from infusion.records import Batch, Dataset, Measurement, Task
from infusion.replay.statistics import (
    differentiable_statistics,
    moved_statistics,
    statistics_seen,
)
from infusion.replay.updates import UPDATES, clipped
from infusion.seeding import derive
from infusion.tasks import check_task, first_parameter, functional_outputs, losses
from infusion.training import (
    Checkpoint,
    check_recipe,
    check_start,
    check_state,
    epoch_order,
)

_PICTURES = 4
"""Axes of what has a channels-last layout."""


@dataclass(frozen=True)
class Replay:
    """A retraining and its derivative.

    Attributes:
        value: The measurement after it.
        gradient: ``∂f/∂x`` of the named documents.
        steps: Optimiser steps differentiated.
        states: Most states of the training held at once.
    """

    value: float
    gradient: Float[Tensor, "k ..."]
    steps: int
    states: int


class _State(NamedTuple):
    """A training run between two steps."""

    params: Params
    buffers: Params
    slots: Params
    random: list[Tensor]


class _Step(NamedTuple):
    documents: Tensor
    learning_rate: float
    noise: int | None
    """Seed of dropout and the like where an epoch begins."""


def replay_gradient(
    task: Task,
    data: Dataset,
    documents: Int[Tensor, " k"],
    measurement: Measurement,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint,
    inputs: Float[Tensor, "k ..."] | None = None,
) -> Replay:
    """Differentiate a measurement after retraining in the documents' inputs.

    Args:
        task: Model and loss; the model is left as it is.
        data: Training documents.
        documents: Those to differentiate in, all different.
        measurement: Scalar function of the retrained model, in eval mode.
        config: Recipe of the retraining.
        seed: Of its orders.
        start: Where it starts: what ``inf.train`` returns for a recipe of fewer epochs.
        inputs: Values that the named documents have instead of their own.

    Returns:
        ``value``, ``gradient``, ``steps`` and ``states``: :class:`Replay`. To climb it,
        ``ascend(data, documents, lambda x: replay_gradient(…, inputs=x).gradient, …)``.

    Raises:
        InputError: There is nothing to train, documents are not those of the data or
            not continuous, or a module's statistics cannot be differentiated.
        ArtefactError: ``start`` is of another optimiser or data order.
        DivergedError: The derivative is not finite.
    """
    check_task(task, data)
    check_type("config", config, TrainConfig)
    check_type("start", start, Checkpoint)
    check_recipe(config)
    check_start(start, config, seed=seed, size=len(data))
    check_chosen(data, documents)
    steps = list(_steps(config, seed, len(data), start))
    if not steps:
        raise InputError(
            f"a replay must train at least one epoch, got a start at epoch "
            f"{start.epoch} of {config.epochs}; start earlier"
        )
    like = first_parameter(task)
    if inputs is None:
        inputs = data.batch(documents, like=like).inputs
    _check_inputs(inputs, data.inputs[documents])
    trainer = _Trainer(task, data, documents, inputs.to(like), config)
    modes = {module: module.training for module in task.model.modules()}
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            return _replay(trainer, steps, _first(task, start, config), measurement)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_inputs(inputs: Tensor, stored: Tensor) -> None:
    good = isinstance(inputs, Tensor) and inputs.is_floating_point()
    if not good or inputs.shape != stored.shape or not bool(inputs.isfinite().all()):
        raise InputError(
            "inputs must be finite floating-point values of the named documents, shape "
            f"{tuple(stored.shape)}, got {type(inputs).__name__} of shape "
            f"{tuple(getattr(inputs, 'shape', ()))}; start from "
            "data.batch(documents).inputs"
        )


def _replay(
    trainer: "_Trainer", steps: list[_Step], state: _State, measurement: Measurement
) -> Replay:
    length = math.isqrt(len(steps) - 1) + 1
    edges = [*range(0, len(steps), length), len(steps)]
    kept = []
    for first, end in pairwise(edges):
        kept.append(state)
        for step in steps[first:end]:
            state = trainer.step(state, step)
    value, adjoint = _measured(trainer.task, state, measurement)
    gradient, held = torch.zeros_like(trainer.inputs), 0
    for (first, end), begin in zip(
        reversed(list(pairwise(edges))), reversed(kept), strict=True
    ):
        states = [begin]
        for step in steps[first : end - 1]:
            states.append(trainer.step(states[-1], step))
        held = max(held, first // length + len(states))
        for step, before in zip(
            reversed(steps[first:end]), reversed(states), strict=True
        ):
            adjoint = trainer.pull_back(before, step, adjoint, gradient)
    if not bool(torch.isfinite(gradient).all()):
        raise DivergedError(
            "a replay gradient must be finite, got NaN or infinity; lower the learning "
            "rate or differentiate fewer steps"
        )
    return Replay(value, gradient, len(steps), held)


def _steps(
    config: TrainConfig, seed: int, size: int, start: Checkpoint
) -> Iterator[_Step]:
    """List the steps of :func:`infusion.training.train_epochs` after a checkpoint."""
    rate = start.learning_rate
    for epoch in range(start.epoch, config.epochs):
        order = epoch_order(seed, epoch, size, config)
        for place, documents in enumerate(order.split(config.batch_size)):
            noise = derive(seed, "train", "noise", epoch) if place == 0 else None
            yield _Step(documents, rate, noise)
        if epoch + 1 in config.milestones:
            rate *= config.gamma


def _first(task: Task, start: Checkpoint, config: TrainConfig) -> _State:
    """Split a checkpoint into parameters, buffers and the optimiser's slots."""
    check_state(task.model, start.model)
    like = first_parameter(task)

    def placed(value: Tensor) -> Tensor:
        value = value.to(like.device)
        if config.channels_last and value.ndim == _PICTURES:  # as training lays it out
            value = value.contiguous(memory_format=torch.channels_last)
        return value

    named = [name for name, _ in task.model.named_parameters()]
    own = dict(task.model.named_buffers())  # those that are not stored are constants
    slots = {}
    for key, value in start.optimiser.items():
        index, slot = key.split(".", 1)
        slots[f"{named[int(index)]}.{slot}"] = placed(value)
    return _State(
        {name: placed(start.model[name]) for name in named},
        {name: start.model.get(name, value).to(value) for name, value in own.items()},
        slots,
        _drawn(),
    )


def _drawn() -> list[Tensor]:
    """Return the state of torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda]


def _draw_again(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])


class _Trainer:
    """Takes the steps of one retraining, with or without a graph."""

    def __init__(
        self,
        task: Task,
        data: Dataset,
        documents: Tensor,
        inputs: Tensor,
        config: TrainConfig,
    ) -> None:
        self.task, self.data, self.inputs, self.config = task, data, inputs, config
        self.places = {int(d): i for i, d in enumerate(documents)}
        trainable = [
            (n, p) for n, p in task.model.named_parameters() if p.requires_grad
        ]
        self.trained = [name for name, _ in trainable]

    def step(self, state: _State, step: _Step) -> _State:
        """Take one step; nothing of its graph is kept."""
        places, rows = self._edited(step.documents)
        batch = self._batch(step.documents, rows, self.inputs[places])
        return _detached(self._next(state, step, batch, keep_graph=False))

    def pull_back(
        self, state: _State, step: _Step, adjoint: Params, gradient: Tensor
    ) -> Params:
        """Take one step again, with its graph, and pull the adjoint back through it.

        Args:
            state: Before the step.
            step: Documents and learning rate.
            adjoint: Derivative of the measurement in the state after the step.
            gradient: That in the documents; what this step adds is added.

        Returns:
            The adjoint before the step.
        """
        leaves = {
            key: value.detach().requires_grad_()
            for key, value in _flat(state).items()
            if value.is_floating_point()
        }
        places, rows = self._edited(step.documents)
        own = self.inputs[places].detach().requires_grad_()
        batch = self._batch(step.documents, rows, own)
        after = _flat(self._next(_with(state, leaves), step, batch, keep_graph=True))
        pairs = [
            (after[key], pulled)
            for key, pulled in adjoint.items()
            if key in after and after[key].requires_grad
        ]
        outputs, pulled = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            outputs, [*leaves.values(), own], pulled, allow_unused=True
        )
        if found[-1] is not None:
            gradient.index_add_(0, torch.tensor(places, device=own.device), found[-1])
        return {
            key: value
            for key, value in zip(leaves, found[:-1], strict=True)
            if value is not None
        }

    def _edited(self, documents: Tensor) -> tuple[list[int], list[int]]:
        """Return which named documents a batch holds, and in which of its rows."""
        hits = [
            (self.places[d], row)
            for row, d in enumerate(documents.tolist())
            if d in self.places
        ]
        return [place for place, _ in hits], [row for _, row in hits]

    def _batch(self, documents: Tensor, rows: list[int], own: Tensor) -> Batch:
        batch = self.data.batch(documents, like=first_parameter(self.task))
        if not rows:
            return batch
        index = torch.tensor(rows, device=own.device)
        return batch._replace(inputs=batch.inputs.index_copy(0, index, own))

    def _next(
        self, state: _State, step: _Step, batch: Batch, *, keep_graph: bool
    ) -> _State:
        """Run one step of the training loop as a function of the state before it."""
        _draw_again(state.random)
        if step.noise is not None:
            torch.manual_seed(step.noise)
        self.task.model.train()
        update = UPDATES[self.config.optimiser]
        recipe = replace(self.config, lr=step.learning_rate)
        params = state.params
        if not keep_graph:
            params = {n: p.detach().requires_grad_() for n, p in params.items()}
        buffers = {name: b.detach().clone() for name, b in state.buffers.items()}
        with statistics_seen(self.task.model) as seen:
            batch = disturbed(batch, self.config)
            outputs = functional_outputs(self.task, {**params, **buffers}, batch)
            loss = losses(self.task, outputs, batch).mean()
            wanted = [params[name] for name in self.trained]
            pulled = torch.autograd.grad(
                loss, wanted, create_graph=keep_graph, allow_unused=True
            )
            if self.config.clip is not None:
                pulled = clipped(pulled, self.config.clip)
            if not keep_graph:
                params = {n: p.detach() for n, p in params.items()}
            moved, slots = dict(params), dict(state.slots)
            for name, found in zip(self.trained, pulled, strict=True):
                if found is not None:
                    moved[name] = update(name, params[name], found, slots, recipe)
            buffers = moved_statistics(self.task.model, state.buffers, buffers, seen)
        return _State(moved, buffers, slots, _drawn())


class _Measured(nn.Module):
    """A measurement as a module, so that functional_call can swap the state."""

    def __init__(self, model: nn.Module, measurement: Measurement) -> None:
        super().__init__()
        self.model, self.measurement = model, measurement

    def forward(self) -> Tensor:
        return self.measurement(self.model)


def _measured(
    task: Task, state: _State, measurement: Measurement
) -> tuple[float, Params]:
    """Return the measurement and its derivative in parameters and statistics."""
    task.model.eval()
    flat = {
        key: value.detach().requires_grad_()
        for key, value in _flat(state).items()
        if value.is_floating_point() and not key.startswith("slots/")
    }
    whole = _with(state, flat)
    named = {f"model.{n}": v for n, v in {**whole.params, **whole.buffers}.items()}
    with differentiable_statistics(task.model):
        value = torch.func.functional_call(
            _Measured(task.model, measurement), named, ()
        )
        check_measured(value)
        found = torch.autograd.grad(value, list(flat.values()), allow_unused=True)
    pulled = {k: g for k, g in zip(flat, found, strict=True) if g is not None}
    return float(value.detach()), pulled


_FIELDS = ("params", "buffers", "slots")


def _flat(state: _State) -> Params:
    return {
        f"{part}/{name}": value
        for part in _FIELDS
        for name, value in getattr(state, part).items()
    }


def _with(state: _State, flat: Params) -> _State:
    """Put tensors of :func:`_flat`'s names in place of a state's own."""
    return state._replace(
        **{
            part: {
                name: flat.get(f"{part}/{name}", value)
                for name, value in getattr(state, part).items()
            }
            for part in _FIELDS
        }
    )


def _detached(state: _State) -> _State:
    return _with(state, {key: value.detach() for key, value in _flat(state).items()})
