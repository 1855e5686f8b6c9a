"""What one layer sees: its inputs, and gradients with respect to its outputs.

For a Linear or Conv2d layer the gradient of one document is ``Σ_t g_t a_tᵀ`` over
positions ``t``; the column of ones appended to ``a`` stands for the bias. Parameters
are frozen during capture, so no parameter gradient is ever formed.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from infusion.curvature.covariance import is_shift_invariant, shift_covariance
from infusion.errors import InputError, UncoveredLayerError


@dataclass(frozen=True)
class Layer:
    """A covered layer.

    Attributes:
        name: Module name inside the model.
        module: The Linear or Conv2d module.
        has_bias: Whether the last input column is the bias.
    """

    name: str
    module: nn.Module
    has_bias: bool

    def parameters(self) -> list[str]:
        """Return the names of its parameters, weight first."""
        names = ["weight", "bias"] if self.has_bias else ["weight"]
        return [f"{self.name}.{name}" if self.name else name for name in names]


def _positions_linear(_: nn.Module, inputs: Tensor) -> Float[Tensor, "b i t"]:
    return (
        inputs.flatten(1, -2).transpose(1, 2) if inputs.ndim > 2 else inputs[..., None]
    )


def _positions_conv(module: nn.Module, inputs: Tensor) -> Float[Tensor, "b i t"]:
    assert isinstance(module, nn.Conv2d)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module.padding, str):
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        totals = totals if module.padding == "same" else [0, 0]
        (top, left) = (total // 2 for total in totals)
        inputs = F.pad(inputs, (left, totals[1] - left, top, totals[0] - top))
        padding: tuple[int, ...] = (0, 0)
    else:
        padding = module.padding
    if kernel == (1, 1) and padding == (0, 0):
        return inputs[:, :, :: stride[0], :: stride[1]].flatten(2)
    return F.unfold(inputs, kernel, dilation, padding, stride)


_POSITIONS: dict[type[nn.Module], Callable[[nn.Module, Tensor], Tensor]] = {
    nn.Linear: _positions_linear,
    nn.Conv2d: _positions_conv,
}


def _is_covered(module: nn.Module) -> bool:
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros"
    return type(module) is nn.Linear


def cover(
    model: nn.Module, skip: tuple[str, ...]
) -> tuple[list[Layer], dict[str, int]]:
    """List the layers the curvature covers, and what was skipped on request.

    Args:
        model: Any model.
        skip: Module types (``"BatchNorm2d"``) or module names to leave out, with
            all they hold.

    Returns:
        Covered layers in module order, and the parameter count of each skipped module.

    Raises:
        UncoveredLayerError: A trainable module is neither covered nor skipped; all
            such modules are named with their parameter counts.
        InputError: An entry of ``skip`` matches no module, parameters are shared
            between modules, or no layer is left.
    """
    if isinstance(skip, str):
        raise InputError(
            f"skip must be a tuple of names, got the text {skip!r}; write ({skip!r},)"
        )
    covered: list[Layer] = []
    skipped: dict[str, int] = {}
    refused: dict[str, int] = {}
    matched: set[str] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        keys = {type(module).__name__, *_ancestors(name)} & set(skip)
        matched |= keys
        if keys:
            skipped[name] = sum(p.numel() for p in own)
        elif _is_covered(module) and len(own) == len(list(module.parameters())):
            has_bias = getattr(module, "bias", None) is not None
            covered.append(Layer(name, module, has_bias))
        else:
            refused[f"{name} ({type(module).__name__})"] = sum(p.numel() for p in own)
    _refuse(model, covered, refused, [s for s in skip if s not in matched])
    return covered, skipped


def _ancestors(name: str) -> list[str]:
    """Return a module's name and those of the modules that hold it."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _refuse(
    model: nn.Module,
    covered: list[Layer],
    refused: dict[str, int],
    unmatched: list[str],
) -> None:
    if refused:
        listed = ", ".join(f"{name}: {count:,}" for name, count in refused.items())
        raise UncoveredLayerError(
            "every trainable layer must be a Linear or an ungrouped, zero-padded "
            f"Conv2d, got these others with their parameter counts: {listed}; pass "
            "their type or name in skip to leave them out of the curvature"
        )
    if unmatched:
        raise InputError(
            f"every entry of skip must name a module type or a module, got {unmatched} "
            "which match none; remove them"
        )
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    shared = [
        name
        for layer in covered
        for name in layer.parameters()
        if owners[id(model.get_parameter(name))] > 1
    ]
    if shared:
        raise InputError(
            "covered parameters must belong to one module each, got "
            f"{', '.join(shared)} shared between modules; skip all those modules"
        )
    if not covered:
        raise InputError(
            "the model must have at least one trainable Linear or Conv2d layer outside "
            "skip, got none"
        )


@dataclass(frozen=True)
class Captured:
    """Inputs and output edges of every layer in one forward pass."""

    inputs: dict[str, Tensor]
    edges: dict[str, GradientEdge]

    def clear(self) -> None:
        """Forget the last forward pass and its graph."""
        self.inputs.clear()
        self.edges.clear()

    def positions(self, layer: Layer) -> Float[Tensor, "b i t"]:
        """Return the layer's inputs as columns, one per position, ones appended."""
        columns = _POSITIONS[type(layer.module)](layer.module, self.inputs[layer.name])
        if layer.has_bias:
            columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1)
        return columns

    def input_covariance(self, layer: Layer) -> Float[Tensor, "i i"]:
        """Sum ``a aᵀ`` over documents and positions.

        Args:
            layer: Of this pass.

        Returns:
            The batch's part of the input factor.
        """
        module = layer.module
        if isinstance(module, nn.Conv2d) and is_shift_invariant(module):
            height, width = module.kernel_size
            return shift_covariance(self.inputs[layer.name], (height, width))
        flat = self.positions(layer).transpose(0, 1).flatten(1)
        return flat @ flat.T

    def gradients(
        self, layers: list[Layer], outputs: Tensor, direction: Tensor
    ) -> list[Float[Tensor, "b o t"]]:
        """Pull one output direction back to every layer's output.

        Args:
            layers: Layers of this pass.
            outputs: The task's outputs, with graph.
            direction: Same shape as ``outputs``.

        Returns:
            One tensor per layer, positions last.

        Raises:
            InputError: The outputs do not depend on a layer.
        """
        edges = [self.edges[layer.name] for layer in layers]
        pulled = torch.autograd.grad(
            outputs, edges, direction, retain_graph=True, allow_unused=True
        )
        unused = [lay.name for lay, g in zip(layers, pulled, strict=True) if g is None]
        if unused:
            raise InputError(
                "the outputs must depend on every covered layer, got none on "
                f"{', '.join(unused)}; skip them"
            )
        return [_as_columns(layer, g) for layer, g in zip(layers, pulled, strict=True)]


def _as_columns(layer: Layer, gradient: Tensor) -> Float[Tensor, "b o t"]:
    if isinstance(layer.module, nn.Conv2d):
        return gradient.flatten(2)
    return _positions_linear(layer.module, gradient)


@contextmanager
def capturing(model: nn.Module, layers: list[Layer]) -> Iterator[Captured]:
    """Record every layer's input and output edge during the forward passes inside.

    Args:
        model: Its parameters are frozen inside the block and restored afterwards.
        layers: Layers to record.

    Yields:
        A record that each forward pass fills anew.

    Raises:
        InputError: A layer ran twice in one forward pass, or changed its batch size.
    """
    captured = Captured({}, {})

    def record(
        layer: Layer,
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if layer.name in captured.inputs:
                raise InputError(
                    f"a layer must run once per forward pass, got {layer.name} twice; "
                    "skip it, or give each use a module of its own"
                )
            captured.inputs[layer.name] = inputs[0].detach()
            if not output.requires_grad:
                # A node of its own; a view of a leaf could not be changed in place.
                output = output.detach().requires_grad_().clone()
            captured.edges[layer.name] = get_gradient_edge(output)
            return output

        return hook

    handles = [layer.module.register_forward_hook(record(layer)) for layer in layers]
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
