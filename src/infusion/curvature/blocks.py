"""A fitted curvature: blocks with eigenvectors and eigenvalues, and filtered inverses.

Per block, with the gradient of one document laid out as a matrix ``[r, c]``:

    H V ≈ R [Λ ∘ (Rᵀ V C)] Cᵀ        H⁻¹ V ≈ R [φ(Λ) ∘ (Rᵀ V C)] Cᵀ

with orthogonal ``R`` (rows) and ``C`` (columns), the identity where None, and a filter
``φ`` of the eigenvalues ``Λ``, see :mod:`infusion.curvature.filters`. ``H`` is the mean
over documents, as is the objective.

Source: George et al. (2018), arXiv 1806.03884, eq. 12; Grosse et al. (2023),
arXiv 2308.03296, §2.2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from infusion.configs import Fisher
from infusion.curvature.filters import damped
from infusion.curvature.layout import Layout
from infusion.errors import DivergedError, InputError
from infusion.params import Params, is_finite, model_sha256

Kind = Literal["identity", "diagonal", "kfac", "ekfac", "gauss_newton", "hessian"]
Filter = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """The curvature of one layer, or of all parameters, in its eigenbasis.

    Attributes:
        layout: Its parameters, and how they lie in the matrix ``[r, c]``.
        row_basis: Eigenvectors in columns; None is the identity.
        column_basis: Likewise.
        eigenvalues: ``Λ``, in nats per squared parameter.
    """

    layout: Layout
    row_basis: Float[Tensor, "r r"] | None
    column_basis: Float[Tensor, "c c"] | None
    eigenvalues: Float[Tensor, "r c"]

    def to(self, device: torch.device) -> "Block":
        """Return the same block on another device."""
        bases = [
            None if basis is None else basis.to(device)
            for basis in (self.row_basis, self.column_basis)
        ]
        return replace(
            self,
            row_basis=bases[0],
            column_basis=bases[1],
            eigenvalues=self.eigenvalues.to(device),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters in the model, weight first."""
        return self.layout.names

    def rotate(self, matrix: Float[Tensor, "... r c"]) -> Float[Tensor, "... r c"]:
        """Return ``Rᵀ M C``, the matrix in the eigenbasis."""
        if self.row_basis is not None:
            matrix = self.row_basis.T @ matrix
        return matrix if self.column_basis is None else matrix @ self.column_basis

    def rotate_back(self, matrix: Float[Tensor, "... r c"]) -> Float[Tensor, "... r c"]:
        """Undo :meth:`rotate`."""
        if self.row_basis is not None:
            matrix = self.row_basis @ matrix
        return matrix if self.column_basis is None else matrix @ self.column_basis.T


@dataclass(frozen=True)
class Curvature:
    """A fitted curvature.

    Attributes:
        blocks: By name of the layer; one for everything where the curvature is dense.
        kind: Which approximation.
        fisher: Which second moment it was fitted to; None for the Hessian and the
            identity.
        num_documents: How many documents it was fitted on.
        skipped: Modules left out on request, with their parameter counts.
        weights_sha256: Hash of the model's parameters and buffers it was fitted at.
        sampling_error: Estimated relative error of the eigenvalues from having seen
            ``num_documents`` and not all, in the Frobenius norm; 0 where all were seen,
            None where it was not measured.
    """

    blocks: dict[str, Block]
    kind: Kind
    fisher: Fisher | None
    num_documents: int
    skipped: dict[str, int]
    weights_sha256: str
    sampling_error: float | None = None

    def to(self, device: torch.device) -> "Curvature":
        """Return the same curvature on another device."""
        blocks = {name: block.to(device) for name, block in self.blocks.items()}
        return replace(self, blocks=blocks)

    def check_weights(self, model: nn.Module) -> None:
        """Refuse a model at other weights.

        Args:
            model: The one it is about to be used with.

        Raises:
            InputError: A parameter or a buffer differs in any bit.
        """
        got = model_sha256(model)
        if got != self.weights_sha256:
            raise InputError(
                "a curvature must be used at the weights it was fitted at, sha256 "
                f"{self.weights_sha256[:12]}…, got {got[:12]}…; load those weights, or "
                "fit it again"
            )

    def damping(
        self,
        *,
        damping: float | None = None,
        damping_ratio: float | None = None,
        whole: bool = False,
    ) -> dict[str, float]:
        """Turn the user's damping into an absolute one per block.

        Args:
            damping: The same ``λ > 0`` for every block, in nats per squared parameter.
            damping_ratio: ``λ`` over the block's mean eigenvalue; exactly one of the
                two is given.
            whole: Use the mean over all blocks' eigenvalues instead of each block's.

        Returns:
            ``λ`` of each block.

        Raises:
            InputError: Neither or both were given, or the damping is not positive.
        """
        if (damping is None) == (damping_ratio is None):
            raise InputError(
                "exactly one of damping and damping_ratio must be given, got "
                f"damping={damping} and damping_ratio={damping_ratio}; 0.1 is a usual "
                "damping_ratio"
            )
        given = damping if damping_ratio is None else damping_ratio
        assert given is not None
        number = isinstance(given, Real) and not isinstance(given, bool)
        if not (number and 0 < given < math.inf):
            raise InputError(
                f"damping must be a number > 0 and finite, got {given!r}; 0.1 is a "
                "usual damping_ratio"
            )
        if damping is not None:
            return dict.fromkeys(self.blocks, damping)
        means = {
            k: float(b.eigenvalues.double().mean()) for k, b in self.blocks.items()
        }
        if whole:
            sizes = {k: b.eigenvalues.numel() for k, b in self.blocks.items()}
            total = sum(means[k] * sizes[k] for k in means) / sum(sizes.values())
            means = dict.fromkeys(means, total)
        dead = [name for name, mean in means.items() if not mean > 0]
        if dead:
            raise InputError(
                "a damping_ratio must be of a positive mean eigenvalue, got none at "
                f"{', '.join(dead[:3])}, where no gradient arrives; pass an absolute "
                "damping or skip the layer"
            )
        return {name: given * mean for name, mean in means.items()}

    def solve(
        self,
        gradient: Params,
        *,
        damping: float | None = None,
        damping_ratio: float | None = None,
        whole: bool = False,
    ) -> Params:
        """Damped inverse-curvature-vector product, the IHVP when given ``∇f``.

        Args:
            gradient: Must name every covered parameter; others are left out.
            damping: Absolute ``λ > 0``; or
            damping_ratio: relative ``λ``, see :meth:`damping`.
            whole: See :meth:`damping`.

        Returns:
            ``(H + λI)⁻¹ gradient`` over the covered parameters.

        Raises:
            InputError: A parameter is missing, or the damping is not usable.
            DivergedError: The gradient or the result is not finite.
        """
        lambdas = self.damping(
            damping=damping, damping_ratio=damping_ratio, whole=whole
        )
        return self._filtered(gradient, lambda name, e: damped(e, lambdas[name]))

    def filtered(self, gradient: Params, filter: Filter) -> Params:
        """Apply any filter of the eigenvalues instead of the damped inverse.

        Args:
            gradient: As in :meth:`solve`.
            filter: ``φ``, e.g. ``lambda e: horizon(e, lr=0.01, steps=1000)``.

        Returns:
            ``φ(H) gradient`` over the covered parameters.

        Raises:
            InputError: A parameter is missing, or the filter refuses the eigenvalues.
            DivergedError: The gradient or the result is not finite.
        """
        return self._filtered(gradient, lambda _, eigenvalues: filter(eigenvalues))

    def _filtered(
        self, gradient: Params, filter: Callable[[str, Tensor], Tensor]
    ) -> Params:
        self._check(gradient)
        solved: Params = {}
        for name, block in self.blocks.items():
            rotated = block.rotate(block.layout.matrix(gradient))
            scaled = rotated * filter(name, block.eigenvalues)
            solved |= block.layout.parameters(block.rotate_back(scaled))
        if not is_finite(solved):
            raise DivergedError(
                "an IHVP must be finite, got NaN or infinity; check the measurement "
                "gradient and the eigenvalues, and raise the damping"
            )
        return solved

    def _check(self, gradient: Params) -> None:
        wanted = {
            name: shape
            for block in self.blocks.values()
            for name, shape in zip(block.names, block.layout.shapes, strict=True)
        }
        missing = sorted(set(wanted) - set(gradient))
        if missing:
            raise InputError(
                f"the gradient must name every covered parameter, got none for "
                f"{missing}; use the model the curvature was fitted on"
            )
        for name, shape in wanted.items():
            got = tuple(gradient[name].shape)
            if got != shape:
                raise InputError(
                    f"the gradient must be of the model the curvature was fitted on, "
                    f"got {got} for {name}, not {shape}; fit again"
                )
