"""What a forward pass over the documents says: losses, features and probabilities."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infusion.errors import NotApplicableError
from infusion.records import Batch, Dataset, Task
from infusion.tasks import batches, evaluating, losses


@dataclass(frozen=True)
class Reading:
    """One forward pass over all documents.

    Attributes:
        losses: Per document, as trained.
        features: Input of the last linear layer, its mean over a document's positions.
        probabilities: Of every class; None where a document has many positions.
    """

    losses: Float[Tensor, " n"]
    features: Float[Tensor, "n d"]
    probabilities: Float[Tensor, "n c"] | None


@dataclass
class Listener:
    """Reads along while somebody runs all documents, in their order.

    Attributes:
        task: Whose model is run.
        last: Input of the linear layer that ran last.
        parts: Losses, features and probabilities of every batch.
        problem: Why there are none.
    """

    task: Task
    last: Tensor | None = None
    parts: list[tuple[Tensor, Tensor, Tensor | None]] = field(default_factory=list)
    problem: str = ""

    def hear(self, outputs: Tensor, batch: Batch) -> None:
        """Note a batch.

        Args:
            outputs: Of the task, just computed.
            batch: Its documents.
        """
        with torch.no_grad():
            outputs = outputs.detach()
            found = losses(self.task, outputs, batch).cpu()
            shares = outputs.softmax(-1).cpu() if outputs.ndim == 2 else None
            rows = None if self.last is None else len(self.last)
            if self.last is not None and rows == len(found):
                features = _pooled(self.last, self.task, batch).cpu()
                self.parts.append((found, features, shares))
            elif not self.problem:
                self.problem = (
                    "features need the documents along the first axis of the last "
                    f"linear layer's input, got {rows} rows for {len(found)} documents"
                )

    def reading(self) -> Reading:
        """Put all batches together.

        Returns:
            What they said.

        Raises:
            NotApplicableError: No linear layer ran, or none on a row per document.
        """
        if self.problem:
            raise NotApplicableError(f"{self.problem}; leave the detector out")
        each = [shares for *_, shares in self.parts if shares is not None]
        return Reading(
            torch.cat([found for found, *_ in self.parts]),
            torch.cat([features for _, features, _ in self.parts]),
            torch.cat(each) if each else None,
        )


def linear_layers(task: Task) -> list[nn.Linear]:
    """List the layers whose inputs can be features.

    Args:
        task: Whose model.

    Returns:
        All linear ones; which of them is last is seen when the model runs.
    """
    return [m for m in task.model.modules() if isinstance(m, nn.Linear)]


@contextmanager
def listening(task: Task) -> Iterator[Listener]:
    """Watch the linear layers of a model.

    Args:
        task: Whose model.

    Yields:
        A listener, to be told the outputs of every batch.

    Raises:
        NotApplicableError: No layer is linear.
    """
    layers = linear_layers(task)
    if not layers:
        raise NotApplicableError(
            "features are the input of a model's last linear layer, got a model "
            "without one; leave the detector out"
        )
    listener = Listener(task)

    def keep(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        listener.last = (*inputs, *named.values())[0].detach()

    hooks = [
        module.register_forward_pre_hook(keep, with_kwargs=True) for module in layers
    ]
    try:
        yield listener
    finally:
        for hook in hooks:
            hook.remove()


def read(task: Task, data: Dataset, batch_size: int) -> Reading:
    """Run the documents for nothing else.

    Args:
        task: The model as trained on them.
        data: All of them.
        batch_size: Documents held at once.

    Returns:
        What they said.

    Raises:
        NotApplicableError: No layer is linear, or its input has no row per document.
    """
    with listening(task) as listener, evaluating(task.model), torch.no_grad():
        for _, batch in batches(task, data, batch_size):
            listener.hear(task.outputs(task.model, batch), batch)
    return listener.reading()


def _pooled(features: Tensor, task: Task, batch: Batch) -> Float[Tensor, "b d"]:
    """Average features over the positions that are data."""
    if features.ndim == 2:
        return features
    flat = features.flatten(1, -2)
    kept = torch.ones(flat.shape[:2], device=flat.device)
    if task.mask is not None:
        kept = task.mask(batch).to(flat).flatten(1)
    return (flat * kept[..., None]).sum(1) / kept.sum(1, keepdim=True).clamp_min(1)
