"""Gradient matching: documents whose training gradient points where the probe's does.

    cos(g, t),   g = Σᵢ ∇θ ℓ(xᵢ),   t = ∇θ f
    ∂ cos / ∂xᵢ = ∂ₓ ⟨u, ∇θ ℓ(xᵢ)⟩,   u = (t/‖t‖ − cos · g/‖g‖) / ‖g‖

so its input gradient is a perturbation gradient along ``u``; training descends, so the
cosine is to be −1 and ``u`` is climbed downwards. No curvature: every parameter counts
alike. Source: Geiping et al. (2021), "Witches' Brew", arXiv 2009.02276, eq. 3.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from infusion.errors import DivergedError
from infusion.params import Params
from infusion.perturb.gradient import ChosenGradient, check_slope, perturbation_gradient
from infusion.records import Batch, Dataset, Task
from infusion.tasks import evaluating, first_parameter, losses


def matching_gradient(
    task: Task, data: Dataset, chosen: Int[Tensor, " k"], wanted: Params
) -> ChosenGradient:
    """Return the gradient that turns the chosen documents' training step towards ``t``.

    Args:
        task: Model.
        data: The whole training set.
        chosen: Documents to edit.
        wanted: ``t``, from :func:`infusion.gradient`.

    Returns:
        What :func:`infusion.perturb.pixels.ascend` climbs: ``−∂ cos / ∂x``. It raises
        DivergedError where a gradient is zero.
    """
    labels = data.labels[chosen]
    target = _length(wanted)
    first = data.batch(chosen[:1], like=first_parameter(task))
    check_slope(task, wanted, first)

    def climb(inputs: Tensor) -> Tensor:
        batch = Batch(inputs, labels.to(inputs.device))
        own = _training_gradient(task, batch, list(wanted))
        size = _length(own)
        if not size * target > 0:
            raise DivergedError(
                "gradients to match must be finite and not zero, got lengths "
                f"{size:g} and {target:g}; check the documents and the measurement"
            )
        cosine = sum(float((own[n] * wanted[n]).sum()) for n in own) / (size * target)
        along = {
            n: (wanted[n] / target - cosine * own[n] / size) / size for n in wanted
        }
        return perturbation_gradient(task, batch, along, num_documents=1)

    return ChosenGradient(chosen, climb)


def _training_gradient(task: Task, batch: Batch, names: list[str]) -> Params:
    """Sum the loss gradients of a batch, in eval mode."""
    moved = [task.model.get_parameter(name) for name in names]
    with evaluating(task.model), torch.enable_grad():
        total = losses(task, task.outputs(task.model, batch), batch).sum()
        pulled = torch.autograd.grad(total, moved, allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for name, p, g in zip(names, moved, pulled, strict=True)
    }


def _length(vector: Params) -> float:
    squares = [v.double().square().sum() for v in vector.values()]
    return float(torch.stack(squares).sum().sqrt())
