"""Documents, weights and probes, made once and read by every contender's process."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from infusion.bench.documents import PROBES, as_dataset, make_documents
from infusion.bench.settings import Setting, settings
from infusion.records import Batch, Dataset, Measurement, Task
from infusion.tasks import evaluating
from infusion.training.loop import init_model, train

WEIGHTS = "weights/"


@dataclass(frozen=True)
class Problem:
    """What a contender is given.

    Attributes:
        setting: Sizes.
        task: Trained model, in eval mode.
        data: Documents.
        probes: The measurements are the log-likelihoods of these.
        scratch: Folder for what a contender writes.
    """

    setting: Setting
    task: Task
    data: Dataset
    probes: Dataset
    scratch: Path

    def fresh(self) -> "Problem":
        """Return the same problem with a model of its own: peers wrap its layers."""
        model = copy.deepcopy(self.task.model)
        return replace(self, task=self.setting.make_task(model))

    def warm_up(self) -> "Problem":
        """Return the first batch of documents, for a run that is not timed."""
        first = torch.arange(min(self.setting.batch_size, len(self.data)))
        scratch = self.scratch / "warm-up"
        return replace(self.fresh(), data=self.data.take(first), scratch=scratch)

    def read(self, data: Dataset, rows: Tensor) -> Batch:
        """Read documents or probes as the model sees them.

        Args:
            data: Which of the two.
            rows: Positions.

        Returns:
            Values in the model's dtype.
        """
        return data.batch(rows, like=next(self.task.model.parameters()))

    def measurement(self, index: int) -> Measurement:
        """Return the log-likelihood of one probe.

        Args:
            index: Its position.

        Returns:
            A scalar function of the model.
        """
        probe = self.read(self.probes, torch.tensor([index]))

        def log_likelihood(model: nn.Module) -> Tensor:
            return -self.task.loss(self.task.outputs(model, probe), probe).sum()

        return log_likelihood


def prepare(name: str, *, small: bool, data: str | None, folder: Path) -> str:
    """Make the documents, train the model briefly, and store both.

    Args:
        name: Of the setting.
        small: Shrink every size.
        data: CIFAR-10 for the pictures; ``None`` draws random pixels.
        folder: Gets ``{name}.safetensors``.

    Returns:
        What the documents are, for people.
    """
    setting = settings(small=small)[name]
    documents, origin = make_documents(name, setting, data)
    task = setting.make_task(init_model(setting.make_model, seed=0))
    fitted = documents.take(torch.arange(setting.documents))
    train(task, fitted, setting.recipe, seed=0)
    weights = {WEIGHTS + k: v for k, v in task.model.state_dict().items()}
    tensors = {"inputs": documents.inputs, "labels": documents.labels, **weights}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors"
    )
    return origin


def load(
    name: str, *, small: bool, folder: Path, scratch: Path, channels_last: bool
) -> Problem:
    """Read what :func:`prepare` stored.

    Args:
        name: Of the setting.
        small: As in :func:`prepare`.
        folder: As in :func:`prepare`.
        scratch: Of the contender.
        channels_last: Memory layout of convolutions.

    Returns:
        The problem, its model in eval mode.
    """
    setting = settings(small=small)[name]
    stored = load_file(folder / f"{name}.safetensors")
    model = init_model(setting.make_model, seed=0)
    weights = {k: v for k, v in stored.items() if k.startswith(WEIGHTS)}
    model.load_state_dict({k.removeprefix(WEIGHTS): v for k, v in weights.items()})
    if channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    documents = as_dataset(setting, stored["inputs"], stored["labels"])
    n = setting.documents
    return Problem(
        setting=setting,
        task=setting.make_task(model.eval()),
        data=documents.take(torch.arange(n)),
        probes=documents.take(torch.arange(n, n + PROBES)),
        scratch=scratch,
    )


def forward(problem: Problem) -> None:
    """Run the model over all documents, the yardstick of ``forward_passes``.

    Args:
        problem: Model and documents.
    """
    task, data = problem.task, problem.data
    with evaluating(task.model), torch.no_grad():
        for rows in torch.arange(len(data)).split(problem.setting.batch_size):
            task.outputs(task.model, problem.read(data, rows))
