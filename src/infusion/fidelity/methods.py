"""Ways to score every training document for every probe: one line each in ``METHODS``.

All return ``[m, n]``: the larger, the more the document supports the probe's true
class. The gradient methods see the same parameters, those the curvature covers:

    gradient dot      −⟨∇f, ∇ℓᵢ⟩ / n           influence with the identity for H + λI
    gradient cosine   −cos(∇f, ∇ℓᵢ)
    embedding         cos(h(probe), h(xᵢ)), inputs of the last linear layer; labels
                      are not looked at
    EK-FAC and others −∇fᵀ (H + λI)⁻¹ ∇ℓᵢ / n   at damping ratio 0.1; EK-FAC at 0.01 and
                      1 too, reported beside it; small networks also by the exact matrix
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from infusion.configs import Fisher, FittedKind
from infusion.fidelity.context import Context
from infusion.fidelity.refine import refine
from infusion.params import dot
from infusion.seeding import stream

Method = Callable[[Context], Tensor]


def draw(context: Context) -> Float[Tensor, "m n"]:
    """Score at random: what no information gives.

    Args:
        context: Seed and sizes.

    Returns:
        Independent normal numbers, from a stream per probe.
    """
    seed, size = context.model.seed, len(context.model.train)
    probes = range(context.first, context.first + len(context.probes))
    streams = [stream(seed, "fidelity", "random", probe) for probe in probes]
    return torch.stack([torch.randn(size, generator=each) for each in streams])


def gradient_dot(context: Context) -> Float[Tensor, "m n"]:
    """Influence with the identity in the place of the damped curvature.

    Args:
        context: Model, documents and probes.

    Returns:
        ``−⟨∇f, ∇ℓᵢ⟩ / n``.
    """
    return context.influences(context.gradients)


def gradient_cosine(context: Context) -> Float[Tensor, "m n"]:
    """Compare the directions of gradients only.

    Args:
        context: Model, documents and probes.

    Returns:
        ``−cos(∇f, ∇ℓᵢ)``; 0 for a document without gradient.
    """
    probes = torch.tensor([dot(g, g) ** 0.5 for g in context.gradients])
    lengths = context.model.gradient_norms * probes[:, None]
    dots = gradient_dot(context) * len(context.model.train)
    return dots / lengths.clamp_min(torch.finfo(dots.dtype).tiny)


def embedding(context: Context) -> Float[Tensor, "m n"]:
    """Compare the inputs of the last linear layer, whatever the labels.

    Args:
        context: Model, documents and probes.

    Returns:
        Cosine similarities.
    """
    probes = F.normalize(context.model.features(context.probes), dim=1)
    return probes @ F.normalize(context.model.train_features, dim=1).T


def preconditioned(
    context: Context,
    *,
    damping_ratio: float = 0.1,
    kind: FittedKind = "ekfac",
    fisher: Fisher = "sampled",
) -> Float[Tensor, "m n"]:
    """Influence by a fitted curvature.

    Args:
        context: Model, documents and probes.
        damping_ratio: ``λ`` over each layer's mean eigenvalue.
        kind: Which curvature.
        fisher: Which second moment of gradients it is fitted to.

    Returns:
        ``−∇fᵀ (H + λI)⁻¹ ∇ℓᵢ / n``.
    """
    fitted = context.model.curvature(kind, fisher)
    return context.influences(
        [fitted.solve(g, damping_ratio=damping_ratio) for g in context.gradients]
    )


def refined(context: Context) -> Float[Tensor, "m n"]:
    """Influence by the true Gauss–Newton matrix with EK-FAC's damping, approximately.

    Args:
        context: Model, documents and probes.

    Returns:
        ``−∇fᵀ (G + λI)⁻¹ ∇ℓᵢ / n`` after some steps of conjugate gradients.
    """
    model = context.model
    return context.influences(
        [
            refine(model.task, model.train, g, model.curvature(), damping_ratio=0.1)
            for g in context.gradients
        ]
    )


def gauss_newton(
    context: Context, *, damping_ratio: float = 0.1
) -> Float[Tensor, "m n"]:
    """Influence by the exact Gauss–Newton matrix, written out.

    Args:
        context: Model, documents and probes.
        damping_ratio: ``λ`` over the mean eigenvalue of the whole matrix.

    Returns:
        ``−∇fᵀ (G + λI)⁻¹ ∇ℓᵢ / n``.
    """
    dense = context.model.gauss_newton
    return context.influences(
        [dense.solve(g, damping_ratio=damping_ratio) for g in context.gradients]
    )


METHODS: dict[str, Method] = {
    "random": draw,
    "embedding": embedding,
    "gradient_cosine": gradient_cosine,
    "gradient_dot": gradient_dot,
    "diagonal": partial(preconditioned, kind="diagonal"),
    "kfac": partial(preconditioned, kind="kfac"),
    "ekfac": preconditioned,
    "ekfac_0.01": partial(preconditioned, damping_ratio=0.01),
    "ekfac_1": partial(preconditioned, damping_ratio=1.0),
    "ekfac_exact_fisher": partial(preconditioned, fisher="exact"),
    "ekfac_cg": refined,
    "gauss_newton": gauss_newton,
    "gauss_newton_1": partial(gauss_newton, damping_ratio=1.0),
    "gauss_newton_10": partial(gauss_newton, damping_ratio=10.0),
}
MOST_DENSE = 5_000
"""Parameters of the largest network whose Gauss–Newton matrix is written out."""


def offered(parameters: int) -> list[str]:
    """Name the methods for a network of some size.

    Args:
        parameters: Trainable ones.

    Returns:
        Keys of ``METHODS``.
    """
    is_small = parameters <= MOST_DENSE
    return [n for n in METHODS if is_small or not n.startswith("gauss_newton")]
