"""Dense curvature of small models: exact Gauss–Newton, Fisher or Hessian.

    gauss_newton   (1/n) Σᵢ Σ_d gᵢ_d gᵢ_dᵀ     over the directions of the Fisher
    hessian        ∂²/∂θ² (1/n) Σᵢ ℓᵢ

in the covered parameters, one block for all of them, so that terms between layers count
too. Costs ``p²`` memory and ``p³`` time.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap  # pyright: ignore[reportPrivateImportUsage]

from infusion.configs import Fisher
from infusion.curvature.blocks import Block, Curvature, Kind
from infusion.curvature.gradients import document_gradients
from infusion.curvature.layers import cover
from infusion.curvature.layout import Layout
from infusion.errors import InputError, check_choice
from infusion.params import Params, model_sha256
from infusion.records import Documents, Task
from infusion.sharding import all_sum
from infusion.tasks import batches, check_task, evaluating, functional_losses

LARGEST = 20_000
"""Parameters of the largest dense curvature: 3.2 GiB in float64."""
_CHUNK = 64
"""Columns of the Hessian formed at once."""


def fit_dense(
    task: Task,
    data: Documents,
    *,
    kind: Kind = "gauss_newton",
    fisher: Fisher = "exact",
    skip: tuple[str, ...] = (),
    batch_size: int = 64,
) -> Curvature:
    """Fit the whole curvature matrix of a small model.

    Args:
        task: Model at the parameters to linearise at.
        data: Documents.
        kind: ``"gauss_newton"`` or ``"hessian"``.
        fisher: Directions of the Gauss–Newton matrix; ``"exact"`` is the matrix itself.
        skip: Module types or names to leave out.
        batch_size: Documents held at once.

    Returns:
        A curvature of one block; a Hessian's eigenvalues may be negative.

    Raises:
        InputError: The model has too many parameters, or as in ``fit_curvature``.
        UncoveredLayerError: A trainable layer is neither covered nor skipped.
    """
    check_task(task, data)
    check_choice("kind", kind, ("gauss_newton", "hessian"))
    layers, skipped = cover(task.model, skip)
    names = tuple(name for layer in layers for name in layer.layout.names)
    shapes = tuple(tuple(task.model.get_parameter(name).shape) for name in names)
    layout = Layout(names, shapes, "stacked")
    size = layout.shape[0]
    if size > LARGEST:
        raise InputError(
            f"a dense curvature must have at most {LARGEST:,} parameters, got {size:,};"
            " skip layers or use fit_ekfac"
        )
    if kind == "hessian":
        matrix, used = _hessian(task, data, layout, batch_size), None
    else:
        stream = document_gradients(
            task, data, fisher=fisher, skip=skip, batch_size=batch_size
        )
        matrix, used = _gauss_newton(layout, stream) / len(data), fisher
    eigenvalues, basis = torch.linalg.eigh(matrix)
    if kind == "gauss_newton":  # positive semi-definite but for rounding
        rounding = size * torch.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
        eigenvalues = torch.where(eigenvalues.abs() <= rounding, 0.0, eigenvalues)
    dtype = task.model.get_parameter(names[0]).dtype
    block = Block(layout, basis.to(dtype), None, eigenvalues.to(dtype)[:, None])
    weights = model_sha256(task.model)
    return Curvature({"all": block}, kind, used, len(data), skipped, weights, 0.0)


def _gauss_newton(layout: Layout, stream: Iterator[Params]) -> Float[Tensor, "p p"]:
    total: Tensor | float = 0.0
    for gradients in stream:
        flat = layout.matrix(gradients)[..., 0].double()
        total = total + flat.T @ flat
    assert isinstance(total, Tensor)
    all_sum({"matrix": total})  # each process ran its share
    return total


def _hessian(
    task: Task, data: Documents, layout: Layout, batch_size: int
) -> Float[Tensor, "p p"]:
    params = {n: task.model.get_parameter(n).detach() for n in layout.names}
    flat = layout.matrix(params)[:, 0]
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    unit = torch.eye(len(flat), dtype=flat.dtype, device=flat.device)
    with evaluating(task.model), torch.no_grad():
        for _, batch in batches(task, data, batch_size):

            def loss(vector: Tensor, batch=batch) -> Tensor:
                moved = layout.parameters(vector[:, None])
                return functional_losses(task, moved, batch).sum()

            def column(direction: Tensor, loss=loss) -> Tensor:
                return jvp(grad(loss), (flat,), (direction,))[1]

            total += vmap(column, chunk_size=_CHUNK)(unit)
    total /= len(data)
    return (total + total.T) / 2
