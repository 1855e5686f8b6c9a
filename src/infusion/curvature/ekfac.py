"""EK-FAC: Kronecker eigenbasis with corrected eigenvalues, and its damped inverse.

Per layer, with inputs ``a``, output gradients ``g`` and document gradient
``∇W = Σ_t g_t a_tᵀ`` of shape ``[o, i]``:

    A = Σ a aᵀ = Q_A S_A Q_Aᵀ        G = Σ g gᵀ = Q_G S_G Q_Gᵀ
    Λ = mean over documents of (Q_Gᵀ ∇W Q_A)²
    (H + λI)⁻¹ V ≈ Q_G [(Q_Gᵀ V Q_A) / (Λ + λ)] Q_Aᵀ

Source: George et al. (2018), arXiv 1806.03884, eq. 12; Grosse et al. (2023),
arXiv 2308.03296, §2.2. ``H`` is the mean over documents, as is the objective.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from infusion.configs import Fisher
from infusion.curvature.capture import Captured, Layer, capturing, cover
from infusion.curvature.fisher import Directions, check_fisher, check_likelihood
from infusion.errors import DivergedError, InputError
from infusion.params import Params, is_finite
from infusion.records import Batch, Dataset, Task
from infusion.tasks import batches, evaluating


@dataclass(frozen=True)
class Block:
    """One layer's curvature in its eigenbasis.

    Attributes:
        names: Its parameters in the model, weight first.
        shape: Shape of the weight.
        input_basis: ``Q_A``, eigenvectors in columns; the bias is the last row.
        output_basis: ``Q_G``.
        eigenvalues: ``Λ``, in nats per squared parameter; never negative.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    input_basis: Float[Tensor, "i i"]
    output_basis: Float[Tensor, "o o"]
    eigenvalues: Float[Tensor, "o i"]

    def matrix(self, vector: Params) -> Float[Tensor, "o i"]:
        """Lay out this layer's part of a vector, bias in the last column."""
        weight = vector[self.names[0]].reshape(self.shape[0], -1)
        if len(self.names) == 1:
            return weight
        return torch.cat([weight, vector[self.names[1]][:, None]], 1)

    def parameters(self, matrix: Float[Tensor, "o i"]) -> Params:
        """Undo :meth:`matrix`."""
        if len(self.names) == 1:
            return {self.names[0]: matrix.reshape(self.shape)}
        weight = matrix[:, :-1].reshape(self.shape)
        return {self.names[0]: weight, self.names[1]: matrix[:, -1]}


@dataclass(frozen=True)
class EKFAC:
    """A fitted curvature.

    Attributes:
        blocks: One per covered layer, by module name.
        fisher: What was fitted.
        num_documents: How many documents it was fitted on.
        skipped: Modules left out on request, with their parameter counts.
    """

    blocks: dict[str, Block]
    fisher: Fisher
    num_documents: int
    skipped: dict[str, int]

    def damping(
        self,
        *,
        damping: float | None = None,
        damping_ratio: float | None = None,
        whole: bool = False,
    ) -> dict[str, float]:
        """Turn the user's damping into an absolute one per layer.

        Args:
            damping: The same ``λ > 0`` for every layer, in nats per squared parameter.
            damping_ratio: ``λ`` over the layer's mean eigenvalue; exactly one of
                the two is given.
            whole: Use the mean over all layers' eigenvalues instead of each layer's.

        Returns:
            ``λ`` of each layer, by module name.

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
        if not 0 < given < math.inf:
            raise InputError(
                f"damping must be > 0 and finite, got {given}; 0.1 is a usual "
                "damping_ratio"
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
        missing = {n for b in self.blocks.values() for n in b.names} - set(gradient)
        if missing:
            raise InputError(
                f"the gradient must name every covered parameter, got none for "
                f"{sorted(missing)}; use the model the curvature was fitted on"
            )
        for block in self.blocks.values():
            got = tuple(gradient[block.names[0]].shape)
            if got != block.shape:
                raise InputError(
                    f"the gradient must be of the model the curvature was fitted on, "
                    f"got {got} for {block.names[0]}, not {block.shape}; fit again"
                )
        solved: Params = {}
        for name, block in self.blocks.items():
            q_a, q_g = block.input_basis, block.output_basis
            rotated = q_g.T @ block.matrix(gradient) @ q_a
            filtered = rotated / (block.eigenvalues + lambdas[name])
            solved |= block.parameters(q_g @ filtered @ q_a.T)
        if not is_finite(solved):
            raise DivergedError(
                "an IHVP must be finite, got NaN or infinity; check the measurement "
                "gradient, and pass an absolute damping where a layer's eigenvalues "
                "are all zero"
            )
        return solved


def fit_ekfac(
    task: Task,
    data: Dataset,
    *,
    fisher: Fisher | None = None,
    skip: tuple[str, ...] = (),
    draws: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda _: None,
) -> EKFAC:
    """Fit EK-FAC to the training documents, in eval mode and two passes.

    Args:
        task: Model at the parameters to linearise at.
        data: Documents; memory does not grow with their number.
        fisher: ``None`` is ``"sampled"``, or ``"empirical"`` with a warning where the
            task names no likelihood.
        skip: Module types or names to leave out, e.g. ``("BatchNorm2d",)``.
        draws: Labels drawn per document for ``"sampled"``.
        seed: Of the label draws; they depend on the document's position only.
        batch_size: Documents held at once.
        on_batch: Called with the number of documents done, over both passes.

    Returns:
        The curvature as a value.

    Raises:
        InputError: The likelihood does not fit the loss or the Fisher, an entry of
            ``skip`` matches nothing, or a layer runs twice.
        UncoveredLayerError: A trainable layer is neither covered nor skipped.
        DivergedError: A factor became NaN or infinite.

    Source:
        George et al. (2018), arXiv 1806.03884; see the module's formulas.
    """
    if fisher is None:
        fisher = "sampled" if task.likelihood is not None else "empirical"
        if task.likelihood is None:
            warnings.warn(
                "this task names no likelihood, so the empirical Fisher is fitted; set "
                "Task.likelihood for the true one",
                stacklevel=2,
            )
    check_fisher(task, fisher)
    layers, skipped = cover(task.model, skip)
    directions = Directions(task, fisher, draws, seed)
    sweep = _Sweep(task, data, layers, directions, batch_size, on_batch)
    bases = _bases(sweep)
    eigenvalues = _corrected_eigenvalues(sweep, bases)
    blocks = {
        layer.name: Block(
            names=tuple(layer.parameters()),
            shape=tuple(layer.module.get_parameter("weight").shape),
            input_basis=bases[layer.name][0],
            output_basis=bases[layer.name][1],
            eigenvalues=eigenvalues[layer.name],
        )
        for layer in layers
    }
    return EKFAC(blocks, fisher, len(data), skipped)


@dataclass(frozen=True)
class _Sweep:
    """Passes over the documents that hand out layer inputs and output gradients."""

    task: Task
    data: Dataset
    layers: list[Layer]
    directions: Directions
    batch_size: int
    on_batch: Callable[[int], None]

    def __iter__(self) -> Iterator[tuple[Captured, Iterator[list[Tensor]]]]:
        """Yield each batch's captured inputs, and its gradients direction by direction.

        The gradients ``g [b, o, t]`` come in the order of ``layers``.
        """
        model = self.task.model
        with evaluating(model), capturing(model, self.layers) as captured:
            for documents, batch in batches(self.task, self.data, self.batch_size):
                captured.clear()
                outputs = self.task.outputs(model, batch)
                self._check(captured, outputs.detach(), batch, documents)
                directions = self.directions(outputs.detach(), batch, documents)
                yield (
                    captured,
                    (captured.gradients(self.layers, outputs, d) for d in directions),
                )
                self.on_batch(len(documents))

    def _check(
        self,
        captured: Captured,
        outputs: Tensor,
        batch: Batch,
        documents: Int[Tensor, " b"],
    ) -> None:
        if int(documents[0]) == 0 and self.directions.fisher != "empirical":
            check_likelihood(self.task, outputs, batch)
        for layer in self.layers:
            if layer.name not in captured.inputs:
                raise InputError(
                    f"every covered layer must run in the forward pass, got no call of "
                    f"{layer.name}; skip it"
                )
            if len(captured.inputs[layer.name]) != len(documents):
                raise InputError(
                    "the first axis of a layer's input must be the documents, got "
                    f"{len(captured.inputs[layer.name])} rows for {len(documents)} "
                    f"documents at {layer.name}; skip it"
                )


def _add(sums: Params, name: str, update: Tensor) -> None:
    """Accumulate in float64, so that results do not depend on the batch size."""
    sums[name] = sums[name].add_(update) if name in sums else update.double()


def _bases(sweep: _Sweep) -> dict[str, tuple[Tensor, Tensor]]:
    inputs: Params = {}
    outputs: Params = {}
    for captured, directions in sweep:
        for layer in sweep.layers:
            _add(inputs, layer.name, captured.input_covariance(layer))
        for gradients in directions:
            for layer, g in zip(sweep.layers, gradients, strict=True):
                flat = g.transpose(0, 1).flatten(1)
                _add(outputs, layer.name, flat @ flat.T)
    return {
        layer.name: (
            _eigenvectors(layer, inputs[layer.name]),
            _eigenvectors(layer, outputs[layer.name]),
        )
        for layer in sweep.layers
    }


def _eigenvectors(layer: Layer, factor: Tensor) -> Tensor:
    if not bool(torch.isfinite(factor).all()):
        raise DivergedError(
            f"Kronecker factors must be finite, got NaN or infinity at {layer.name}; "
            "check inputs and weights"
        )
    dtype = layer.module.get_parameter("weight").dtype
    return torch.linalg.eigh(factor)[1].to(dtype)


def _corrected_eigenvalues(
    sweep: _Sweep, bases: dict[str, tuple[Tensor, Tensor]]
) -> Params:
    sums: Params = {}
    for captured, directions in sweep:
        columns = [captured.positions(layer) for layer in sweep.layers]
        for gradients in directions:
            for layer, a, g in zip(sweep.layers, columns, gradients, strict=True):
                _add(sums, layer.name, _squared_rotation(a, g, *bases[layer.name]))
    return {
        layer.name: (sums[layer.name] / len(sweep.data)).to(bases[layer.name][0].dtype)
        for layer in sweep.layers
    }


def _squared_rotation(
    a: Float[Tensor, "b i t"],
    g: Float[Tensor, "b o t"],
    q_a: Float[Tensor, "i i"],
    q_g: Float[Tensor, "o o"],
) -> Float[Tensor, "o i"]:
    """Sum ``(Q_Gᵀ (g aᵀ) Q_A)²`` over documents, by the cheapest order of products."""
    i, o, t = len(q_a), len(q_g), a.shape[-1]
    if t == 1:  # the gradient of a document has rank one
        return (g[..., 0] @ q_g).square().T @ (a[..., 0] @ q_a).square()
    if t * (i * i + o * o) < o * i * (i + o):
        rotated = (q_g.T @ g) @ (q_a.T @ a).transpose(1, 2)
    else:
        rotated = q_g.T @ (g @ a.transpose(1, 2)) @ q_a
    return rotated.square_().sum(0)
