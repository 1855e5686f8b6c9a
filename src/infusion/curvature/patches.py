"""The input side of a convolution, without writing its patches out where that is slow.

Patches ``a_t`` are ``k²`` copies of the picture. Two products need none of them:

- a change of basis ``Cᵀ a_t`` is a convolution with the basis vectors as filters;
- at stride 1 the document gradient ``Σ_t g_t a_tᵀ`` is, for each kernel offset, a
  product of the padded picture with the output gradient laid on the same grid.
"""

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_FEWEST_CHANNELS = 8


@dataclass(frozen=True)
class Patches:
    """Columns ``[b, i, t]`` of a two-dimensional convolution, ``i`` as ``F.unfold``.

    Attributes:
        module: The convolution; its bias plays no part.
        inputs: Its inputs ``[b, ch, h, w]``.
    """

    module: nn.Conv2d
    inputs: Float[Tensor, "b ch h w"]

    def dense(self) -> Float[Tensor, "b i t"]:
        """Write the patches out."""
        module, inputs = self.module, self.inputs
        kernel, stride = module.kernel_size, module.stride
        inputs, padding = self._padded()
        if kernel == (1, 1) and padding == (0, 0):
            return inputs[:, :, :: stride[0], :: stride[1]].flatten(2)
        return F.unfold(inputs, kernel, module.dilation, padding, stride)

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
        inputs, padding = self._padded()
        filters = basis.T.reshape(-1, inputs.shape[1], *module.kernel_size)
        if inputs.is_contiguous(memory_format=torch.channels_last):
            filters = filters.contiguous(memory_format=torch.channels_last)
        turned = F.conv2d(
            inputs, filters, None, module.stride, padding, module.dilation
        )
        return turned.flatten(2)

    def gradients(self, rows: Float[Tensor, "b o t"]) -> Float[Tensor, "b o i"]:
        """Return ``Σ_t r_t a_tᵀ`` of every document."""
        module = self.module
        is_plain = module.stride == module.dilation == (1, 1) != module.kernel_size
        # Patches are i·t numbers, gradients o·i: take the way that writes fewer. With
        # few channels the products per offset are too thin to be fast.
        few_positions = rows.shape[2] <= rows.shape[1]
        if not is_plain or few_positions or self.inputs.shape[1] < _FEWEST_CHANNELS:
            return rows @ self.dense().transpose(1, 2)
        return self._by_offset(rows)

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
        result = rows.new_empty(*rows.shape[:2], grid.shape[3], kernel[0] * kernel[1])
        for i, (y, x) in enumerate(product(range(kernel[0]), range(kernel[1]))):
            start = y * grid.shape[2] + x
            result[..., i] = spread @ flat[:, start : start + reach]
        return result.flatten(2)
