"""Perturbation gradient: how the measurement answers to a change of a document.

    ∂f/∂xᵢ = −(1/n) ∂ₓ ⟨s, ∇θ ℓ(xᵢ)⟩

It is the input gradient of the directional derivative that gives the influence, so no
graph over parameter gradients is built. Source: arXiv 2602.09987, eq. 6.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad  # pyright: ignore[reportPrivateImportUsage]

from infusion.attribution import along, directional_losses
from infusion.params import Params
from infusion.records import Batch, Task
from infusion.tasks import evaluating


def perturbation_gradient(
    task: Task, batch: Batch, ihvp: Params, *, num_documents: int
) -> Float[Tensor, "b ..."]:
    """Gradient of the predicted measurement with respect to each document's inputs.

    Args:
        task: Model at the parameters the IHVP was solved at.
        batch: Documents as values; inputs must be floating point.
        ihvp: ``s``.
        num_documents: ``n``, the size of the whole training set.

    Returns:
        In units of the measurement per unit of input; ascend it to raise ``f``.

    Raises:
        InputError: The IHVP does not fit the model.
    """
    params = along(task, ihvp)

    def total(inputs: Tensor) -> Tensor:
        moved = batch._replace(inputs=inputs)
        return directional_losses(task, params, ihvp, moved).sum()

    with evaluating(task.model), torch.no_grad():
        return grad(total)(batch.inputs) / -num_documents
