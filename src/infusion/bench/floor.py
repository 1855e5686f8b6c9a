"""The arithmetic floor: operations of the method over the rate of matrix products.

Per document and layer with ``t`` positions, ``o`` outputs and ``i`` inputs, the bias
among them, an operation being a multiplication or an addition:

=================  ===================================================================
forward            ``2 t o i`` (without the bias)
backward           the same, but for layers whose input needs no gradient
A, G               ``2 t i²``, ``2 t o²``; for a convolution of stride 1 padded to keep
                   the size the ``((2k−1)²+1)/2`` distinct shifts, ``2 t c²`` each
Λ                  one position ``2 i² + 2 o² + 2 i o``, else ``2 t o i`` and the
                   cheaper of ``2 t (i² + o²)`` and ``2 o i (o + i)``
eigenvectors       about ``4 (i³ + o³)``, once
=================  ===================================================================

A fit is two passes, forward and backward, and these. Influence of one measurement is a
forward pass with tangents: ``x W``, ``x dW``, ``dx W``. Of many it is the cheaper of
one such pass each and, once, document gradients ``2 t o i`` times a matrix ``2 m o i``.
Elementwise work, memory traffic and copies are no part of it. It is the floor of direct
products: those by transforms (``curvature/covariance.py``, ``curvature/tiles.py``) need
fewer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from infusion.bench.problem import Problem
from infusion.tasks import evaluating

EIGENVECTORS = 4  # times n³: tridiagonal form 4/3, back-transformation 2, the rest


@dataclass(frozen=True)
class Shape:
    """One fitted layer, as one document runs through it.

    Attributes:
        inputs: ``i``.
        outputs: ``o``.
        positions: ``t``.
        bias: Whether the last input is the constant one.
        is_first: Whether its input needs no gradient.
        shifts: Input channels and distinct shifts of a convolution whose covariance
            needs no patches.
    """

    inputs: int
    outputs: int
    positions: int
    bias: bool
    is_first: bool
    shifts: tuple[int, int] | None = None

    def product(self) -> int:
        """Count the product with the weight, one pass over it."""
        return 2 * self.positions * self.outputs * (self.inputs - self.bias)

    def gradient(self) -> int:
        """Count the document gradient with its bias."""
        return 2 * self.positions * self.outputs * self.inputs

    def covariances(self) -> int:
        """Count ``A`` and ``G``."""
        t, i, o = self.positions, self.inputs, self.outputs
        left = 2 * t * i**2
        if self.shifts is not None:
            channels, shifts = self.shifts
            left = min(left, shifts * 2 * t * channels**2)
        return left + 2 * t * o**2

    def eigenvalues(self) -> int:
        """Count ``Λ``."""
        t, i, o = self.positions, self.inputs, self.outputs
        if t == 1:
            return 2 * (i**2 + o**2 + i * o)
        return self.gradient() + min(2 * t * (i**2 + o**2), self.rotation())

    def rotation(self) -> int:
        """Count a change of basis on both sides of one gradient."""
        return 2 * self.outputs * self.inputs * (self.outputs + self.inputs)


@dataclass(frozen=True)
class Counts:
    """Operations of one document and of a whole work.

    Attributes:
        layers: Fitted layers in the order they run.
        products: Of one document's forward pass outside them, see ``Setting``.
    """

    layers: list[Shape]
    products: int

    def forward(self) -> int:
        """Count one document's forward pass."""
        return sum(layer.product() for layer in self.layers) + self.products

    def backward(self) -> int:
        """Count its backward pass to layer outputs; a product needs two backwards."""
        inner = sum(layer.product() for layer in self.layers if not layer.is_first)
        return inner + 2 * self.products

    def gradient(self) -> int:
        """Count its parameter gradients, given both passes."""
        return sum(layer.gradient() for layer in self.layers)

    def fit(self, documents: int) -> int:
        """Count an EK-FAC fit."""
        passes = self.forward() + self.backward()
        own = sum(layer.covariances() + layer.eigenvalues() for layer in self.layers)
        cubes = sum(layer.inputs**3 + layer.outputs**3 for layer in self.layers)
        return documents * (2 * passes + own) + EIGENVECTORS * cubes

    def scores(self, documents: int, measurements: int) -> int:
        """Count influence, with measurement gradients and their inverse."""
        passes = self.forward() + self.backward()
        solve = sum(2 * layer.rotation() for layer in self.layers)
        before = measurements * (passes + self.gradient() + solve)
        return before + documents * min(
            self.forward() + measurements * self.tangents(),
            passes + self.gradient() + self.dots(measurements),
        )

    def tangents(self) -> int:
        """Count one direction's tangents through a document's forward pass."""
        return sum(layer.product() for layer in self.layers) + self.backward()

    def dots(self, measurements: int) -> int:
        """Count the products of one document gradient with all directions."""
        sizes = sum(layer.inputs * layer.outputs for layer in self.layers)
        return 2 * measurements * sizes


def count(problem: Problem) -> Counts:
    """Run one document and note the shape of every fitted layer.

    Args:
        problem: Model and documents.

    Returns:
        Counts of its Linear and Conv2d layers.
    """
    found: list[Shape] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        found.append(_shape(module, inputs[0], output))
        return output if output.requires_grad else output.detach().requires_grad_()

    one = problem.fresh()
    model = one.task.model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.register_forward_hook(note)
    with evaluating(model):
        one.task.outputs(model, one.read(one.data, torch.tensor([0])))
    return Counts(found, problem.setting.products)


def _shape(module: nn.Module, inputs: Tensor, output: Tensor) -> Shape:
    weight = module.get_parameter("weight")
    bias, shifts = getattr(module, "bias", None) is not None, None
    o, i = len(weight), weight[0].numel() + bias
    if isinstance(module, nn.Conv2d):
        k = module.kernel_size[0]
        same = module.stride == (1, 1) and module.padding == (k // 2, k // 2)
        if same and k > 1 and not bias:
            shifts = inputs.shape[1], ((2 * k - 1) ** 2 + 1) // 2
    return Shape(
        inputs=i,
        outputs=o,
        positions=output[0].numel() // o,
        bias=bias,
        is_first=not inputs.requires_grad,
        shifts=shifts,
    )
