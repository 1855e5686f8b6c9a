"""Token documents while they are edited: limits, drafts, and what both editors ask.

A draft is scored by the predicted effect of its real, discrete change.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import grad  # pyright: ignore[reportPrivateImportUsage]

from infusion.attribution.influence import along, directional_losses
from infusion.errors import InputError, check_type, check_whole
from infusion.language import IGNORED, relaxed, relaxed_labels, vocabulary_of
from infusion.params import Params
from infusion.perturb.gradient import check_finite, check_positions, check_slope
from infusion.records import Batch, Dataset, Task
from infusion.tasks import check_task, first_parameter, functional_losses

_AGREEMENT = 1e-3
"""Of outputs from tokens and from their embeddings, over their length."""
MEMORY = 2 << 30
"""Bytes for the relaxed rows of one crafting, and what is as large, unless told."""
_COPIES, _SMALL_COPIES = 20, 40
"""Relaxed documents held at once for each that is edited, and where they are too small
for the system to take back at once what is freed of them (14 to 17 and 25 to 32 here).
"""
_TAKEN_BACK = 32 << 20
"""Bytes of a block that glibc gives back at once."""
_PASSES = 8
"""Activations held at once over those that one forward pass saves: of the losses, of
their derivative along the IHVP, and of both on the way back (8 here)."""


Price = Callable[[Int[Tensor, "b t"], Int[Tensor, "b t"]], Tensor]
"""What documents of these tokens and labels cost an edit."""


def _anything(_: Tensor) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """What an edit of a token document may do.

    Attributes:
        changes: Most tokens changed in a document.
        allowed: Tokens that may be put in; leave out padding and other special ones.
        fixed: Positions that stay, per edited document, beside padding and positions
            that neither are predicted nor predict; none if None.
        survives: Whether a document, its padding left out, is read back as it is after
            decoding; asked of every candidate, so a document that does not survive as
            it is stays as it is.
        price: What edited documents of these tokens and labels cost, in units of the
            predicted effect; infinite where they may not be stored. Nothing if None.
    """

    changes: int
    allowed: Bool[Tensor, " v"]
    fixed: Bool[Tensor, "k t"] | None = None
    survives: Callable[[Int[Tensor, " t"]], bool] = _anything
    price: Price | None = None


@dataclass(frozen=True)
class Objective:
    """What all documents of one crafting share."""

    task: Task
    params: Params
    ihvp: Params
    size: int
    limits: TokenLimits
    vocabulary: int
    labels_move: bool

    def effects(self, inputs: Tensor, labels: Tensor) -> Float[Tensor, " b"]:
        """Return what each document adds to the predicted measurement."""
        batch = Batch(inputs, labels)
        with torch.no_grad():
            found = directional_losses(self.task, self.params, self.ihvp, batch)
        return found.double() / -self.size

    def gradient(self, rows: Tensor, predicted: Tensor) -> Tensor:
        """Differentiate the predicted measurement in relaxed documents."""
        still = (
            None
            if self.labels_move
            else relaxed(rows.argmax(-1), rows, self.vocabulary)
        )

        def total(rows: Tensor) -> Tensor:
            targets = rows if still is None else still
            wanted = relaxed_labels(targets, predicted)
            batch = Batch(rows, wanted)
            return directional_losses(
                self.task, self.params, self.ihvp, batch, again=True
            ).sum()

        with torch.no_grad():
            found = grad(total)(rows) / -self.size
        check_finite(found)
        return found


@dataclass(frozen=True)
class Drafts:
    """Documents that are being edited, and the best discrete ones so far."""

    original: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    free: Bool[Tensor, "b t"]
    best: Int[Tensor, "b t"]
    effect: Float[Tensor, " b"]

    @property
    def predicted(self) -> Bool[Tensor, "b t"]:
        """Where something is predicted, whatever the tokens are."""
        return self.labels != IGNORED

    def labelled(self, inputs: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """Return the labels of candidates."""
        return inputs.roll(-1, 1).masked_fill(~self.predicted, IGNORED)

    def survives(self, limits: TokenLimits, row: int, written: Tensor) -> bool:
        """Ask whether a candidate is read back as it is."""
        length = int(self.predicted[row].nonzero().max()) + 2  # the last is a target
        return limits.survives(written[:length])

    def better(self, objective: Objective, candidates: Int[Tensor, "b t"]) -> "Drafts":
        """Take candidates whose real change is predicted to do more than it costs."""
        labels = self.labelled(candidates)
        found = objective.effects(candidates, labels)
        if objective.limits.price is not None:
            found = found - objective.limits.price(candidates, labels)
        more = found > self.effect
        best = torch.where(more[:, None], candidates, self.best)
        return replace(self, best=best, effect=torch.where(more, found, self.effect))


def make_objective(
    task: Task,
    data: Dataset,
    ihvp: Params,
    limits: TokenLimits,
    *,
    labels_move: bool = True,
) -> Objective:
    """Check what all documents of one crafting share.

    Args:
        task: Of a language model.
        data: The whole training set.
        ihvp: From ``curvature.solve``.
        limits: What may change.
        labels_move: Whether the gradient knows that a token is also a target; else the
            targets are the largest entries of the rows, without a gradient.

    Returns:
        The objective.

    Raises:
        InputError: They do not fit the model.
    """
    check_task(task, data)
    check_type("data", data, Dataset)
    check_type("limits", limits, TokenLimits)
    check_whole("changes", limits.changes)
    vocabulary = vocabulary_of(task.model)
    allowed = limits.allowed
    dtype = getattr(allowed, "dtype", type(allowed).__name__)
    if dtype != torch.bool:
        raise InputError(
            f"allowed must be a bool tensor, got {dtype}; build it with torch.zeros("
            f"{vocabulary}).bool()"
        )
    if allowed.shape != (vocabulary,) or not bool(allowed.any()):
        raise InputError(
            f"allowed must name some of the {vocabulary} tokens, one truth value each, "
            f"got shape {tuple(allowed.shape)} with {int(allowed.sum())}; use the "
            "model's own vocabulary"
        )
    return Objective(
        task, along(task, ihvp), ihvp, len(data), limits, vocabulary, labels_move
    )


def groups(
    objective: Objective, data: Dataset, chosen: Tensor, memory_limit: int | None
) -> Iterator[Drafts]:
    """Start with the documents as they are, as many at once as fit.

    Args:
        objective: What they share.
        data: The whole training set.
        chosen: Documents to edit.
        memory_limit: Bytes for relaxed rows, logits, activations and the gradients of
            all. None for all documents at once.

    Yields:
        Drafts of a group; the first group's first document is checked.

    Raises:
        InputError: Documents or limits do not fit, or not even one fits the memory.
    """
    check_positions(data, chosen)
    shapes = data.inputs.ndim, data.inputs.shape == data.labels.shape
    if data.inputs.is_floating_point() or shapes != (2, True):
        raise InputError(
            "documents of tokens must be ids with a label per position, got "
            f"{data.inputs.dtype} of shape {tuple(data.inputs.shape)} and labels "
            f"{tuple(data.labels.shape)}; make them with language.documents"
        )
    like, length = first_parameter(objective.task), data.inputs.shape[1]
    fixed = objective.limits.fixed
    if fixed is not None and fixed.shape != (len(chosen), length):
        raise InputError(
            f"fixed must be a truth value per position, {(len(chosen), length)}, got "
            f"{tuple(fixed.shape)}; give one row per chosen document"
        )
    at_once = len(chosen)
    if memory_limit is not None and len(chosen):
        each = length * objective.vocabulary * like.element_size()
        saved = _activations(objective, data.take(chosen[:1]))
        at_once = _fitting(each, _PASSES * saved, memory_limit)
    for places in torch.arange(len(chosen)).split(at_once):
        inputs = data.inputs[chosen[places]].to(like.device)
        labels = data.labels[chosen[places]].to(like.device)
        free = holds_text(labels)
        if fixed is not None:
            free &= ~fixed[places].to(like.device)
        effect = objective.effects(inputs, labels)
        drafts = Drafts(inputs, labels, free, inputs.clone(), effect)
        _check_labels(drafts)
        if int(places[0]) == 0:
            _check_relaxed(objective, inputs[:1], drafts.predicted[:1])
        yield drafts


def _fitting(each: int, activations: int, memory_limit: int) -> int:
    """Count the relaxed documents of so many bytes that a limit holds."""
    check_whole("memory_limit", memory_limit)
    many = memory_limit // (_COPIES * each + activations)
    if many * each < _TAKEN_BACK:
        small = memory_limit // (_SMALL_COPIES * each + activations)
        many = min(small, _TAKEN_BACK // each)
    if many < 1:
        copies = _COPIES if each >= _TAKEN_BACK else _SMALL_COPIES
        raise InputError(
            f"memory_limit must be at least {copies * each + activations:,} bytes, "
            f"what one relaxed document needs, got {memory_limit:,}; raise it"
        )
    return many


def _activations(objective: Objective, document: Dataset) -> int:
    """Add up what a forward pass over one document saves, vocabulary's width apart."""
    task, vocabulary = objective.task, objective.vocabulary
    like = first_parameter(task)
    rows = relaxed(document.inputs, like, vocabulary).requires_grad_()
    wanted = relaxed_labels(rows, document.labels.to(like.device) != IGNORED)
    own = {p.untyped_storage().data_ptr() for p in task.model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        place = value.untyped_storage().data_ptr()
        if vocabulary not in value.shape and place not in own:
            saved[place] = value
        return value

    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
    ):
        functional_losses(task, objective.params, Batch(rows, wanted))
    return sum(value.untyped_storage().nbytes() for value in saved.values())


def left_to_project(memory_limit: int | None) -> int | None:
    """Return what projections may take beside the rows they project.

    Args:
        memory_limit: Of the whole crafting.

    Returns:
        A quarter of it: rows, gradient and vertices are there too.
    """
    return None if memory_limit is None else memory_limit // 4


def _check_labels(drafts: Drafts) -> None:
    """Refuse labels that would not move with the tokens."""
    wrong = drafts.labelled(drafts.original) != drafts.labels
    if bool(wrong.any()) or not bool(drafts.predicted.any(1).all()):
        raise InputError(
            "labels of token documents must be the next tokens or IGNORED, with one to "
            f"predict in each, got {int(wrong.any(1).sum())} others and "
            f"{int((~drafts.predicted.any(1)).sum())} that predict nothing; make them "
            "with language.documents"
        )


def _check_relaxed(objective: Objective, inputs: Tensor, predicted: Tensor) -> None:
    """Refuse a model that relaxed tokens do not reach as tokens do."""
    task = objective.task
    rows = relaxed(inputs, first_parameter(task), objective.vocabulary)
    batch = Batch(rows, relaxed_labels(rows, predicted))
    with torch.no_grad():
        tokens = task.outputs(task.model, Batch(inputs, inputs))
        size = float(tokens.norm())
        off = float((task.outputs(task.model, batch) - tokens).norm())
    if off > _AGREEMENT * size:
        raise InputError(
            "a model must give tokens and their embeddings the same outputs, got "
            f"{off:.3g} of {size:.3g} apart; let it embed inputs_embeds as it embeds "
            "input_ids, scale included"
        )
    check_slope(task, objective.ihvp, batch)


def holds_text(labels: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """Find the positions before padding: one that is predicted, or predicts.

    Args:
        labels: Next tokens, or ``IGNORED``.

    Returns:
        Which positions hold text.
    """
    predicts = labels != IGNORED
    return predicts | torch.nn.functional.pad(predicts[:, :-1], (1, 0))
