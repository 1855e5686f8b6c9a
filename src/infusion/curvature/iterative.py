"""Conjugate gradients on the true Gauss–Newton matrix, preconditioned by a curvature.

    (G + D) s = ∇f,    G = (1/n) Σᵢ Jᵢᵀ (∂²ℓᵢ/∂z²) Jᵢ,    D = λ_layer on each layer

``G v`` needs no matrix: forward mode gives ``J v``, the loss' Hessian in output space a
second forward mode, and one backward pass ``Jᵀ``. EK-FAC with the same damping is the
preconditioner, so that few products are needed where it is good.

Source: Hestenes & Stiefel (1952); Martens (2010) for its use on neural networks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp  # pyright: ignore[reportPrivateImportUsage]

from infusion.curvature.blocks import Curvature
from infusion.errors import InputError, NotConvergedError
from infusion.memory import freed_memory_kept
from infusion.params import Params, axpy, dot
from infusion.records import Documents, Task
from infusion.sharding import all_sum, shard
from infusion.tasks import (
    batches,
    check_task,
    evaluating,
    functional_outputs,
    losses,
)


@dataclass(frozen=True)
class Solved:
    """What conjugate gradients found.

    Attributes:
        ihvp: ``s``.
        residual: ``‖∇f − (G + D)s‖ / ‖∇f‖``.
        products: Products with ``G`` that were spent, each a pass over the documents.
    """

    ihvp: Params
    residual: float
    products: int


def gauss_newton_product(
    task: Task, data: Documents, vector: Params, *, batch_size: int = 64
) -> Params:
    """Multiply the true Gauss–Newton matrix by a vector.

    Args:
        task: Its loss must be convex in the outputs.
        data: All documents of the objective.
        vector: Over the parameters that count; the others stand still.
        batch_size: Documents held at once.

    Returns:
        ``G v`` over the same parameters.
    """
    params = {n: task.model.get_parameter(n).detach() for n in vector}
    total = {n: torch.zeros_like(v, dtype=torch.float64) for n, v in vector.items()}
    own = torch.arange(len(data))[shard(len(data))]
    with evaluating(task.model), torch.no_grad():
        for _, batch in batches(task, data, batch_size, documents=own):

            def outputs(moved: Params, batch=batch) -> Tensor:
                return functional_outputs(task, moved, batch)

            z, moved_z = jvp(outputs, (params,), (vector,))[:2]

            def loss(z: Tensor, batch=batch) -> Tensor:
                return losses(task, z, batch).sum()

            turned = jvp(grad(loss), (z,), (moved_z,))[1]
            pulled = vjp(outputs, params)[1](turned)[0]
            for name, value in pulled.items():
                total[name] += value
    all_sum(total)
    return {n: (v / len(data)).to(vector[n]) for n, v in total.items()}


@freed_memory_kept()
def solve_cg(
    task: Task,
    data: Documents,
    gradient: Params,
    curvature: Curvature,
    *,
    damping: float | None = None,
    damping_ratio: float | None = None,
    rtol: float = 1e-3,
    max_products: int = 100,
    batch_size: int = 64,
    on_product: Callable[[], None] = lambda: None,
) -> Solved:
    """Refine an IHVP on the true Gauss–Newton matrix.

    Args:
        task: Model at the parameters the curvature was fitted at.
        data: All documents of the objective.
        gradient: ``∇f``; what the curvature does not cover is left out.
        curvature: The preconditioner; its damping is also that of the system.
        damping: As in ``curvature.solve``.
        damping_ratio: Likewise.
        rtol: Stop once the residual is this small, relative to ``∇f``.
        max_products: Most passes over the documents to spend.
        batch_size: Documents held at once.
        on_product: Called after each product.

    Returns:
        The solution with its residual and cost.

    Raises:
        InputError: The damping is not usable, the gradient does not fit, or the model
            is at other weights than the curvature.
        NotConvergedError: ``max_products`` did not reach ``rtol``.
    """
    check_task(task, data)
    by_name = _damping_by_name(curvature, damping, damping_ratio)
    missing = sorted(set(by_name) - set(gradient))
    if missing:
        raise InputError(
            f"the gradient must name every covered parameter, got none for {missing}; "
            "use the model the curvature was fitted on"
        )
    right = {n: gradient[n] for n in by_name}
    scale = dot(right, right) ** 0.5
    relative, products = 0.0, 0
    for products, (solution, residual) in enumerate(
        cg_steps(
            task,
            data,
            right,
            curvature,
            damping=damping,
            damping_ratio=damping_ratio,
            batch_size=batch_size,
        ),
        start=1,
    ):
        on_product()
        relative = dot(residual, residual) ** 0.5 / scale if scale else 0.0
        if relative <= rtol:
            return Solved(solution, relative, products)
        if products >= max_products:
            break
    raise NotConvergedError(
        f"conjugate gradients must reach a relative residual of {rtol:.1e}, got"
        f" {relative:.1e} after {products} products; raise the damping or "
        "max_products"
    )


def cg_steps(
    task: Task,
    data: Documents,
    right: Params,
    curvature: Curvature,
    *,
    damping: float | None = None,
    damping_ratio: float | None = None,
    batch_size: int = 64,
) -> Iterator[tuple[Params, Params]]:
    """Walk through preconditioned conjugate gradients, a product with ``G`` per step.

    Args:
        task: Model at the parameters the curvature was fitted at.
        data: All documents of the objective.
        right: ``∇f`` over the covered parameters.
        curvature: Start and preconditioner; its damping is also that of the system.
        damping: As in ``curvature.solve``.
        damping_ratio: Likewise.
        batch_size: Documents held at once.

    Yields:
        Solution and residual, first those of the curvature alone; ends where the
        residual is exactly zero.
    """
    curvature.check_weights(task.model)
    by_name = _damping_by_name(curvature, damping, damping_ratio)

    def system(vector: Params) -> Params:
        product = gauss_newton_product(task, data, vector, batch_size=batch_size)
        return {n: v + by_name[n] * vector[n] for n, v in product.items()}

    def precondition(vector: Params) -> Params:
        return curvature.solve(vector, damping=damping, damping_ratio=damping_ratio)

    solution = precondition(right)
    residual = axpy(-1.0, system(solution), right)
    yield solution, residual
    step, old = None, 0.0
    while (new := dot(residual, turned := precondition(residual))) != 0.0:
        step = turned if step is None else axpy(new / old, step, turned)
        product = system(step)
        length = new / dot(step, product)
        solution = axpy(length, step, solution)
        residual = axpy(-length, product, residual)
        old = new
        yield solution, residual


def _damping_by_name(
    curvature: Curvature, damping: float | None, damping_ratio: float | None
) -> dict[str, float]:
    lambdas = curvature.damping(damping=damping, damping_ratio=damping_ratio)
    return {n: lambdas[k] for k, b in curvature.blocks.items() for n in b.names}
