"""Ready tasks, and the one way every stage evaluates a task at given parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infusion.errors import InputError, check_type, check_whole
from infusion.memory import freed_memory_kept
from infusion.params import Params, model_sha256
from infusion.records import Batch, Documents, Task, call_model
from infusion.sharding import all_alike, is_parallel


class OutputsModule(nn.Module):
    """The task's outputs as a module, so that functional_call can swap parameters."""

    def __init__(self, task: Task) -> None:
        """Hold the task's own model, not a copy."""
        super().__init__()
        self.model = task.model
        self.task = task

    def forward(self, batch: Batch) -> Tensor:
        """Return the task's outputs of a batch."""
        return self.task.outputs(self.model, batch)


def classification(model: nn.Module) -> Task:
    """Classify inputs with softmax outputs and cross-entropy in nats.

    Args:
        model: Maps inputs ``[b, …]`` to logits ``[b, c]``.

    Returns:
        A task with categorical likelihood.
    """
    return Task(model, call_model, cross_entropy, "categorical")


def cross_entropy(outputs: Float[Tensor, "b c"], batch: Batch) -> Float[Tensor, " b"]:
    """Negative log probability of the label, in nats, per document.

    Args:
        outputs: Logits.
        batch: Only its labels are read.

    Returns:
        One loss per document.

    Raises:
        InputError: A label is no output; a GPU says so itself, later.
    """
    try:
        return F.cross_entropy(outputs, batch.labels, reduction="none")
    except IndexError as error:
        labels = batch.labels.flatten().tolist()
        wrong = next(x for x in labels if not 0 <= x < outputs.shape[1] and x != -100)
        raise InputError(
            f"labels must lie in 0…{outputs.shape[1] - 1}, one output each, got "
            f"{wrong}; renumber the labels, or give the model as many outputs as there "
            "are classes"
        ) from error


def losses(task: Task, outputs: Tensor, batch: Batch) -> Float[Tensor, " b"]:
    """Evaluate the task's loss and check that it is one value per document.

    Args:
        task: Loss.
        outputs: Of the batch.
        batch: Documents.

    Returns:
        One loss per document.

    Raises:
        InputError: The loss has another shape, or cannot index the outputs.
    """
    try:
        values = task.loss(outputs, batch)
    except IndexError as error:
        raise InputError(
            f"a loss must take the outputs {tuple(outputs.shape)} and the labels "
            f"{tuple(batch.labels.shape)} it is given, got IndexError: {error}; check "
            "that every label has an output"
        ) from error
    if values.shape != batch.inputs.shape[:1]:
        raise InputError(
            f"a loss must return one value per document, shape ({len(batch.inputs)},), "
            f"got {tuple(values.shape)} for outputs {tuple(outputs.shape)} and labels "
            f"{tuple(batch.labels.shape)}; sum over the other axes, do not average "
            "over documents"
        )
    return values


def functional_losses(task: Task, params: Params, batch: Batch) -> Float[Tensor, " b"]:
    """Per-document losses at parameters that replace the model's own.

    Args:
        task: Model and loss.
        params: Replaces the parameters it names; the others stay.
        batch: Documents.

    Returns:
        One loss per document, differentiable in ``params`` and ``batch.inputs``.
    """
    return losses(task, functional_outputs(task, params, batch), batch)


def functional_outputs(task: Task, params: Params, batch: Batch) -> Tensor:
    """Outputs at parameters that replace the model's own.

    Args:
        task: Model.
        params: Replaces the parameters it names; the others stay.
        batch: Documents.

    Returns:
        The task's outputs, differentiable in ``params`` and ``batch.inputs``.
    """
    named = {f"model.{name}": value for name, value in params.items()}
    return torch.func.functional_call(OutputsModule(task), named, (batch,))


def first_parameter(task: Task) -> Tensor:
    """Return a parameter whose dtype and device stand for the model's.

    Args:
        task: Holds a model with at least one parameter.

    Returns:
        The first parameter, detached.
    """
    return next(task.model.parameters()).detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in eval mode and put every module's mode back afterwards.

    Args:
        model: BatchNorm then reads its running statistics, dropout is off.

    Yields:
        Nothing.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_task(task: Task, data: Documents) -> None:
    """Refuse a bare model or bare tensors, and processes that differ in weights.

    Args:
        task: Must be a task.
        data: Must be a dataset or a stream.

    Raises:
        InputError: One of them is something else, or another process has other weights.
    """
    check_type("task", task, Task)
    check_documents(data)
    if is_parallel():
        all_alike("weights", model_sha256(task.model))


def check_documents(data: Documents) -> None:
    """Refuse bare tensors.

    Args:
        data: Must be a dataset or a stream.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(data, Documents):
        raise InputError(
            f"data must be an infusion.Dataset or Stream, got {type(data).__name__}; "
            "pass the arguments in order, or by name"
        )


def batches(
    task: Task, data: Documents, batch_size: int, *, documents: Tensor | None = None
) -> Iterator[tuple[Tensor, Batch]]:
    """Walk a dataset in order, a batch at a time.

    Args:
        task: Gives dtype and device.
        data: Documents.
        batch_size: Documents held at once; bounds the memory of a stage.
        documents: Positions to visit; all where None.

    Yields:
        Positions and the documents at them.

    Raises:
        InputError: The batch size is not positive.
    """
    check_whole("batch_size", batch_size)
    like = first_parameter(task)
    if documents is None:
        documents = torch.arange(len(data))
    with freed_memory_kept():
        for part in documents.split(batch_size):
            yield part, data.batch(part, like=like)
