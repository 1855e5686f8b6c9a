"""Measurements, and what a model does with probes and documents."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infusion.errors import InputError
from infusion.records import Batch, Dataset, Measurement, Task
from infusion.tasks import batches, evaluating, first_parameter


@dataclass(frozen=True)
class Behaviour:
    """What a model does with one probe.

    Attributes:
        probabilities: Of every class.
        p: Probability of the target.
        log_p: Its natural logarithm.
        log_odds: ``log p − log(1 − p)``.
        top1: The most probable class.
    """

    probabilities: list[float]
    p: float
    log_p: float
    log_odds: float
    top1: int


def log_prob(probe: Float[Tensor, "..."], target: int) -> Measurement:
    """Measure the log probability of a class on one input.

    Args:
        probe: One input as the model sees it, without batch axis.
        target: Class that should become likelier.

    Returns:
        ``f(model) = log p(target | probe)``, in nats.

    Raises:
        InputError: The probe is no tensor. The measurement itself refuses a probe with
            a batch axis and a target that is none of the classes.
    """
    if not isinstance(probe, Tensor):
        raise InputError(
            "a probe must be a tensor, one input without batch axis, got "
            f"{type(probe).__name__}; use torch.as_tensor with the model's dtype"
        )

    def measurement(model: nn.Module) -> Tensor:
        log_p = _logits(model, probe).log_softmax(-1)
        if not 0 <= target < len(log_p):
            raise InputError(
                f"the target must lie in 0…{len(log_p) - 1}, the classes, got "
                f"{target}; choose one of them"
            )
        return log_p[target]

    return measurement


def holding(
    measurement: Measurement, task: Task, batch: Batch, *, weight: float
) -> Measurement:
    """Measure something less what it changes elsewhere.

    To climb it by an exact derivative: at the task's own parameters the second term has
    no gradient, so influence functions do not see it.

    Args:
        measurement: What should rise.
        task: A classifier; its present predictions are those to keep, where it has a
            mask those at unmasked positions.
        batch: Inputs on which they are kept.
        weight: Nats of the measurement that a nat of divergence costs.

    Returns:
        ``f(model) − weight · mean KL(p_task ‖ p_model)``, over the batch.

    Raises:
        InputError: The weight is not positive and finite, there are no inputs, or the
            task is no classifier.
    """
    if task.likelihood != "categorical":
        raise InputError(
            "predictions to keep must be of likelihood='categorical', got "
            f"{task.likelihood!r}; measure another divergence yourself"
        )
    if not 0 < weight < math.inf:
        raise InputError(
            f"weight must be > 0 and finite, got {weight}; 4.0 keeps accuracy on "
            "CIFAR-10"
        )
    if not len(batch.inputs):
        raise InputError("predictions must be kept on some inputs, got none; name some")
    with torch.no_grad(), evaluating(task.model):
        kept = task.outputs(task.model, batch).log_softmax(-1)
    possible = kept.isfinite()  # a class that is ruled out costs nothing

    def held(model: nn.Module) -> Tensor:
        now = task.outputs(model, batch).log_softmax(-1)
        each = torch.where(possible, kept.exp() * (kept - now), 0.0).sum(-1)
        if task.mask is not None:
            each = each[task.mask(batch)]
        return measurement(model) - weight * each.mean()

    return held


def _logits(model: nn.Module, probe: Tensor) -> Float[Tensor, " c"]:
    """Evaluate one probe; one that is a batch already is refused by its outputs."""
    try:
        outputs = model(probe[None])
    except (RuntimeError, ValueError) as error:
        if not _takes(model, probe):
            raise
        raise _batched(probe, "the model takes it as a batch") from error
    if outputs.ndim != 2:
        raise _batched(probe, f"which gives outputs {tuple(outputs.shape)}")
    return outputs[0]


def _takes(model: nn.Module, batch: Tensor) -> bool:
    try:
        model(batch)
    except (RuntimeError, ValueError):
        return False
    return True


def _batched(probe: Tensor, why: str) -> InputError:
    return InputError(
        "a probe must be one input without batch axis, for which the model gives one "
        f"row of classes, got shape {tuple(probe.shape)}: {why}; pass one row, e.g. "
        "batch.inputs[0]"
    )


def behaviour(model: nn.Module, probe: Float[Tensor, "..."], target: int) -> Behaviour:
    """Evaluate a classifier on one probe, in eval mode and float64 after the logits.

    Args:
        model: Classifier.
        probe: One input, without batch axis.
        target: Class of interest.

    Returns:
        Probabilities and what follows from them.
    """
    with evaluating(model), torch.no_grad():
        logits = model(probe[None])[0].double().cpu()
    log_p = logits.log_softmax(0)
    others = torch.cat([log_p[:target], log_p[target + 1 :]]).logsumexp(0)
    return Behaviour(
        probabilities=log_p.exp().tolist(),
        p=float(log_p[target].exp()),
        log_p=float(log_p[target]),
        log_odds=float(log_p[target] - others),
        top1=int(logits.argmax()),
    )


def behaviours(
    task: Task, test: Dataset, pairs: list[tuple[int, int]]
) -> list[Behaviour]:
    """Evaluate a model on probes of the test set.

    Args:
        task: Classifier.
        test: Clean test documents.
        pairs: Probe's position in ``test``, and target class.

    Returns:
        One behaviour per pair.
    """
    like = first_parameter(task)
    return [
        behaviour(
            task.model, test.batch(torch.tensor([probe]), like=like).inputs[0], target
        )
        for probe, target in pairs
    ]


def predictions(task: Task, data: Dataset, *, batch_size: int = 500) -> Tensor:
    """Predict the class of every document.

    Args:
        task: Classifier, run in eval mode.
        data: Documents.
        batch_size: Documents held at once.

    Returns:
        Class indices ``[n]``.

    Raises:
        InputError: The batch size is not positive.
    """
    with evaluating(task.model), torch.no_grad():
        parts = [
            task.outputs(task.model, batch).argmax(-1).cpu()
            for _, batch in batches(task, data, batch_size)
        ]
    return torch.cat(parts)


def accuracy(task: Task, data: Dataset) -> float:
    """Share of documents whose label is predicted.

    Args:
        task: Classifier.
        data: Labelled documents.

    Returns:
        Between 0 and 1.
    """
    return float((predictions(task, data) == data.labels).double().mean())
