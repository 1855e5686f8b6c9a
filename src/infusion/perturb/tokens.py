"""Edits of token documents that raise the predicted measurement.

    X ← Π(X + α · G / max |G|),   G = −(1/n) ∂ ⟨s, ∇θ ℓ(X)⟩ / ∂X

over relaxed documents: rows of the simplex, at least as peaked as a schedule asks. A
changed token is an input and a target, and ``G`` holds both parts. What is stored is
the best *discrete* document on the way: the largest entries of the rows, no more of
them changed than allowed, of a kind that the tokenizer reads back, scored by the
predicted effect of the real change.

Sources: arXiv 2602.09987, eq. 6; Geisler et al. (2024), arXiv 2402.09154, for ascent
over relaxed tokens; Ebrahimi et al. (2018), arXiv 1712.06751, and Zou et al. (2023),
arXiv 2307.15043, for greedy substitution.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import grad  # pyright: ignore[reportPrivateImportUsage]

from infusion.attribution import along, directional_losses
from infusion.data.edits import Edits
from infusion.errors import DivergedError, InputError, check_whole
from infusion.language import IGNORED, relaxed, relaxed_labels, vocabulary_of
from infusion.params import Params
from infusion.perturb.gradient import check_positions, check_slope
from infusion.perturb.simplex import project_peaked, project_simplex
from infusion.records import Batch, Dataset, Task
from infusion.tasks import check_task, evaluating, first_parameter

_AGREEMENT = 1e-3
"""Of outputs from tokens and from their embeddings, over their length."""
_COPIES = 10
"""Relaxed documents held at once for each that is edited."""


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
    """

    changes: int
    allowed: Bool[Tensor, " v"]
    fixed: Bool[Tensor, "k t"] | None = None
    survives: Callable[[Int[Tensor, " t"]], bool] = _anything


@dataclass(frozen=True)
class _Desk:
    """What all documents of one crafting share."""

    task: Task
    params: Params
    ihvp: Params
    size: int
    limits: TokenLimits
    vocabulary: int

    def effects(self, inputs: Tensor, labels: Tensor) -> Float[Tensor, " b"]:
        """Return what each document adds to the predicted measurement."""
        batch = Batch(inputs, labels)
        with torch.no_grad():
            found = directional_losses(self.task, self.params, self.ihvp, batch)
        return found.double() / -self.size

    def gradient(self, rows: Tensor, predicted: Tensor) -> Tensor:
        """Differentiate the predicted measurement in relaxed documents."""

        def total(rows: Tensor) -> Tensor:
            batch = Batch(rows, relaxed_labels(rows, predicted))
            return directional_losses(
                self.task, self.params, self.ihvp, batch, again=True
            ).sum()

        with torch.no_grad():
            found = grad(total)(rows) / -self.size
        if not bool(torch.isfinite(found).all()):
            raise DivergedError(
                "a perturbation gradient must be finite, got NaN or infinity; check "
                "the chosen documents and raise the damping"
            )
        return found


@dataclass(frozen=True)
class _Drafts:
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

    def better(self, desk: _Desk, candidates: Int[Tensor, "b t"]) -> "_Drafts":
        """Take those candidates whose real change is predicted to do more."""
        found = desk.effects(candidates, self.labelled(candidates))
        more = found > self.effect
        best = torch.where(more[:, None], candidates, self.best)
        return replace(self, best=best, effect=torch.where(more, found, self.effect))


def craft_tokens(
    task: Task,
    data: Dataset,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    limits: TokenLimits,
    steps: int = 30,
    step_size: float = 1.0,
    gini: tuple[float, float] | None = (0.9, 0.0),
    memory_limit: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Edits:
    """Edit documents by projected ascent over relaxed tokens.

    Args:
        task: From :func:`infusion.language.causal_lm`, at the parameters the IHVP was
            solved at.
        data: The whole training set, of token ids.
        chosen: Documents to edit.
        ihvp: From ``curvature.solve``.
        limits: What may change.
        steps: Gradient evaluations per document.
        step_size: Of one step: the largest change of an entry of a document's rows
            before projection; small steps never leave a peaked row.
        gini: Largest Gini index of a row at the first and at the last step, a straight
            line between; one step takes the first. None projects onto the simplex.
        memory_limit: Bytes for relaxed documents; they are edited in groups that fit.
        on_step: Called after each step of each group.

    Returns:
        The edits; documents for which no change is predicted to help stay as they are.

    Raises:
        InputError: Documents, limits or settings do not fit, or one document does not
            fit the memory.
        DivergedError: A gradient is not finite.
    """
    check_whole("steps", steps)
    if not 0 < step_size < math.inf:
        raise InputError(
            f"step_size must be > 0 and finite, got {step_size}; 1.0 is usual"
        )
    like = first_parameter(task)
    desk = _desk(task, data, ihvp, limits)
    crafted = []
    with evaluating(task.model):
        for group in _groups(desk, data, chosen, memory_limit):
            drafts = group
            vertices = partial(relaxed, drafts.original, like, desk.vocabulary)
            rows = vertices()
            for step in range(steps):
                pulled = desk.gradient(rows, drafts.predicted)
                pulled.masked_fill_(~drafts.free[..., None], 0)
                rows += step_size * pulled / _largest(pulled)
                _bar(rows, drafts.original, limits.allowed)
                rows = _projected(rows, gini, step / max(steps - 1, 1), memory_limit)
                rows = torch.where(drafts.free[..., None], rows, vertices())
                found = _discrete(limits, drafts, rows, pulled)
                drafts = drafts.better(desk, found)
                on_step()
            crafted.append(drafts)
    asked = {"changes": limits.changes, "steps": steps, "step_size": step_size}
    return _edits(data, chosen, crafted, ("tokens", {**asked, "gini": gini}))


def substitute_tokens(
    task: Task,
    data: Dataset,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    limits: TokenLimits,
    candidates: int = 16,
    memory_limit: int | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Edits:
    """Edit documents token by token: the best of a few substitutions, each checked.

    Args:
        task: As for :func:`craft_tokens`.
        data: The whole training set, of token ids.
        chosen: Documents to edit.
        ihvp: From ``curvature.solve``.
        limits: What may change.
        candidates: Substitutions of a document that are checked at each step, those
            whose gradient promises most.
        memory_limit: Bytes for relaxed documents; they are edited in groups that fit.
        on_step: Called after each substitution of each group.

    Returns:
        The edits; a document gets no further one where none is predicted to help.

    Raises:
        InputError: Documents, limits or settings do not fit, or one document does not
            fit the memory.
        DivergedError: A gradient is not finite.
    """
    check_whole("candidates", candidates)
    desk = _desk(task, data, ihvp, limits)
    crafted = []
    with evaluating(task.model):
        for group in _groups(desk, data, chosen, memory_limit):
            drafts = group
            for _ in range(limits.changes):
                before = drafts.best.clone()
                for changed in _promising(desk, drafts, candidates):
                    found = _permitted(limits, drafts, changed)
                    drafts = drafts.better(desk, found)
                on_step()
                if torch.equal(before, drafts.best):
                    break
            crafted.append(drafts)
    asked = {"changes": limits.changes, "candidates": candidates}
    return _edits(data, chosen, crafted, ("substitution", asked))


def _desk(task: Task, data: Dataset, ihvp: Params, limits: TokenLimits) -> _Desk:
    check_task(task, data)
    check_whole("changes", limits.changes)
    vocabulary = vocabulary_of(task.model)
    if limits.allowed.shape != (vocabulary,) or not bool(limits.allowed.any()):
        raise InputError(
            f"allowed must name some of the {vocabulary} tokens, one truth value each, "
            f"got shape {tuple(limits.allowed.shape)} with "
            f"{int(limits.allowed.sum())}; use the model's own vocabulary"
        )
    return _Desk(task, along(task, ihvp), ihvp, len(data), limits, vocabulary)


def _groups(
    desk: _Desk, data: Dataset, chosen: Tensor, memory_limit: int | None
) -> Iterator[_Drafts]:
    """Start with the documents as they are, as many at once as fit."""
    check_positions(data, chosen)
    shapes = data.inputs.ndim, data.inputs.shape == data.labels.shape
    if data.inputs.is_floating_point() or shapes != (2, True):
        raise InputError(
            "documents of tokens must be ids with a label per position, got "
            f"{data.inputs.dtype} of shape {tuple(data.inputs.shape)} and labels "
            f"{tuple(data.labels.shape)}; make them with language.documents"
        )
    like, length = first_parameter(desk.task), data.inputs.shape[1]
    fixed = desk.limits.fixed
    if fixed is not None and fixed.shape != (len(chosen), length):
        raise InputError(
            f"fixed must be a truth value per position, {(len(chosen), length)}, got "
            f"{tuple(fixed.shape)}; give one row per chosen document"
        )
    each = _COPIES * length * desk.vocabulary * like.element_size()
    if memory_limit is not None and memory_limit < each:
        raise InputError(
            f"memory_limit must be at least {each:,} bytes, what one relaxed document "
            f"needs, got {memory_limit:,}; raise it"
        )
    at_once = len(chosen) if memory_limit is None else memory_limit // each
    for places in torch.arange(len(chosen)).split(at_once):
        inputs = data.inputs[chosen[places]].to(like.device)
        labels = data.labels[chosen[places]].to(like.device)
        free = _holds_text(labels)
        if fixed is not None:
            free &= ~fixed[places].to(like.device)
        effect = desk.effects(inputs, labels)
        drafts = _Drafts(inputs, labels, free, inputs.clone(), effect)
        _check_labels(drafts)
        if int(places[0]) == 0:
            _check_relaxed(desk, inputs[:1], drafts.predicted[:1])
        yield drafts


def _check_labels(drafts: _Drafts) -> None:
    """Refuse labels that would not move with the tokens."""
    wrong = drafts.labelled(drafts.original) != drafts.labels
    if bool(wrong.any()) or not bool(drafts.predicted.any(1).all()):
        raise InputError(
            "labels of token documents must be the next tokens or IGNORED, with one to "
            f"predict in each, got {int(wrong.any(1).sum())} others and "
            f"{int((~drafts.predicted.any(1)).sum())} that predict nothing; make them "
            "with language.documents"
        )


def _check_relaxed(desk: _Desk, inputs: Tensor, predicted: Tensor) -> None:
    """Refuse a model that relaxed tokens do not reach as tokens do."""
    task = desk.task
    rows = relaxed(inputs, first_parameter(task), desk.vocabulary)
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
    check_slope(task, desk.ihvp, batch)


def _holds_text(labels: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """Find the positions before padding: one that is predicted, or predicts."""
    predicts = labels != IGNORED
    return predicts | torch.nn.functional.pad(predicts[:, :-1], (1, 0))


def _largest(pulled: Float[Tensor, "b t v"]) -> Float[Tensor, "b 1 1"]:
    tiny = torch.finfo(pulled.dtype).tiny
    return pulled.abs().amax((1, 2), keepdim=True).clamp_min(tiny)


def _bar(rows: Tensor, original: Tensor, allowed: Tensor) -> None:
    """Push tokens that may not be put in out of reach, but for a row's own.

    Entries more than 1 below a row's largest vanish in its projection.
    """
    own = rows.gather(2, original[..., None])
    rows.masked_fill_(~allowed.to(rows.device), -math.inf)
    rows.scatter_(2, original[..., None], own)
    rows -= rows.amax(2, keepdim=True)
    rows.clamp_(min=-2)


def _projected(
    rows: Tensor,
    gini: tuple[float, float] | None,
    done: float,
    memory_limit: int | None,
) -> Tensor:
    if gini is None:
        return project_simplex(rows, memory_limit=memory_limit)
    largest = gini[0] + done * (gini[1] - gini[0])
    return project_peaked(rows, largest, memory_limit=memory_limit)


def _discrete(
    limits: TokenLimits, drafts: _Drafts, rows: Tensor, pulled: Tensor
) -> Int[Tensor, "b t"]:
    """Take each row's largest entry, at as many positions as allowed, dearest first."""
    tokens, original = rows.argmax(2), drafts.original
    gain = pulled.gather(2, tokens[..., None]) - pulled.gather(2, original[..., None])
    result = original.clone()
    for row, order in enumerate(gain[..., 0].argsort(1, descending=True).tolist()):
        changed = [p for p in order if tokens[row, p] != original[row, p]]
        for count in range(min(len(changed), limits.changes), 0, -1):
            places = changed[:count]
            written = original[row].clone()
            written[places] = tokens[row, places]
            if drafts.survives(limits, row, written):
                result[row] = written
                break
    return result


def _promising(
    desk: _Desk, drafts: _Drafts, count: int
) -> Iterator[Int[Tensor, "b t"]]:
    """Substitute one token of the best documents, the most promising ways first."""
    best, like = drafts.best.clone(), first_parameter(desk.task)
    rows = relaxed(best, like, desk.vocabulary)
    gains = desk.gradient(rows, drafts.predicted)
    gains -= gains.gather(2, best[..., None])
    gains.masked_fill_(~desk.limits.allowed.to(gains.device), -math.inf)
    gains.scatter_(2, best[..., None], -math.inf)
    gains.masked_fill_(~drafts.free[..., None], -math.inf)
    most = min(count, gains[0].numel())
    found = gains.flatten(1).topk(most, dim=1)
    for gain, place in zip(
        found.values.unbind(1), found.indices.unbind(1), strict=True
    ):
        position, token = place // desk.vocabulary, place % desk.vocabulary
        changed = best.scatter(1, position[:, None], token[:, None])
        yield torch.where(gain.isfinite()[:, None], changed, best)


def _permitted(
    limits: TokenLimits, drafts: _Drafts, candidates: Int[Tensor, "b t"]
) -> Int[Tensor, "b t"]:
    """Put the originals in place of candidates that may not be stored."""
    changed = candidates != drafts.original
    allowed = drafts.free & limits.allowed.to(candidates.device)[candidates]
    fine = (~changed | allowed).all(1) & (changed.sum(1) <= limits.changes)
    result = drafts.original.clone()
    for row in fine.nonzero()[:, 0].tolist():
        if drafts.survives(limits, row, candidates[row]):
            result[row] = candidates[row]
    return result


def _edits(
    data: Dataset,
    chosen: Tensor,
    crafted: list[_Drafts],
    made: tuple[str, dict[str, Any]],
) -> Edits:
    """Store the best documents found."""
    operator, asked = made
    before = data.take(chosen)
    inputs = torch.cat([drafts.best for drafts in crafted]).to(before.inputs)
    labels = torch.cat([drafts.labelled(drafts.best) for drafts in crafted])
    after = replace(before, inputs=inputs, labels=labels.to(before.labels))
    return Edits(chosen, before, after, operator=operator, asked=asked)
