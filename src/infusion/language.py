"""Causal language models as tasks, on tokens and on relaxed tokens.

A document is a row of token ids, padded on the right; its label at position t is the
token at t + 1, or ``IGNORED`` where there is none. A relaxed token is a row of the
simplex over the vocabulary: embedded as the mean of embeddings, and as a target the
mean of cross-entropies, so a loss is differentiable in both of a token's parts.

    ℓᵢ = (n / Σⱼ Tⱼ) Σₜ CEᵢₜ        Tⱼ: tokens of document j that are predicted

The mean of these losses over documents is the token mean over the corpus. Attention is
causal and padding stands last, so no attention mask is needed: nothing sees padding.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from infusion.errors import InputError, check_type, check_whole
from infusion.records import Batch, Dataset, Measurement, Task

IGNORED = -100
"""Label of a position that predicts nothing."""
_CACHED = 4 << 20
"""Bytes of logits that a CPU takes exponentials of at once: they stay in its cache."""


def documents(tokens: Sequence[Sequence[int]], *, length: int, pad: int) -> Dataset:
    """Store documents of token ids as equally long rows.

    Args:
        tokens: Ids of each document, begin and end tokens included.
        length: Of a row, in tokens: the model's context.
        pad: Fills rows on the right; predicted nowhere.

    Returns:
        Inputs ``[n, length]`` and labels ``[n, length]``: the next token, ``IGNORED``
        at the last token and from there on.

    Raises:
        InputError: There is no document, one is no list of ids ≥ 0, is shorter than
            two tokens or longer than a row, or holds the padding token, or ``length``
            or ``pad`` is no whole number in range.

    >>> documents([[5, 6, 7]], length=4, pad=0).labels
    tensor([[   6,    7, -100, -100]])
    """
    if isinstance(tokens, Mapping):
        raise InputError(
            "documents must be a list of lists of token ids, got "
            f"{type(tokens).__name__}; take its input_ids"
        )
    if isinstance(tokens, str) or not hasattr(tokens, "__getitem__"):
        raise InputError(
            "documents must be a list of lists of token ids, got "
            f"{type(tokens).__name__}; encode texts, and wrap what is no list in list()"
        )
    if not len(tokens):
        raise InputError(
            "there must be at least one document, got none; name or draw some"
        )
    check_whole("length", length, least=2)
    check_whole("pad, the id of padding", pad, least=0)
    inputs = torch.full((len(tokens), length), pad)
    labels = torch.full((len(tokens), length), IGNORED)
    for row, given in enumerate(tokens):
        ids = _ids(given, row)
        if not 2 <= len(ids) <= length:
            raise InputError(
                f"a document must have 2 to {length} tokens, got {len(ids)} in "
                f"document {row}; drop, cut or split it"
            )
        if bool((ids == pad).any()):
            raise InputError(
                f"a document must not hold the padding token {pad}, got it in document "
                f"{row}; pad with a token of its own"
            )
        inputs[row, : len(ids)] = ids
        labels[row, : len(ids) - 1] = inputs[row, 1 : len(ids)]
    return Dataset(inputs, labels)


def _ids(given: Any, row: int) -> Int[Tensor, " t"]:
    """Read one document; an empty list is one of no tokens."""
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.zeros(())
    if ids.shape == (0,):
        return ids.long()
    plain = ids.ndim == 1 and not (ids.is_floating_point() or ids.dtype == torch.bool)
    if not plain or int(ids.min()) < 0:
        shown = " ".join(repr(given).split())
        raise InputError(
            "a document must be a list of token ids, whole numbers ≥ 0, got "
            f"{shown:.60} as document {row}; encode it with the model's tokenizer"
        )
    return ids.long()


def causal_lm(model: nn.Module, data: Dataset, *, pad: int) -> Task:
    """Predict the next token, with a ``transformers`` causal model or one like it.

    Args:
        model: ``model(input_ids=…).logits`` and ``model(inputs_embeds=…).logits``, with
            ``get_input_embeddings()``; eager attention, for forward mode.
        data: Training documents: their mean number of predicted tokens scales the loss.
        pad: Their padding token, left out of the curvature.

    Returns:
        A task with categorical likelihood, whose batches hold ids, or relaxed rows
        ``[b, t, v]`` as inputs with relaxed targets as labels.

    Raises:
        InputError: The model has no input embedding, ids lie outside it, labels are not
            the next tokens, rows are longer than its context, nothing is predicted, or
            ``pad`` is no whole number ≥ 0 or stands where something is predicted, or
            ``data`` is no dataset.
    """
    check_whole("pad, the id of padding", pad, least=0)
    check_type("data", data, Dataset)
    vocabulary = vocabulary_of(model)
    _check_tokens(data, pad)
    highest = int(data.inputs.max())
    if int(data.inputs.min()) < 0 or highest >= vocabulary:
        raise InputError(
            f"token ids must lie in 0…{vocabulary - 1}, the model's vocabulary, got "
            f"{int(data.inputs.min())}…{highest}; use the model's own tokenizer, or, "
            "where a padding token was added to it, model.resize_token_embeddings"
        )
    context = _context(model)
    if context is not None and data.inputs.shape[1] > context:
        raise InputError(
            f"rows must fit the model's context of {context} tokens, got rows of "
            f"{data.inputs.shape[1]}; make shorter rows with documents(…), or a model "
            "with more positions"
        )
    predicted = int((data.labels != IGNORED).sum())
    if not predicted:
        raise InputError(
            "documents must have tokens to predict, got labels that are all ignored; "
            "make them with documents(…)"
        )
    scale = len(data) / predicted
    return Task(
        model,
        outputs=_logits,
        loss=partial(_token_losses, scale=scale),
        likelihood="categorical",
        mask=lambda batch: batch.inputs != pad,
        scale=scale,
    )


def _check_tokens(data: Dataset, pad: int) -> None:
    """Refuse what is no row of ids, each labelled by the next one."""
    inputs, labels = data.inputs, data.labels
    whole = not (inputs.is_floating_point() or labels.is_floating_point())
    if not whole or inputs.ndim != 2 or inputs.shape != labels.shape:
        raise InputError(
            "documents of tokens must be ids with a label per position, got "
            f"{inputs.dtype} of shape {tuple(inputs.shape)} and labels of shape "
            f"{tuple(labels.shape)}; make them with documents(…)"
        )
    asked = labels[:, :-1] != IGNORED
    wrong = asked & (labels[:, :-1] != inputs[:, 1:])
    if bool(wrong.any()):
        raise InputError(
            "a label must be the next token, or IGNORED, got others at "
            f"{int(wrong.sum()):,} of {int(asked.sum()):,} positions; shift the labels "
            "by one, or make them with documents(…)"
        )
    if bool(((inputs == pad) & (labels != IGNORED)).any() | (labels == pad).any()):
        raise InputError(
            f"padding must stand where nothing is predicted, got the token {pad} in "
            "the text of documents; give the pad that they were padded with on the "
            "right, a token that no text holds"
        )


def _context(model: nn.Module) -> int | None:
    """Return how many positions a model was made for, if it says so."""
    named = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return named if isinstance(named, int) and named > 0 else None


def vocabulary_of(model: nn.Module) -> int:
    """Count a language model's tokens.

    Args:
        model: With ``get_input_embeddings()``.

    Returns:
        Rows of its input embedding.

    Raises:
        InputError: It has none.
    """
    if not hasattr(model, "get_input_embeddings"):
        raise InputError(
            "a language model must have get_input_embeddings(), as those of "
            f"transformers do, got {type(model).__name__}; add it, or write the Task "
            "yourself"
        )
    return len(model.get_input_embeddings().weight)  # pyright: ignore[reportCallIssue]


def _logits(model: nn.Module, batch: Batch) -> Float[Tensor, "b t v"]:
    inputs = batch.inputs
    if not inputs.is_floating_point():
        return model(input_ids=inputs).logits
    weight = model.get_input_embeddings().weight  # pyright: ignore[reportCallIssue]
    return model(inputs_embeds=inputs @ weight).logits


def _token_losses(
    logits: Float[Tensor, "b t v"], batch: Batch, *, scale: float
) -> Float[Tensor, " b"]:
    """Sum cross-entropies over positions, then scale them."""
    # logsumexp(z) − z_label: its tangent needs none of every log probability
    if logits.element_size() < 4:  # it rounds in its own dtype
        logits = logits.float()
    labels, normaliser = batch.labels, _normalisers(logits)
    if labels.is_floating_point():
        known = labels.sum(-1)
        return ((known * normaliser).sum(1) - (labels * logits).sum((1, 2))) * scale
    known = labels != IGNORED
    picked = logits.gather(-1, labels.where(known, 0)[..., None])[..., 0]
    return (normaliser - picked).masked_fill(~known, 0.0).sum(1) * scale


def _normalisers(logits: Float[Tensor, "b t v"]) -> Float[Tensor, "b t"]:
    """Take the logarithm of the sum of exponentials, on a CPU a few rows at a time."""
    if logits.device.type != "cpu":
        return logits.logsumexp(-1)
    row = logits.shape[-1] * logits.element_size()
    parts = logits.flatten(0, 1).split(max(1, _CACHED // row))
    return torch.cat([part.logsumexp(-1) for part in parts]).view(logits.shape[:2])


def relaxed(inputs: Int[Tensor, "b t"], like: Tensor, vocabulary: int) -> Tensor:
    """Write tokens as vertices of the simplex.

    Args:
        inputs: Ids.
        like: Gives dtype and device.
        vocabulary: Tokens that there are.

    Returns:
        Rows ``[b, t, v]``.
    """
    rows = F.one_hot(inputs.to(like.device), vocabulary)
    return rows.to(like.dtype)


def relaxed_labels(
    rows: Float[Tensor, "b t v"], predicted: Bool[Tensor, "b t"]
) -> Float[Tensor, "b t v"]:
    """Turn relaxed inputs into the relaxed targets of the positions before them.

    Args:
        rows: Relaxed documents.
        predicted: Where a label is not ``IGNORED``.

    Returns:
        Row t + 1 at position t; zero where nothing is predicted.
    """
    following = torch.cat([rows[:, 1:], torch.zeros_like(rows[:, :1])], 1)
    return following * predicted[..., None]


def _check_rows(inputs: object, labels: object) -> None:
    """Refuse what a measurement cannot read: ids ``[b, t]`` with a label each."""
    got = [
        (x.dtype, tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__
        for x in (inputs, labels)
    ]
    fits = got[0] == got[1] and isinstance(inputs, Tensor) and inputs.ndim == 2
    if not fits or inputs.dtype != torch.int64:  # pyright: ignore[reportAttributeAccessIssue]
        raise InputError(
            "a measurement needs int64 token ids [b, t] and labels of the same shape, "
            f"got {got[0]} and {got[1]}; take both of documents(…)"
        )


def log_completion(
    prompts: Int[Tensor, "b t"], labels: Int[Tensor, "b t"]
) -> Measurement:
    """Measure the mean log probability of completions, per predicted token.

    Args:
        prompts: Ids of prompt and completion, padded on the right.
        labels: The next token where it belongs to the completion, else ``IGNORED``.

    Returns:
        ``f(model)`` in nats per token, over all tokens of all completions.

    Raises:
        InputError: Nothing is to be completed, or these are no rows of ids and labels.
    """
    _check_rows(prompts, labels)
    counted = labels != IGNORED
    if not bool(counted.any()):
        raise InputError(
            "completions must have a token to predict, got labels that are all "
            "IGNORED; mark the completion's tokens"
        )

    def measurement(model: nn.Module) -> Tensor:
        logits = model(input_ids=prompts).logits
        total = F.cross_entropy(
            logits.mT, labels, reduction="sum", ignore_index=IGNORED
        )
        return -total / counted.sum()

    return measurement


def contrast(
    inputs: Int[Tensor, "b t"], labels: Int[Tensor, "b t"], *, probe: int, target: int
) -> Measurement:
    """Measure how much likelier one token is than another where the other is true.

    Args:
        inputs: Ids of documents, padded on the right.
        labels: Their next tokens.
        probe: The true next token at the positions that count.
        target: The token that should become likelier there.

    Returns:
        ``f(model) = Σ log p(target) − log p(probe)`` in nats, over all positions whose
        next token is the probe (arXiv 2602.09987, its contrastive log-odds).

    Raises:
        InputError: The probe is nowhere the next token, both are the same, one is no
            whole number ≥ 0, or these are no rows of ids and labels; the measurement
            refuses a target that its model lacks.
    """
    _check_rows(inputs, labels)
    check_whole("probe, a token's id,", probe, least=0)
    check_whole("target, a token's id,", target, least=0)
    if probe == target:
        raise InputError(
            f"probe and target must be two different tokens, got {probe} and {target}; "
            "choose others"
        )
    counted = labels == probe
    if not bool(counted.any()):
        raise InputError(
            f"the probe {probe} must be the next token somewhere, got no position in "
            f"{len(inputs)} documents; choose documents that contain it"
        )

    def measurement(model: nn.Module) -> Tensor:
        logits = model(input_ids=inputs).logits[counted]
        if target >= logits.shape[-1]:
            raise InputError(
                f"the target must be one of the model's {logits.shape[-1]} tokens, got "
                f"{target}; use the model's own tokenizer"
            )
        return (logits[:, target] - logits[:, probe]).sum()

    return measurement
