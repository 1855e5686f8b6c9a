"""The input side of a convolution, without writing its patches out where that is slow.

Patches ``a_t`` are ``k²`` copies of the picture. Two products need none of them:

- a change of basis ``Cᵀ a_t`` is a convolution with the basis vectors as filters, on
  tiles where that saves products;
- at stride 1 the document gradient ``Σ_t g_t a_tᵀ`` is the convolution's own backward
  pass, or for each kernel offset a product of the padded picture with the output
  gradient laid on the same grid.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from infusion.curvature.tiles import TILE, turn_by_tiles

_FEWEST_CHANNELS = 8
"""Below, products per kernel offset are too thin to be fast."""
_FEWEST_TILED = 32
"""Channels and filters from which tiles are faster (measured on one core)."""
_MOST_WASTE = 1.5
"""Largest area of the tiles over that of the picture."""


@dataclass(frozen=True)
class Patches:
    """Columns ``[b, i, t]`` of a two-dimensional convolution, ``i`` as ``F.unfold``.

    Attributes:
        module: The convolution; its bias plays no part.
        inputs: Its inputs ``[b, ch, h, w]``.
    """

    module: nn.Conv2d
    inputs: Float[Tensor, "b ch h w"]

    @property
    def width(self) -> int:
        """Length ``i`` of a patch."""
        return self.inputs.shape[1] * math.prod(self.module.kernel_size)

    def split(self, size: int) -> "list[Patches]":
        """Return the patches of at most ``size`` documents at a time."""
        return [Patches(self.module, part) for part in self.inputs.split(size)]

    def dense(self) -> Float[Tensor, "b i t"]:
        """Write the patches out."""
        module, inputs = self.module, self.inputs
        kernel, stride = module.kernel_size, module.stride
        inputs, padding = self._padded()
        if kernel == (1, 1) and padding == (0, 0):
            return inputs[:, :, :: stride[0], :: stride[1]].flatten(2)
        return F.unfold(inputs, kernel, module.dilation, padding, stride)

    def rows(self) -> Float[Tensor, "b t kh kw ch"]:
        """Write the patches out position by position, channels last; no dilation."""
        inputs, (vertical, horizontal) = self._padded()
        edges = (0, 0, horizontal, horizontal, vertical, vertical)
        grid = F.pad(inputs.permute(0, 2, 3, 1), edges)
        for axis, size, stride in zip(
            (1, 2), self.module.kernel_size, self.module.stride, strict=True
        ):
            grid = grid.unfold(axis, size, stride)
        return grid.permute(0, 1, 2, 4, 5, 3).flatten(1, 2)

    def _padded(self) -> tuple[Tensor, tuple[int, int]]:
        """Return inputs with the padding of a named mode, and what is left to pad."""
        module, padding = self.module, self.module.padding
        if not isinstance(padding, str):
            return self.inputs, (padding[0], padding[1])
        if padding == "valid":
            return self.inputs, (0, 0)
        sizes = zip(module.kernel_size, module.dilation, strict=True)
        totals = [dilation * (size - 1) for size, dilation in sizes]
        (top, left) = (total // 2 for total in totals)
        edges = (left, totals[1] - left, top, totals[0] - top)
        return F.pad(self.inputs, edges), (0, 0)

    def turned(self, basis: Float[Tensor, "i c"]) -> Float[Tensor, "b c t"]:
        """Return ``Cᵀ a_t`` for all positions."""
        module = self.module
        if self.is_tiled(basis.shape[1]):
            return turn_by_tiles(self.inputs.permute(0, 2, 3, 1), basis).mT
        inputs, padding = self._padded()
        filters = basis.T.reshape(-1, inputs.shape[1], *module.kernel_size)
        if inputs.is_contiguous(memory_format=torch.channels_last):
            filters = filters.contiguous(memory_format=torch.channels_last)
        turned = F.conv2d(
            inputs, filters, None, module.stride, padding, module.dilation
        )
        return turned.flatten(2)

    def is_tiled(self, filters: int) -> bool:
        """Tell whether a basis of so many columns is turned by tiles.

        They save most products where channels are many, and cost some rounding.

        Args:
            filters: Columns of the basis.

        Returns:
            False in half precision.
        """
        module, (height, width) = self.module, self.inputs.shape[2:]
        exact = self.inputs.dtype in (torch.float32, torch.float64)
        fits = module.kernel_size == (3, 3) and module.padding in ("same", (1, 1))
        plain = module.stride == module.dilation == (1, 1)
        many = min(self.inputs.shape[1], filters) >= _FEWEST_TILED
        waste = (-height % TILE + height) * (-width % TILE + width) / (height * width)
        return exact and fits and plain and many and waste <= _MOST_WASTE

    def gradients(self, rows: Float[Tensor, "b o t"]) -> Float[Tensor, "b o i"]:
        """Return ``Σ_t r_t a_tᵀ`` of every document."""
        module = self.module
        is_plain = module.stride == module.dilation == (1, 1) != module.kernel_size
        # Patches are i·t numbers, gradients o·i: take the way that writes fewer. With
        # few channels the products per offset are too thin to be fast.
        few_positions = rows.shape[2] <= rows.shape[1]
        if is_plain and not few_positions and self.inputs.shape[1] >= _FEWEST_CHANNELS:
            near = self.inputs.is_contiguous(memory_format=torch.channels_last)
            on_cpu = self.inputs.device.type == "cpu"
            return (self._by_document if near and on_cpu else self._by_offset)(rows)
        if module.dilation != (1, 1):
            return rows @ self.dense().transpose(1, 2)
        found = rows @ self.rows().flatten(2)
        size = (*module.kernel_size, self.inputs.shape[1])
        return found.unflatten(2, size).permute(0, 1, 4, 2, 3).flatten(2)

    def _by_document(self, rows: Float[Tensor, "b o t"]) -> Float[Tensor, "b o i"]:
        """Let the convolution's own backward pass run document by document."""
        inputs, padding = self._padded()
        kernel = self.module.kernel_size
        height = inputs.shape[2] + 2 * padding[0] - kernel[0] + 1
        gradients = rows.unflatten(2, (height, -1))
        like = rows.new_empty(rows.shape[1], inputs.shape[1], *kernel)
        like = like.contiguous(memory_format=torch.channels_last)
        only_weight, one = (False, True, False), (1, 1)
        found = [
            torch.ops.aten.convolution_backward(
                g, x, like, None, one, padding, one, False, (0, 0), 1, only_weight
            )[1]
            for g, x in zip(gradients.split(1), inputs.split(1), strict=True)
        ]
        return torch.stack(found).flatten(2)

    def _by_offset(self, rows: Float[Tensor, "b o t"]) -> Float[Tensor, "b o i"]:
        inputs, (vertical, horizontal) = self._padded()
        edges = (0, 0, horizontal, horizontal, vertical, vertical)
        grid = F.pad(inputs.permute(0, 2, 3, 1), edges)
        kernel = self.module.kernel_size
        height, width = grid.shape[1] - kernel[0] + 1, grid.shape[2] - kernel[1] + 1
        spread = F.pad(rows.unflatten(2, (height, width)), (0, kernel[1] - 1)).flatten(
            2
        )
        # The last kernel offset would read beyond the grid for trailing zeros.
        reach = spread.shape[2] - (kernel[1] - 1)
        spread, flat = spread[..., :reach], grid.flatten(1, 2)
        offsets = product(range(kernel[0]), range(kernel[1]))
        starts = [y * grid.shape[2] + x for y, x in offsets]
        parts = [spread @ flat[:, start : start + reach] for start in starts]
        return torch.stack(parts, 3).flatten(2)
