"""Edits of documents with continuous inputs, and what influence predicts for them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.attribution.influence import along, directional_losses
from infusion.configs import Ascent, Delivery
from infusion.data.edits import Edits
from infusion.errors import (
    InputError,
)
from infusion.params import Params
from infusion.perturb.ascent import AscentSettings
from infusion.perturb.budget import Budget
from infusion.perturb.gradient import (
    ChosenGradient,
    InputGradient,
    check_chosen,
    gradients_together,
    influence_gradient,
)
from infusion.records import Documents, Task
from infusion.tasks import batches, evaluating, first_parameter


def craft(
    task: Task,
    data: Documents,
    chosen: Int[Tensor, " k"],
    ihvp: Params,
    *,
    budget: Budget,
    steps: int = 50,
    step_size: float | None = None,
    ascent: Ascent = "sign",
    delivery: Delivery = "realisable",
    batch_size: int = 128,
    on_step: Callable[[], None] = lambda: None,
) -> Edits:
    """Edit documents so that retraining on them is predicted to raise the measurement.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set.
        chosen: Documents to edit.
        ihvp: From ``curvature.solve``.
        budget: Largest change of a document, in values, e.g. ``LInf(8 / 255)``.
        steps: Gradient evaluations per document.
        step_size: See :func:`ascend`, like all that follows.
        ascent: Sign or raw.
        delivery: Realisable or as coded.
        batch_size: Documents held at once.
        on_step: Called after each step.

    Returns:
        Edited documents beside their originals, with what was asked and reached.

    Raises:
        InputError: The inputs cannot be perturbed, a document is named twice or does
            not exist, or steps, step size or batch size are not positive.
        DivergedError: A perturbation gradient is not finite.

    Source:
        arXiv 2602.09987, §3; Madry et al. (2018), arXiv 1706.06083.
    """
    climb = influence_gradient([(task, ihvp)], data, chosen, batch_size=batch_size)
    return ascend(
        data,
        chosen,
        climb,
        like=first_parameter(task),
        budget=budget,
        steps=steps,
        step_size=step_size,
        ascent=ascent,
        delivery=delivery,
        on_step=on_step,
    )


def craft_together(
    task: Task,
    data: Documents,
    chosen: Sequence[Int[Tensor, " k"]],
    ihvps: Sequence[Params],
    *,
    budget: Budget,
    steps: int = 50,
    step_size: float | None = None,
    ascent: Ascent = "sign",
    delivery: Delivery = "realisable",
    batch_size: int = 128,
    on_step: Callable[[], None] = lambda: None,
) -> list[Edits]:
    """Do what :func:`craft` does for several measurements at once.

    Args:
        task: Model at the parameters the IHVPs were solved at.
        data: The whole training set.
        chosen: Documents to edit for each measurement, equally many.
        ihvps: One per measurement.
        budget: As in :func:`craft`, like all that follows.
        steps: Gradient evaluations per document.
        step_size: In values.
        ascent: Sign or raw.
        delivery: Realisable or as coded.
        batch_size: Documents held at once, all measurements together.
        on_step: Called after each step.

    Returns:
        Edits per measurement; they differ from those of :func:`craft` by rounding.

    Raises:
        InputError: As :func:`craft`, or numbers of documents differ.
        DivergedError: A perturbation gradient is not finite.
    """
    climb = gradients_together(task, data, chosen, ihvps, batch_size=batch_size)
    settings = AscentSettings(
        budget=budget,
        steps=steps,
        step_size=step_size,
        ascent=ascent,
        delivery=delivery,
    )
    like = first_parameter(task)
    return _edited(settings, data, chosen, climb, like=like, on_step=on_step)


def ascend(
    data: Documents,
    chosen: Int[Tensor, " k"],
    climb: InputGradient,
    *,
    like: Tensor,
    budget: Budget,
    steps: int = 50,
    step_size: float | None = None,
    ascent: Ascent = "sign",
    delivery: Delivery = "realisable",
    momentum: float = 0.0,
    on_step: Callable[[], None] = lambda: None,
) -> Edits:
    """Edit documents by projected gradient ascent on any gradient of their inputs.

    Args:
        data: The whole training set.
        chosen: Documents to edit.
        climb: Gradient to ascend, :func:`influence_gradient` or one through retraining.
        like: Gives dtype and device of the values handed to ``climb``.
        budget: Largest change of a document, in values, e.g. ``LInf(8 / 255)``.
        steps: Gradient evaluations per document.
        step_size: ``α``, in values; ``None`` is ``2.5 · ε / steps`` (Madry et al.
            2018).
        ascent: ``"sign"``, or ``"raw"``: the gradient of each document over its norm,
            in the budget's norm, so that ``α`` keeps its unit.
        delivery: ``"realisable"``, or ``"as_coded"``: no budget, no clamp, no rounding,
            as the paper's code, whose ε never binds; the result is stored as floats.
        momentum: Share of the direction so far that stays, each gradient over its mean
            absolute value; for gradients that are noisy from step to step.
        on_step: Called after each step.

    Returns:
        Edited documents beside their originals, with what was asked and reached.

    Raises:
        InputError: As :func:`craft`.
        DivergedError: A gradient is not finite.

    Source:
        Madry et al. (2018), arXiv 1706.06083; Dong et al. (2018), arXiv 1710.06081, eq.
        6, for the momentum.
    """
    check_chosen(data, chosen)
    if isinstance(climb, ChosenGradient) and not torch.equal(climb.documents, chosen):
        raise InputError(
            "a gradient must be of the chosen documents, got one of others; make it "
            "with the same documents"
        )
    settings = AscentSettings(
        budget=budget,
        steps=steps,
        step_size=step_size,
        ascent=ascent,
        delivery=delivery,
        momentum=momentum,
    )
    (edits,) = _edited(settings, data, [chosen], climb, like=like, on_step=on_step)
    return edits


def _edited(
    settings: AscentSettings,
    data: Documents,
    chosen: Sequence[Int[Tensor, " k"]],
    climb: InputGradient,
    *,
    like: Tensor,
    on_step: Callable[[], None],
) -> list[Edits]:
    """Climb for all measurements at once and store the edits of each."""
    settings.check(data)
    original = data.batch(torch.cat(list(chosen)), like=like).inputs
    delta = settings.climbed(original, climb, data.valid, on_step=on_step)
    parts = delta.split([len(each) for each in chosen])
    return [
        settings.delivered(data, each, part)
        for each, part in zip(chosen, parts, strict=True)
    ]


def predicted_effect(
    task: Task, data: Documents, edits: Edits, ihvp: Params, *, batch_size: int = 64
) -> float:
    """Change of the measurement that influence predicts for these very edits.

    Args:
        task: Model at the parameters the IHVP was solved at.
        data: The whole training set, for its size.
        edits: Labels may differ too.
        ihvp: From ``curvature.solve``.
        batch_size: Documents held at once.

    Returns:
        ``−(1/n) Σᵢ (⟨s, ∇ℓ(zᵢ′)⟩ − ⟨s, ∇ℓ(zᵢ)⟩)``, in units of the measurement.

    Raises:
        InputError: The IHVP does not fit the model, or the batch size is not positive.

    Source:
        arXiv 2602.09987, eq. 3, without linearising in the edit.
    """
    params = along(task, ihvp)
    totals = []
    with evaluating(task.model), torch.no_grad():
        for rows in (edits.after, edits.before):
            parts = [
                directional_losses(task, params, ihvp, batch).double().sum()
                for _, batch in batches(task, rows, batch_size)
            ]
            totals.append(float(torch.stack(parts).sum()))
    return (totals[0] - totals[1]) / -len(data)
