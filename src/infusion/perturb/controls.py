"""Edits that any effect must beat: matched noise, random tokens, explicit copies."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.data.edits import Edits
from infusion.errors import InputError
from infusion.language import IGNORED
from infusion.perturb.ascent import deliver
from infusion.perturb.budget import BUDGETS, per_document
from infusion.perturb.drafts import TokenLimits, holds_text
from infusion.records import Dataset

_BISECTIONS = 30
_LONGEST = 256.0
"""How many times longer than wanted the noise may be before clamping and rounding."""


def noise_like(edits: Edits, *, match: Literal["linf", "l2"], seed: int) -> Edits:
    """Random edits of the same documents, matched document by document.

    ``"linf"``: every entry moves by the edit's largest change, with a random sign, the
    longest noise of that L∞. ``"l2"``: normal noise whose length after clamping and
    rounding is the edit's, found by bisection.

    Args:
        edits: What to match.
        match: Norm in which sizes are equal.
        seed: Of the noise; recorded in the manifest.

    Returns:
        Noise on the same storage; what it reached is in its manifest.
    """
    like, generator = edits.delta, torch.Generator().manual_seed(seed)
    wanted = BUDGETS[match].size(like)
    if match == "linf":
        signs = torch.randint(0, 2, like.shape, generator=generator) * 2.0 - 1.0
        after = _store(edits, signs * per_document(wanted, like))
    else:
        unit = torch.randn(like.shape, generator=generator)
        unit = unit / per_document(BUDGETS["l2"].size(unit), unit)
        after = _store(edits, unit * per_document(_scale(edits, unit, wanted), unit))
    asked = {"norm": match, "epsilon": float(wanted.max()), "like": edits.operator}
    return replace(
        edits, after=after, operator=f"noise_{match}", asked=asked, seed=seed
    )


def offsets_like(edits: Edits, *, match: Literal["linf", "l2"], seed: int) -> Edits:
    """Random offsets of the same embeddings, matched document by document.

    Args:
        edits: What to match, of embeddings.
        match: Norm in which sizes are equal: every entry that was moved gets a random
            sign and the largest size, or a normal number.
        seed: Of the noise; recorded in the manifest.

    Returns:
        Noise as offsets.

    Raises:
        InputError: The edits are no offsets.
    """
    if not edits.are_offsets:
        raise InputError(
            f"offsets to match must be of embeddings, got edits by {edits.operator}; "
            "use noise_like or substitutions_like"
        )
    like, generator = edits.after.inputs, torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype)
    noise = (drawn.sign() if match == "linf" else drawn) * (like != 0)
    size, wanted = (BUDGETS[match].size(each) for each in (noise, like))
    tiny = torch.finfo(size.dtype).tiny
    noise *= per_document(wanted / size.clamp_min(tiny), noise)
    after = replace(edits.after, inputs=noise)
    asked = {"norm": match, "epsilon": float(wanted.max()), "like": edits.operator}
    return replace(
        edits, after=after, operator=f"noise_{match}", asked=asked, seed=seed
    )


def _store(edits: Edits, noise: Tensor) -> Dataset:
    if edits.storage_differs:  # as_coded: floats, not clamped
        return replace(edits.after, inputs=edits.before.values().inputs + noise)
    levels = edits.before.levels
    if levels is not None:  # nearest level: truncation would eat small noise
        noise = (noise * levels).round() / levels
    return deliver(edits.before, noise, None)


def _scale(
    edits: Edits, unit: Float[Tensor, "k ..."], wanted: Float[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """Smallest scale per document whose stored noise is at least as long as wanted."""
    before = edits.before.values().inputs
    low, high = torch.zeros_like(wanted), wanted * _LONGEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        stored = _store(edits, unit * per_document(middle, unit))
        length = BUDGETS["l2"].size(stored.values().inputs - before)
        reached = length >= wanted
        high, low = (
            torch.where(reached, middle, high),
            torch.where(reached, low, middle),
        )
    return high


def substitutions_like(edits: Edits, *, limits: TokenLimits, seed: int) -> Edits:
    """Change as many tokens of each document, at random places, to random ones.

    Args:
        edits: What to match, of tokens.
        limits: What may be put in, and where.
        seed: Of the draws; recorded in the manifest.

    Returns:
        Random substitutions on the same documents; as many as survive being read back
        where not all do, which their manifest says.
    """
    generator = torch.Generator().manual_seed(seed)
    before = edits.before
    wanted = (before.inputs != edits.after.inputs).sum(1).tolist()
    held = holds_text(before.labels)
    free = held.clone()
    if limits.fixed is not None:
        free &= ~limits.fixed
    inputs, kinds = before.inputs.clone(), limits.allowed.nonzero()[:, 0]
    for row, count in enumerate(wanted):
        places = free[row].nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator)
        length = int(held[row].sum())
        for place in places[order].tolist():
            if count == 0:
                break
            tokens = inputs[row].clone()
            others = kinds[kinds != tokens[place]]
            if not len(others):
                continue
            drawn = torch.randint(len(others), (1,), generator=generator)
            tokens[place] = others[drawn]
            if limits.survives(tokens[:length]):
                inputs[row], count = tokens, count - 1
    labels = inputs.roll(-1, 1).masked_fill(before.labels == IGNORED, IGNORED)
    after = replace(before, inputs=inputs, labels=labels)
    asked = {"like": edits.operator}
    return replace(edits, after=after, operator="random tokens", asked=asked, seed=seed)


def copies(
    data: Dataset, documents: Int[Tensor, " m"], probe: Dataset, target: int
) -> Edits:
    """Replace documents by explicit copies of the probe with the target label.

    Args:
        data: The whole training set.
        documents: Which to replace.
        probe: The probe as a dataset of one row, on the training set's storage.
        target: Label of the copies.

    Returns:
        Edits without a pixel budget.

    Raises:
        InputError: The probe is not one row of the training set's storage.
    """
    if len(probe) != 1 or probe.inputs.shape[1:] != data.inputs.shape[1:]:
        raise InputError(
            f"a probe must be one document of shape {tuple(data.inputs.shape[1:])}, "
            f"got {tuple(probe.inputs.shape)}; take one row of the test set"
        )
    before = data.take(documents)
    after = replace(
        before,
        inputs=probe.inputs.expand(before.inputs.shape).clone(),
        labels=torch.full_like(before.labels, target),
    )
    return Edits(documents, before, after, operator="copy", asked={"target": target})
