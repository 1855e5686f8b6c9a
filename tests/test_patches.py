"""Products with the patches of a convolution, against the patches written out."""

import pytest
import torch
from torch import nn

from infusion.curvature.patches import Patches

from .test_curvature import CONVOLUTIONS


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("channels", "outputs"), [(2, 4), (9, 4), (9, 60)])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_products_without_patches(
    options: dict, channels: int, outputs: int, generator: torch.Generator
) -> None:
    """Few and many channels, fewer and more outputs than positions: other ways."""
    conv = nn.Conv2d(channels, outputs, bias=False, **options)
    inputs = torch.randn(3, channels, 7, 6, generator=generator, dtype=torch.float64)
    patches = Patches(conv, inputs)
    columns = patches.dense()
    expected = conv.double()(inputs).flatten(2)
    torch.testing.assert_close(
        conv.weight.flatten(1) @ columns, expected, rtol=1e-10, atol=1e-12
    )
    rows = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        patches.gradients(rows), rows @ columns.transpose(1, 2), rtol=1e-10, atol=1e-12
    )
    basis = torch.randn(columns.shape[1], 5, generator=generator, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        moved = Patches(conv, inputs.contiguous(memory_format=layout))
        torch.testing.assert_close(
            moved.turned(basis), basis.T @ columns, rtol=1e-10, atol=1e-12
        )
