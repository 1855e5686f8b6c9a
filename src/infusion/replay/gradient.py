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
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.attribution.influence import check_measured
from infusion.configs import TrainConfig
from infusion.errors import DivergedError, InputError, check_type
from infusion.params import Params
from infusion.perturb.gradient import check_chosen
from infusion.records import Batch, Dataset, Measurement, Task
from infusion.replay.states import (
    ReplayStep,
    State,
    draw_again,
    drawn,
    first_state,
    steps_after,
)
from infusion.replay.statistics import (
    differentiable_statistics,
    moved_statistics,
    statistics_seen,
)
from infusion.replay.updates import UPDATES, clipped
from infusion.tasks import check_task, first_parameter, functional_outputs, losses
from infusion.training.augmentation import disturbed
from infusion.training.checkpoints import Checkpoint, check_start
from infusion.training.recipe import check_recipe


@dataclass(frozen=True)
class Replay:
    """A retraining and its derivative.

    Attributes:
        value: The measurement after it.
        gradient: ``∂f/∂x`` of the named documents.
        steps: Optimiser steps taken.
        differentiated: Of these; those before the first visit of a named document do
            not depend on it.
        states: Most states of the training held at once.
    """

    value: float
    gradient: Float[Tensor, "k ..."]
    steps: int
    differentiated: int
    states: int


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
        ``value``, ``gradient`` and what it took: :class:`Replay`. To climb it,
        ``ascend(data, documents, lambda x: replay_gradient(…, inputs=x).gradient, …)``.

    Raises:
        InputError: There is nothing to train, ``start`` lies beyond the recipe's end,
            documents are not those of the data or not continuous, or a module's
            statistics cannot be differentiated.
        ArtefactError: ``start`` is of another optimiser or data order.
        DivergedError: The derivative is not finite.
    """
    check_task(task, data)
    check_type("data", data, Dataset)
    check_type("config", config, TrainConfig)
    check_type("start", start, Checkpoint)
    check_recipe(config)
    check_start(start, config, seed=seed, size=len(data))
    check_chosen(data, documents)
    steps = list(steps_after(config, seed, len(data), start))
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
            return _replay(
                trainer, steps, first_state(task, start, config), measurement
            )
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
    trainer: "_Trainer", steps: list[ReplayStep], state: State, measurement: Measurement
) -> Replay:
    first_visit = next(i for i, step in enumerate(steps) if trainer.visits(step))
    for step in steps[:first_visit]:
        state = trainer.step(state, step)
    taken, steps = len(steps), steps[first_visit:]
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
    return Replay(value, gradient, taken, len(steps), held)


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

    def visits(self, step: ReplayStep) -> bool:
        """Tell whether a step sees a named document."""
        return bool(self._edited(step.documents)[0])

    def step(self, state: State, step: ReplayStep) -> State:
        """Take one step as training does; nothing of its graph is kept."""
        params = {n: p.detach().requires_grad_() for n, p in state.params.items()}
        buffers = {name: b.detach().clone() for name, b in state.buffers.items()}
        places, rows = self._edited(step.documents)
        batch = self._batch(step.documents, rows, self.inputs[places])
        pulled = self._pulled({**params, **buffers}, state, step, batch)
        moved = self._updated(state, step, pulled)
        return moved._replace(buffers=buffers, random=drawn()).detached()

    def pull_back(
        self, state: State, step: ReplayStep, adjoint: Params, gradient: Tensor
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
            for key, value in state.flat().items()
            if value.is_floating_point()
        }
        places, rows = self._edited(step.documents)
        own = self.inputs[places].detach().requires_grad_()
        batch = self._batch(step.documents, rows, own)
        before = state.using(leaves)
        buffers = {name: b.detach().clone() for name, b in state.buffers.items()}
        model = self.task.model
        with statistics_seen(model) as seen:
            named = {**before.params, **buffers}
            pulled = self._pulled(named, state, step, batch, twice=True)
        stepped = self._updated(before, step, pulled)
        moved = moved_statistics(model, before.buffers, buffers, seen)
        after = stepped._replace(buffers=moved).flat()
        pairs = [
            (after[key], pulled)
            for key, pulled in adjoint.items()
            if key in after and after[key].requires_grad
        ]
        ends, adjoints = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            ends, [*leaves.values(), own], adjoints, allow_unused=True
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

    def _pulled(
        self,
        named: Params,
        state: State,
        step: ReplayStep,
        batch: Batch,
        *,
        twice: bool = False,
    ) -> Params:
        """Return the gradient of a step's loss as its update takes it."""
        draw_again(state.random)
        if step.noise is not None:
            torch.manual_seed(step.noise)
        self.task.model.train()
        batch = disturbed(batch, self.config)
        loss = losses(
            self.task, functional_outputs(self.task, named, batch), batch
        ).mean()
        wanted = [named[name] for name in self.trained]
        each = torch.autograd.grad(loss, wanted, create_graph=twice, allow_unused=True)
        found = {
            name: gradient
            for name, gradient in zip(self.trained, each, strict=True)
            if gradient is not None
        }
        return found if self.config.clip is None else clipped(found, self.config.clip)

    def _updated(self, state: State, step: ReplayStep, gradients: Params) -> State:
        """Apply the optimiser's update; buffers stay."""
        update = UPDATES[self.config.optimiser]
        recipe = replace(self.config, lr=step.learning_rate)
        moved, slots = dict(state.params), dict(state.slots)
        for name, found in gradients.items():
            moved[name] = update(name, state.params[name], found, slots, recipe)
        return state._replace(params=moved, slots=slots)


class _Measured(nn.Module):
    """A measurement as a module, so that functional_call can swap the state."""

    def __init__(self, model: nn.Module, measurement: Measurement) -> None:
        super().__init__()
        self.model, self.measurement = model, measurement

    def forward(self) -> Tensor:
        return self.measurement(self.model)


def _measured(
    task: Task, state: State, measurement: Measurement
) -> tuple[float, Params]:
    """Return the measurement and its derivative in parameters and statistics."""
    task.model.eval()
    flat = {
        key: value.detach().requires_grad_()
        for key, value in state.flat().items()
        if value.is_floating_point() and not key.startswith("slots/")
    }
    whole = state.using(flat)
    named = {f"model.{n}": v for n, v in {**whole.params, **whole.buffers}.items()}
    with differentiable_statistics(task.model):
        value = torch.func.functional_call(
            _Measured(task.model, measurement), named, ()
        )
        check_measured(value)
        found = torch.autograd.grad(value, list(flat.values()), allow_unused=True)
    pulled = {k: g for k, g in zip(flat, found, strict=True) if g is not None}
    return float(value.detach()), pulled
