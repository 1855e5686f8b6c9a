"""Retrain many edited models at once: parameters stacked, one forward pass for all.

The models start from one checkpoint, visit the documents in one order and differ in a
few documents alone, so a batch is shared but for its edited rows. Each model's loss
depends on its own slice of the stack, so one backward pass of their sum gives all
gradients, and the optimisers, which work number by number, step on the stacks.
Rounding differs from one-at-a-time training: an edit is measured against a clean replay
*in the same stack* (docs/conventions.md).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import (  # pyright: ignore[reportPrivateImportUsage]
    functional_call,
    stack_module_state,
    vmap,
)

from infusion.configs import TrainConfig
from infusion.data.edits import Edits
from infusion.errors import DivergedError, InputError, check_type
from infusion.params import Params, is_finite
from infusion.records import Batch, Dataset, Task
from infusion.seeding import derive
from infusion.tasks import (
    OutputsModule,
    check_task,
    evaluating,
    first_parameter,
    losses,
)
from infusion.training.augmentation import disturbed
from infusion.training.checkpoints import Checkpoint, check_start, load_model
from infusion.training.recipe import OPTIMISERS, check_recipe
from infusion.training.steps import epoch_steps


def retrain_stacked(
    make_task: Callable[[], Task],
    data: Dataset,
    edits: Sequence[Edits | None],
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint,
) -> list[Params]:
    """Continue one saved training run on several edited datasets side by side.

    Args:
        make_task: Builds a task with a model of the checkpoint's architecture.
        data: Clean training documents.
        edits: What each model's documents differ in; ``None`` for a clean replay.
        config: The recipe of the saved run.
        seed: Of its orders.
        start: Its state to continue from.

    Returns:
        Weights and buffers of each model after the last epoch.

    Raises:
        InputError: There is nothing to train or nothing to stack, ``start`` lies beyond
            the recipe's end, an edit was made for other documents, labels have no
            output, or the recipe clips gradients, which a stack cannot do alike.
        ArtefactError: ``start`` is of another architecture or data order.
        DivergedError: Weights became NaN or infinite.
    """
    _check_stack(make_task, data, edits, config, start)
    check_start(start, config, seed=seed, size=len(data))
    models = [_started(make_task, start) for _ in edits]
    task = make_task()
    task.model.train()
    params, buffers = stack_module_state(models)  # pyright: ignore[reportArgumentType]
    optimiser = OPTIMISERS[config.optimiser](list(params.values()), config)
    _load_slots(optimiser, start, len(edits))
    forward = _Forward(task, params, buffers)
    rows = _EditedRows(data, edits, like=first_parameter(task))
    rate = start.learning_rate
    for epoch in range(start.epoch, config.epochs):
        steps = epoch_steps(config, seed=seed, epoch=epoch, size=len(data), rate=rate)
        torch.manual_seed(derive(seed, "train", "noise", epoch))
        for step in steps:
            optimiser.param_groups[0]["lr"] = step.learning_rate
            batch, own = rows.batch(step.documents)
            optimiser.zero_grad()
            forward.losses(batch, own, config).sum().backward()
            optimiser.step()
        if epoch + 1 in config.milestones:
            rate *= config.gamma
    stacked = {**params, **buffers}
    if not is_finite(stacked):
        raise DivergedError(
            "weights and buffers must stay finite, got NaN or infinity in a stack; "
            f"lower the learning rate (now {config.lr:g})"
        )
    return [
        {name: value[i].detach().clone() for name, value in stacked.items()}
        for i in range(len(edits))
    ]


def _check_stack(
    make_task: Callable[[], Task],
    data: Dataset,
    edits: Sequence[Edits | None],
    config: TrainConfig,
    start: Checkpoint,
) -> None:
    check_task(make_task(), data)
    check_type("data", data, Dataset)
    check_type("config", config, TrainConfig)
    check_type("start", start, Checkpoint)
    check_recipe(config)
    if not isinstance(edits, (list, tuple)) or not edits:
        raise InputError(
            f"edits must be a list with one entry per model, got {type(edits).__name__}"
            "; write [edits, None], None for a clean replay"
        )
    for each in edits:
        if each is not None:
            check_type("edits", each, Edits)
            each.check(data)
    if start.epoch >= config.epochs:
        raise InputError(
            "a stack must train at least one epoch, got a start at epoch "
            f"{start.epoch} of {config.epochs}; start earlier"
        )
    if config.clip is not None:
        raise InputError(
            f"a stack cannot clip each model's gradient, got clip={config.clip}; "
            "retrain one at a time"
        )
    _check_labels(make_task(), data, edits)


def _check_labels(task: Task, data: Dataset, edits: Sequence[Edits | None]) -> None:
    """Run the losses once outside the stack, where a bad label can be named."""
    like = first_parameter(task)
    labels = [data.labels, *(each.after.labels for each in edits if each is not None)]
    first = data.batch(torch.arange(1), like=like).inputs
    extreme = torch.stack([end for x in labels for end in (x.min(), x.max())])
    inputs = first.expand(len(extreme), *first.shape[1:])
    with evaluating(task.model), torch.no_grad():
        batch = Batch(inputs, extreme.to(first.device))
        if data.labels.ndim == 1 and not data.labels.is_floating_point():
            losses(task, task.outputs(task.model, batch), batch)


def _started(make_task: Callable[[], Task], start: Checkpoint) -> nn.Module:
    model = make_task().model
    load_model(model, start.model)
    return model.train()


def _load_slots(
    optimiser: torch.optim.Optimizer, start: Checkpoint, count: int
) -> None:
    """Give every model of the stack the optimiser state of the checkpoint."""
    whole = optimiser.state_dict()
    state: dict[int, Params] = {}
    for key, value in start.optimiser.items():
        index, name = key.split(".", 1)
        stacked = value if value.ndim == 0 else value.expand(count, *value.shape)
        state.setdefault(int(index), {})[name] = stacked.clone()
    optimiser.load_state_dict({**whole, "state": state})


class _EditedRows:
    """Batches of the clean documents, and each model's own rows of them."""

    def __init__(
        self, data: Dataset, edits: Sequence[Edits | None], *, like: Tensor
    ) -> None:
        self.data, self.like = data, like
        self.inputs: list[Tensor | None] = []
        self.places: list[dict[int, int]] = []
        self.labels: list[Tensor | None] = []
        for each in edits:
            if each is None:
                self.inputs.append(None)
                self.labels.append(None)
                self.places.append({})
                continue
            whole = torch.arange(len(each))
            batch = each.after.batch(whole, like=like)
            self.inputs.append(batch.inputs)
            self.labels.append(batch.labels)
            self.places.append({int(d): i for i, d in enumerate(each.documents)})

    def batch(self, documents: Tensor) -> tuple[Batch, Batch | None]:
        """Return a batch, and its stack ``[m, b, …]`` where a model differs in it."""
        clean = self.data.batch(documents, like=self.like)
        hits = [
            (model, row, places[d])
            for row, d in enumerate(documents.tolist())
            for model, places in enumerate(self.places)
            if d in places
        ]
        if not hits:
            return clean, None
        count = len(self.places)
        inputs = clean.inputs.expand(count, *clean.inputs.shape).clone()
        labels = clean.labels.expand(count, *clean.labels.shape).clone()
        for model, row, place in hits:
            own, target = self.inputs[model], self.labels[model]
            assert own is not None
            assert target is not None
            inputs[model, row], labels[model, row] = own[place], target[place]
        return clean, Batch(inputs, labels)


class _Forward:
    """One forward pass of all models, in train mode."""

    def __init__(self, task: Task, params: Params, buffers: Params) -> None:
        self.task, self.params, self.buffers = task, params, buffers
        self.module = OutputsModule(task)

    def losses(self, batch: Batch, own: Batch | None, config: TrainConfig) -> Tensor:
        """Return the mean loss of each model; running statistics are updated."""
        shared = own is None
        stack = batch if own is None else own
        disturb = _disturbed if not shared else disturbed
        stack = disturb(stack, config)
        named = {f"model.{n}": v for n, v in {**self.params, **self.buffers}.items()}

        def one(state: Params, inputs: Tensor, labels: Tensor) -> Tensor:
            mine = Batch(inputs, labels)
            outputs = functional_call(self.module, state, (mine,))
            return losses(self.task, outputs, mine).mean()

        place = None if shared else 0
        return vmap(one, in_dims=(0, place, place), randomness="same")(
            named, stack.inputs, stack.labels
        )


def _disturbed(stack: Batch, config: TrainConfig) -> Batch:
    """Disturb every model's batch alike, as each alone would be."""
    state = torch.get_rng_state()
    parts = []
    for inputs, labels in zip(stack.inputs, stack.labels, strict=True):
        torch.set_rng_state(state)
        parts.append(disturbed(Batch(inputs, labels), config).inputs)
    return stack._replace(inputs=torch.stack(parts))
