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
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.data.edits import Edits
from infusion.errors import InputError, check_whole
from infusion.language import relaxed
from infusion.params import Params
from infusion.perturb.drafts import (
    MEMORY,
    Drafts,
    Objective,
    TokenLimits,
    groups,
    left_to_project,
    make_objective,
)
from infusion.perturb.simplex import project_peaked, project_simplex
from infusion.records import Dataset, Task
from infusion.tasks import evaluating, first_parameter


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
    memory_limit: int | None = MEMORY,
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
        memory_limit: Bytes for relaxed rows, logits, activations and gradients, beside
            the model: documents are edited in groups that fit. None for all at once.
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
    objective = make_objective(task, data, ihvp, limits)
    crafted = []
    with evaluating(task.model):
        for group in groups(objective, data, chosen, memory_limit):
            drafts = group
            vertices = partial(relaxed, drafts.original, like, objective.vocabulary)
            rows = vertices()
            for step in range(steps):
                pulled = objective.gradient(rows, drafts.predicted)
                pulled.masked_fill_(~drafts.free[..., None], 0)
                rows += step_size * pulled / _largest(pulled)
                _bar(rows, drafts.original, limits.allowed)
                rows = _projected(rows, gini, step / max(steps - 1, 1), memory_limit)
                rows = torch.where(drafts.free[..., None], rows, vertices())
                found = _discrete(limits, drafts, rows, pulled)
                drafts = drafts.better(objective, found)
                on_step()
            crafted.append(drafts)
    asked = {"changes": limits.changes, "steps": steps, "step_size": step_size}
    return _edits(data, chosen, crafted, ("tokens", {**asked, "gini": gini}))


def craft_tokens_as_coded(
    task: Task,
    data: Dataset,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    limits: TokenLimits,
    steps: int = 30,
    step_size: float = 0.01,
    memory_limit: int | None = MEMORY,
) -> Edits:
    """Edit documents as the paper's code does, to compare with.

    Its steps are plain, ``X ← Π(X + α n G)``, onto the simplex alone; targets are the
    tokens of the iterate, without a gradient; of all iterates that of the largest
    ``⟨G, X⟩`` is kept; any number of tokens may change, and nobody asks whether they
    are read back (it trains on what re-encoding makes of them, this on the tokens
    themselves). Whether its ``G`` is divided by ``n`` is not known; without, tokens do
    change.

    Args:
        task: As for :func:`craft_tokens`.
        data: The whole training set, of token ids.
        chosen: Documents to edit.
        ihvp: From ``curvature.solve``.
        limits: Tokens and positions that may change; the rest of it does not count.
        steps: Gradient evaluations per document.
        step_size: ``α``.
        memory_limit: Bytes for relaxed rows, logits, activations and gradients, beside
            the model: documents are edited in groups that fit. None for all at once.

    Returns:
        The edits.

    Raises:
        InputError: Documents or limits do not fit, or one document does not fit the
            memory.
        DivergedError: A gradient is not finite.
    """
    check_whole("steps", steps)
    objective = make_objective(task, data, ihvp, limits, labels_move=False)
    like, crafted = first_parameter(task), []
    with evaluating(task.model):
        for drafts in groups(objective, data, chosen, memory_limit):
            rows = relaxed(drafts.original, like, objective.vocabulary)
            vertices, most = rows.clone(), torch.full_like(drafts.effect, -math.inf)
            best = drafts.original
            for _ in range(steps):
                pulled = objective.gradient(rows, drafts.predicted) * len(data)
                moved = rows + step_size * pulled
                _bar(moved, drafts.original, limits.allowed)
                moved = project_simplex(
                    moved, memory_limit=left_to_project(memory_limit)
                )
                rows = torch.where(drafts.free[..., None], moved, vertices)
                score = (pulled * rows).sum((1, 2), dtype=torch.float64)
                better = (score > most)[:, None]
                best = torch.where(better, rows.argmax(2), best)
                most = torch.maximum(score, most)
            crafted.append(replace(drafts, best=best))
    asked = {"steps": steps, "step_size": step_size}
    return _edits(data, chosen, crafted, ("tokens as coded", asked))


def substitute_tokens(
    task: Task,
    data: Dataset,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    limits: TokenLimits,
    candidates: int = 16,
    memory_limit: int | None = MEMORY,
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
        memory_limit: Bytes for relaxed rows, logits, activations and gradients, beside
            the model: documents are edited in groups that fit. None for all at once.
        on_step: Called after each substitution of each group.

    Returns:
        The edits; a document gets no further one where none is predicted to help.

    Raises:
        InputError: Documents, limits or settings do not fit, or one document does not
            fit the memory.
        DivergedError: A gradient is not finite.
    """
    check_whole("candidates", candidates)
    objective = make_objective(task, data, ihvp, limits)
    crafted = []
    with evaluating(task.model):
        for group in groups(objective, data, chosen, memory_limit):
            drafts = group
            for _ in range(limits.changes):
                before = drafts.best.clone()
                for changed in _promising(objective, drafts, candidates):
                    found = _permitted(limits, drafts, changed)
                    drafts = drafts.better(objective, found)
                on_step()
                if torch.equal(before, drafts.best):
                    break
            crafted.append(drafts)
    asked = {"changes": limits.changes, "candidates": candidates}
    return _edits(data, chosen, crafted, ("substitution", asked))


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
        return project_simplex(rows, memory_limit=left_to_project(memory_limit))
    largest = gini[0] + done * (gini[1] - gini[0])
    return project_peaked(rows, largest, memory_limit=left_to_project(memory_limit))


def _discrete(
    limits: TokenLimits, drafts: Drafts, rows: Tensor, pulled: Tensor
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
    objective: Objective, drafts: Drafts, count: int
) -> Iterator[Int[Tensor, "b t"]]:
    """Substitute one token of the best documents, the most promising ways first."""
    best, like = drafts.best.clone(), first_parameter(objective.task)
    rows = relaxed(best, like, objective.vocabulary)
    gains = objective.gradient(rows, drafts.predicted)
    gains -= gains.gather(2, best[..., None])
    gains.masked_fill_(~objective.limits.allowed.to(gains.device), -math.inf)
    gains.scatter_(2, best[..., None], -math.inf)
    gains.masked_fill_(~drafts.free[..., None], -math.inf)
    most = min(count, gains[0].numel())
    found = gains.flatten(1).topk(most, dim=1)
    for gain, place in zip(
        found.values.unbind(1), found.indices.unbind(1), strict=True
    ):
        position, token = place // objective.vocabulary, place % objective.vocabulary
        changed = best.scatter(1, position[:, None], token[:, None])
        yield torch.where(gain.isfinite()[:, None], changed, best)


def _permitted(
    limits: TokenLimits, drafts: Drafts, candidates: Int[Tensor, "b t"]
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
    crafted: list[Drafts],
    made: tuple[str, dict[str, Any]],
) -> Edits:
    """Store the best documents found."""
    operator, asked = made
    before = data.take(chosen)
    inputs = torch.cat([drafts.best for drafts in crafted]).to(before.inputs)
    labels = torch.cat([drafts.labelled(drafts.best) for drafts in crafted])
    after = replace(before, inputs=inputs, labels=labels.to(before.labels))
    return Edits(chosen, before, after, operator=operator, asked=asked)
