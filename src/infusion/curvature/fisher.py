"""Directions in output space whose outer products make up each Fisher.

For one document with outputs ``z`` and gradient ``∂ℓ/∂z = u``, the second moment of
parameter gradients is ``Σ_d Jᵀ u_d u_dᵀ J`` over these directions ``u_d``:

===========  =======================================================================
exact        one per output; categorical ``√p_c (e_c − p)``, gaussian ``e_c``. Equals
             the Gauss–Newton matrix of the loss (Martens 2020, §9).
sampled      ``u(ŷ)/√draws`` for labels ``ŷ`` drawn from the model.
empirical    ``u(y)`` for the document's own label.
===========  =======================================================================

Of a loss that is ``c`` times a negative log likelihood, ``u`` is ``c`` times the
likelihood's, and all three are scaled to be ``c`` times its second moment.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.configs import Fisher
from infusion.errors import DivergedError, InputError, check_choice
from infusion.records import Batch, LabelSampler, Task
from infusion.seeding import derive, uniforms
from infusion.tasks import losses


def categorical_labels(
    outputs: Float[Tensor, "b ... c"], uniform: Float[Tensor, "b ... u"]
) -> Int[Tensor, "b ..."]:
    """Draw one class per position from the softmax, by inverse distribution function.

    Args:
        outputs: Logits.
        uniform: Only the first number of each position is used.

    Returns:
        Class indices.
    """
    cumulative = outputs.double().softmax(-1).cumsum(-1)
    below = cumulative < uniform[..., :1].to(cumulative)
    return below.sum(-1).clamp_(max=outputs.shape[-1] - 1)


def gaussian_labels(
    outputs: Float[Tensor, "b ..."], uniform: Float[Tensor, "b ..."]
) -> Float[Tensor, "b ..."]:
    """Draw targets from a unit-variance normal around the outputs.

    Args:
        outputs: Means.
        uniform: Turned into normals by the inverse distribution function.

    Returns:
        Targets of the same shape.
    """
    return outputs + torch.special.ndtri(uniform).to(outputs)


SAMPLERS: dict[str, LabelSampler] = {
    "categorical": categorical_labels,
    "gaussian": gaussian_labels,
}


@dataclass(frozen=True)
class Directions:
    """Makes the directions of one Fisher for any batch.

    Attributes:
        task: Loss and likelihood.
        fisher: Which of the three; None for the gradient of the loss itself.
        draws: Labels per document, for ``"sampled"``.
        seed: Of the label draws.
    """

    task: Task
    fisher: Fisher | None = None
    draws: int = 1
    seed: int = 0

    def __call__(
        self, outputs: Tensor, batch: Batch, documents: Int[Tensor, " b"]
    ) -> Iterator[Tensor]:
        """Yield directions of the shape of ``outputs``.

        Args:
            outputs: Detached outputs of the batch.
            batch: Documents.
            documents: Their positions in the dataset, which key the label draws.

        Yields:
            One tensor per backward pass.
        """
        root = math.sqrt(self.task.scale)
        if self.fisher is None:
            yield _loss_gradient(self.task, outputs, batch)
        elif self.fisher == "empirical":
            yield _loss_gradient(self.task, outputs, batch) / root
        elif self.fisher == "exact":
            for direction in _exact(self.task, outputs, batch):
                yield direction * root
        else:
            for draw in range(self.draws):
                labels = self._draw(draw, outputs, batch, documents)
                drawn = batch._replace(labels=labels)
                scale = math.sqrt(self.draws) * root
                yield _loss_gradient(self.task, outputs, drawn) / scale

    def _draw(
        self, draw: int, outputs: Tensor, batch: Batch, documents: Tensor
    ) -> Tensor:
        """Draw labels; what the loss ignores stays ignored."""
        likelihood = self.task.likelihood
        assert likelihood is not None, "check_fisher lets no such task through"
        shape = tuple(outputs.shape[1:])
        if likelihood == "categorical":
            shape = (*shape[:-1], 1)
        key = derive(self.seed, "fisher", draw)
        uniform = uniforms(key, documents, shape).to(outputs.device)
        if not isinstance(likelihood, str):
            return likelihood(outputs, uniform)
        labels = SAMPLERS[likelihood](outputs, uniform)
        counts = _counts(outputs, batch)
        return labels if counts is None else torch.where(counts, labels, batch.labels)


def _counts(outputs: Tensor, batch: Batch) -> Tensor | None:
    """Return which positions the loss counts; None for all.

    A negative class label is ignored, torch's ``ignore_index`` of −100 say.
    """
    labels = batch.labels
    if labels.is_floating_point() or labels.shape != outputs.shape[:-1]:
        return None
    counts = labels >= 0
    return None if bool(counts.all()) else counts


def _loss_gradient(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        return torch.autograd.grad(losses(task, leaf, batch).sum(), leaf)[0]


def _exact(task: Task, outputs: Tensor, batch: Batch) -> Iterator[Tensor]:
    """One direction per output, each within one position."""
    if task.likelihood == "gaussian":
        for c in range(outputs[0].numel()):
            direction = torch.zeros_like(outputs.flatten(1))
            direction[:, c] = 1.0
            yield direction.view_as(outputs)
        return
    p = (
        outputs.softmax(-1).flatten(1, -2)
        if outputs.ndim > 2
        else (outputs.softmax(-1)[:, None])
    )
    counts = _counts(outputs, batch)
    if counts is not None:
        p = p * counts.flatten(1)[..., None]
    for t in range(p.shape[1]):
        for c in range(p.shape[2]):
            direction = torch.zeros_like(p)
            direction[:, t] = -p[:, t] * p[:, t, c : c + 1].sqrt()
            direction[:, t, c] += p[:, t, c].sqrt()
            yield direction.view_as(outputs)


def check_likelihood(task: Task, outputs: Tensor, batch: Batch) -> None:
    """Check that the named likelihood is the one the loss is the negative log of.

    The loss's second derivative along one direction must be that of the likelihood.

    Args:
        task: Loss and likelihood.
        outputs: Detached outputs of one batch.
        batch: The batch.

    Raises:
        InputError: They differ by more than rounding.
        DivergedError: The outputs are not finite.
    """
    if not isinstance(task.likelihood, str):
        return
    if not bool(torch.isfinite(outputs).all()):
        raise DivergedError(
            "the model's outputs must be finite, got NaN or infinity; check its "
            "weights and inputs"
        )
    leaf = outputs.detach().double().requires_grad_()
    v = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(0)).to(leaf)
    labels = batch.labels.double() if batch.labels.is_floating_point() else batch.labels
    with torch.enable_grad():
        loss = task.loss(leaf, batch._replace(labels=labels)).sum()
        (first,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (got,) = torch.autograd.grad((first * v).sum(), leaf)
    expected, scale = v, v
    if task.likelihood == "categorical":
        p = leaf.detach().softmax(-1)
        counts = _counts(outputs, batch)
        scale = p * v if counts is None else p * v * counts[..., None]
        expected = scale - p * scale.sum(-1, keepdim=True)
    # Relative to one of two terms that cancel where the model is sure.
    size = float(scale.norm()) * task.scale
    error = float((got - task.scale * expected).norm()) / size if size else 0.0
    if not error < 1e-4:
        raise InputError(
            f"the loss must be scale={task.scale:g} times the negative log of "
            f"likelihood={task.likelihood!r} up to a constant, got a second derivative "
            f"off by {error:.0%}; a gaussian loss is ½‖y − outputs‖²; else give "
            "another scale, or pass a sampler or fisher='empirical'"
        )


def check_fisher(task: Task, fisher: Fisher) -> None:
    """Refuse a Fisher that the task's likelihood cannot give.

    Args:
        task: Its likelihood is read.
        fisher: Which Fisher was asked for.

    Raises:
        InputError: The true Fisher of a task without likelihood, or the exact one of
            a likelihood given as a sampler.
    """
    check_choice("fisher", fisher, get_args(Fisher))
    if isinstance(task.likelihood, str):
        check_choice("likelihood", task.likelihood, tuple(SAMPLERS))
    if fisher != "empirical" and task.likelihood is None:
        raise InputError(
            f"fisher={fisher!r} must know the likelihood of the loss, got a task "
            "without one; set Task.likelihood or pass fisher='empirical'"
        )
    if fisher == "exact" and not isinstance(task.likelihood, str):
        raise InputError(
            "fisher='exact' must know the likelihood by name, got a sampler; pass "
            "fisher='sampled' with enough draws"
        )
