"""How each kind of layer enters its weight: two factors whose product is the gradient.

The gradient of one document with respect to a weight matrix is ``Σ_t r_t c_tᵀ`` over
positions ``t``. One factor is known after the forward pass (the *fixed* one), the other
follows from the gradient at the layer's output (the *moving* one):

================  =====================  ========================  ==================
layer             fixed                  moving                    fixed factor is on
================  =====================  ========================  ==================
Linear, Conv      inputs, ones for bias  output gradients          columns
Conv1D (GPT-2)    inputs, ones for bias  output gradients          rows
Embedding         one-hot ids            output gradients          rows
norms             1                      ``Σ x̂ ∘ g, Σ g``          columns
bias alone        1                      ``Σ g``                   columns
================  =====================  ========================  ==================
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from infusion.curvature.patches import Patches
from infusion.errors import InputError

Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class OneHot:
    """One-hot columns, kept as the positions of their ones.

    Attributes:
        ids: Position of the one in each column.
        size: Length of a column.
        kept: False where a column is masked out and counts as zero.
    """

    ids: Int[Tensor, "b t"]
    size: int
    kept: Bool[Tensor, "b t"] | None = None

    def masked(self, mask: Bool[Tensor, "b t"]) -> "OneHot":
        """Count masked columns as zero."""
        kept = mask if self.kept is None else self.kept & mask
        return OneHot(self.ids, self.size, kept)

    def one(self, document: int) -> "OneHot":
        """Return the columns of one document."""
        part = slice(document, document + 1)
        kept = None if self.kept is None else self.kept[part]
        return OneHot(self.ids[part], self.size, kept)

    def counts(self) -> Float[Tensor, " d"]:
        """Return ``Σ x ∘ x``: how often each row is hit."""
        ids = self.ids.flatten() if self.kept is None else self.ids[self.kept]
        return torch.bincount(ids, minlength=self.size).double()

    def times(self, columns: Float[Tensor, "b c t"]) -> Float[Tensor, "b d c"]:
        """Return ``Σ_t x_t c_tᵀ`` of every document."""
        if self.kept is not None:
            columns = columns * self.kept[:, None]
        result = columns.new_zeros(len(columns), self.size, columns.shape[1])
        index = self.ids[:, :, None].expand(-1, -1, columns.shape[1])
        return result.scatter_add_(1, index, columns.transpose(1, 2))


Side = Tensor | OneHot | Patches
"""Columns ``[b, d, t]``: written out, one-hot, or the patches of a convolution."""


def dense(side: Side) -> Float[Tensor, "b d t"]:
    """Write columns out.

    Args:
        side: Not one-hot: those are never written out.

    Returns:
        Columns.
    """
    assert not isinstance(side, OneHot), "a vocabulary is never written out"
    return side.dense() if isinstance(side, Patches) else side


@dataclass(frozen=True)
class LayerKind:
    """A way to read a layer.

    Attributes:
        fixed: ``(module, input) -> side`` without the ones of a bias.
        moving: ``(module, input, output gradient, parameters) -> side``.
        fixed_axis: Axis of the weight matrix that the fixed factor is on.
        stacks: All parameters in one column: norms.
    """

    fixed: Callable[[nn.Module, Tensor], Side]
    moving: Callable[[nn.Module, Tensor, Tensor, tuple[str, ...]], Tensor]
    fixed_axis: Axis = "columns"
    stacks: bool = False


def _channels_last(_: nn.Module, values: Tensor) -> Float[Tensor, "b d t"]:
    return values[..., None] if values.ndim == 2 else values.flatten(1, -2).mT


def _channels_first(_: nn.Module, values: Tensor) -> Float[Tensor, "b d t"]:
    return values.flatten(2)


def _patches(module: nn.Module, inputs: Tensor) -> Patches:
    assert isinstance(module, nn.Conv2d)
    return Patches(module, inputs)


def _windows(module: nn.Module, inputs: Tensor) -> Float[Tensor, "b i t"]:
    """Unfold the windows of a one-dimensional convolution."""
    assert isinstance(module, nn.Conv1d)
    (size,), (dilation,), padding = module.kernel_size, module.dilation, module.padding
    total = dilation * (size - 1) if padding == "same" else 0
    edges = (total // 2, total - total // 2)
    if not isinstance(padding, str):
        edges = (padding[0], padding[0])
    padded = F.pad(inputs, edges)[:, :, None]  # a picture one pixel high
    return F.unfold(padded, (1, size), (1, dilation), 0, (1, module.stride[0]))


def _output_gradient(
    read: Callable[[nn.Module, Tensor], Tensor],
) -> Callable[[nn.Module, Tensor, Tensor, tuple[str, ...]], Tensor]:
    def moving(
        module: nn.Module, _: Tensor, gradient: Tensor, __: tuple[str, ...]
    ) -> Tensor:
        return read(module, gradient)

    return moving


def _one_hot(module: nn.Module, ids: Tensor) -> OneHot:
    assert isinstance(module, nn.Embedding)
    kept = None
    if module.padding_idx is not None:  # torch gives that row no gradient
        kept = (ids != module.padding_idx).flatten(1) if ids.ndim > 1 else None
        kept = (ids != module.padding_idx)[:, None] if kept is None else kept
    flat = ids[:, None] if ids.ndim == 1 else ids.flatten(1)
    return OneHot(flat, module.num_embeddings, kept)


def _one(_: nn.Module, inputs: Tensor) -> Float[Tensor, "b 1 1"]:
    dtype = inputs.dtype if inputs.is_floating_point() else None
    return torch.ones(len(inputs), 1, 1, dtype=dtype, device=inputs.device)


def response(module: nn.Module, inputs: Tensor, moved: dict[str, Tensor]) -> Tensor:
    """Derivative of a layer's output along its parameters: it is linear in them.

    Args:
        module: Any covered layer.
        inputs: Its inputs.
        moved: Direction, by parameter name; those not named stand still.

    Returns:
        Same shape as the layer's output.
    """
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        moved = {n: v.clone() for n, v in moved.items()}
        for value in moved.values():  # torch never moves that row
            value[module.padding_idx] = 0
    still = {n: torch.zeros_like(p) for n, p in module.named_parameters(recurse=False)}
    with torch.no_grad():  # hooks that capture a forward pass sleep without gradients
        result = functional_call(module, still | moved, (inputs,))
        if type(module) in _KINDS:
            return result
        # A norm may scale by 1 + weight: what it does without weight does not count.
        return result - functional_call(module, still, (inputs,))


def token_axis(module: nn.Module, shape: tuple[int, ...], length: int) -> int | None:
    """Find the axis of a layer's output that holds the tokens of a sequence.

    Args:
        module: Covered layer.
        shape: Of its output.
        length: Tokens of a document.

    Returns:
        None where no axis but those of documents and channels is that long.

    Raises:
        InputError: Two are.
    """
    is_first = isinstance(module, _CHANNELS_FIRST)
    axes = range(2, len(shape)) if is_first else range(1, len(shape) - 1)
    found = [axis for axis in axes if shape[axis] == length]
    if len(found) > 1:
        raise InputError(
            f"tokens must lie on one axis of a layer's output, got {length} of them on "
            f"axes {found} of {tuple(shape)} in a {type(module).__name__}; skip it, or "
            "use sequences of another length"
        )
    return found[0] if found else None


def spread_mask(
    module: nn.Module, shape: tuple[int, ...], mask: Bool[Tensor, "b t"]
) -> Bool[Tensor, "b ..."] | None:
    """Lay a mask over tokens on the positions of a layer's output, channels left out.

    Args:
        module: Covered layer.
        shape: Of its output.
        mask: True for tokens that count.

    Returns:
        Shape of the output with a single channel; None where it has no such axis.

    Raises:
        InputError: Two axes are as long as the mask.
    """
    axis = token_axis(module, shape, mask.shape[1])
    if axis is None:
        return None
    channel = 1 if isinstance(module, _CHANNELS_FIRST) else len(shape) - 1
    small = [1] * len(shape)
    small[0], small[axis] = mask.shape
    wide = [1 if i == channel else size for i, size in enumerate(shape)]
    return mask.reshape(small).expand(wide)


def _norm_gradient(
    module: nn.Module, inputs: Tensor, gradient: Tensor, names: tuple[str, ...]
) -> Float[Tensor, "b p 1"]:
    """Gradients of scale and shift of every document, one after the other."""
    parts = []
    for name in names:
        like = module.get_parameter(name)
        unit = response(module, inputs, {name: torch.ones_like(like)})
        parts.append(_summed(module, unit * gradient, like.numel()))
    return torch.cat(parts, 1)[..., None]


def _bias_gradient(
    module: nn.Module, _: Tensor, gradient: Tensor, names: tuple[str, ...]
) -> Float[Tensor, "b p 1"]:
    size = module.get_parameter(names[0]).numel()
    return _summed(module, gradient, size)[..., None]


def _summed(module: nn.Module, values: Tensor, size: int) -> Float[Tensor, "b p"]:
    """Sum a tensor of the shape of the output over all but documents and channels."""
    if isinstance(module, _CHANNELS_FIRST):
        return values.flatten(2).sum(2) if values.ndim > 2 else values
    return values.reshape(len(values), -1, size).sum(1)


_LINEAR = LayerKind(_channels_last, _output_gradient(_channels_last))
_CONV1D = LayerKind(_windows, _output_gradient(_channels_first))
_CONV2D = LayerKind(_patches, _output_gradient(_channels_first))
_GPT2 = LayerKind(_channels_last, _output_gradient(_channels_last), fixed_axis="rows")
_EMBEDDING = LayerKind(_one_hot, _output_gradient(_channels_last), fixed_axis="rows")
_NORM = LayerKind(_one, _norm_gradient, stacks=True)
BIAS = LayerKind(_one, _bias_gradient, stacks=True)
"""A bias whose weight is frozen or shared."""

_CHANNELS_FIRST = (
    nn.Conv1d,
    nn.Conv2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.GroupNorm,
)
_KINDS: dict[type[nn.Module], LayerKind] = {
    nn.Linear: _LINEAR,
    nn.Conv1d: _CONV1D,
    nn.Conv2d: _CONV2D,
    nn.Embedding: _EMBEDDING,
    nn.LayerNorm: _NORM,
    nn.RMSNorm: _NORM,
    nn.BatchNorm1d: _NORM,
    nn.BatchNorm2d: _NORM,
    nn.BatchNorm3d: _NORM,
    nn.GroupNorm: _NORM,
}
_NORM_NAMES = ("RMSNorm", "LayerNorm")


def kind_of(module: nn.Module) -> LayerKind | None:
    """Find out how a layer enters its weight.

    Subclasses of torch's layers may compute something else, so only the layers
    themselves count, ``transformers``' Conv1D, and norms that language models bring
    along: classes called …RMSNorm or …LayerNorm with one-dimensional parameters.

    Args:
        module: Any module with parameters of its own.

    Returns:
        None where the curvature cannot represent it.
    """
    kind, name = _KINDS.get(type(module)), type(module).__name__
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        is_plain = module.groups == 1 and module.padding_mode == "zeros"
        return kind if is_plain else None
    if isinstance(module, nn.Embedding):
        is_plain = module.max_norm is None and not module.scale_grad_by_freq
        return kind if is_plain else None
    if name == "Conv1D" and type(module).__module__.startswith("transformers."):
        return _GPT2
    own = [p.ndim for p in module.parameters(recurse=False)]
    if kind is None and name.endswith(_NORM_NAMES) and set(own) == {1}:
        return _NORM
    return kind
