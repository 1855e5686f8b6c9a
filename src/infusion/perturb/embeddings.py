"""Edits of a text in the space of its embeddings, which no corpus can store.

    e = E[x] + δ,   δ ← δ + α sign(G),   G = −(1/n) ∂ ⟨s, ∇θ ℓ(x, δ)⟩ / ∂δ

The labels stay what they are. This is the paper's Caesar setting, kept to compare with
edits of tokens. Source: arXiv 2602.09987, §4.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from infusion.configs import Ascent
from infusion.data.edits import Edits
from infusion.errors import check_type
from infusion.language import vocabulary_of
from infusion.params import Params
from infusion.perturb.budget import Budget
from infusion.perturb.gradient import (
    check_positions,
    check_slope,
    perturbation_gradient,
)
from infusion.perturb.pixels import ascend, predicted_effect
from infusion.records import Batch, Dataset, Task
from infusion.tasks import check_task, first_parameter


def craft_embeddings(
    task: Task,
    data: Dataset,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    budget: Budget,
    steps: int = 30,
    step_size: float | None = None,
    ascent: Ascent = "sign",
    batch_size: int = 32,
) -> Edits:
    """Find offsets of embeddings on which retraining is predicted to raise it most.

    Args:
        task: From :func:`infusion.language.causal_lm`, at the parameters the IHVP was
            solved at.
        data: The whole training set, of token ids.
        chosen: Documents to edit.
        ihvp: From ``curvature.solve``.
        budget: Named in the edits; as in the paper's code nothing is projected.
        steps: Gradient evaluations per document.
        step_size: See :func:`infusion.perturb.pixels.ascend`.
        ascent: Sign or raw.
        batch_size: Documents held at once.

    Returns:
        Edits whose inputs are offsets ``[k, t, d]``; train on them with
        :func:`offset_training`.

    Raises:
        InputError: Documents or settings do not fit the model.
        DivergedError: A gradient is not finite.
    """
    check_task(task, data)
    check_type("data", data, Dataset)
    check_positions(data, chosen)
    rows, moved = data.take(chosen), _offset(task)
    zeros = _unmoved(task, rows)
    like = first_parameter(task)
    check_slope(moved, ihvp, zeros.batch(torch.tensor([0]), like=like))

    def climb(offsets: Tensor) -> Tensor:
        parts = zip(
            offsets.split(batch_size), zeros.labels.split(batch_size), strict=True
        )
        return torch.cat(
            [
                perturbation_gradient(
                    moved,
                    Batch(values, labels.to(values.device)),
                    ihvp,
                    num_documents=len(data),
                )
                for values, labels in parts
            ]
        )

    made = ascend(
        zeros,
        torch.arange(len(chosen)),
        climb,
        like=like,
        budget=budget,
        steps=steps,
        step_size=step_size,
        ascent=ascent,
        delivery="as_coded",
    )
    after = replace(rows, inputs=made.after.inputs)
    return Edits(chosen, rows, after, operator="embeddings", asked=made.asked)


def predicted_offset_effect(
    task: Task, data: Dataset, edits: Edits, ihvp: Params, *, batch_size: int = 32
) -> float:
    """Predict by influence what training on offsets changes.

    Args:
        task: As for :func:`craft_embeddings`.
        data: The whole training set.
        edits: From :func:`craft_embeddings`.
        ihvp: From ``curvature.solve``.
        batch_size: Documents held at once.

    Returns:
        In units of the measurement.
    """
    zeros = _unmoved(task, edits.before)
    offsets = replace(zeros, inputs=edits.after.inputs)
    changed = replace(edits, before=zeros, after=offsets)
    return predicted_effect(_offset(task), data, changed, ihvp, batch_size=batch_size)


def offset_training(
    data: Dataset, edits: Edits
) -> tuple[Callable[[Task], Task], Dataset]:
    """Train on documents with offsets: each row names the offset it gets.

    Args:
        data: The whole training set, of token ids.
        edits: From :func:`craft_embeddings`.

    Returns:
        What turns the task of the plain documents into that of these, and these: rows
        of ids after the number of their offset, 0 for none. With offsets of zero they
        train to the bits of the plain ones.
    """
    numbers = torch.zeros(len(data), 1, dtype=data.inputs.dtype)
    numbers[edits.documents, 0] = torch.arange(len(edits)) + 1
    offsets = edits.after.inputs
    table = torch.cat([torch.zeros_like(offsets[:1]), offsets])

    def change(task: Task) -> Task:
        known = table.to(first_parameter(task))

        def outputs(model: nn.Module, batch: Batch) -> Tensor:
            number, ids = batch.inputs[:, 0], batch.inputs[:, 1:]
            return _embedded(model, ids, known[number])

        return replace(task, outputs=outputs, mask=None)

    return change, replace(data, inputs=torch.cat([numbers, data.inputs], 1))


def _unmoved(task: Task, rows: Dataset) -> Dataset:
    """Write documents as zero offsets, with ids and next tokens as labels."""
    vocabulary_of(task.model)
    weight = task.model.get_input_embeddings().weight  # pyright: ignore[reportCallIssue]
    zeros = torch.zeros(*rows.inputs.shape, weight.shape[1], dtype=weight.dtype)
    return Dataset(zeros, torch.stack([rows.inputs, rows.labels], 1))


def _offset(task: Task) -> Task:
    """Make the task whose inputs are offsets."""

    def outputs(model: nn.Module, batch: Batch) -> Tensor:
        return _embedded(model, batch.labels[:, 0], batch.inputs)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        ids, labels = batch.labels.unbind(1)
        return task.loss(logits, Batch(ids, labels))

    return replace(task, outputs=outputs, loss=loss, mask=None)


def _embedded(
    model: nn.Module, ids: Int[Tensor, "b t"], offsets: Float[Tensor, "b t d"]
) -> Float[Tensor, "b t v"]:
    embedding = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    return model(inputs_embeds=embedding(ids) + offsets).logits
