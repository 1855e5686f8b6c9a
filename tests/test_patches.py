"""Products with the patches of a convolution, against the patches written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import infusion.curvature.patches as patches_module
from infusion.curvature.patches import Patches
from infusion.curvature.tiles import turn_by_tiles

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
    basis = torch.randn(columns.shape[1], 5, generator=generator, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        moved = Patches(conv, inputs.contiguous(memory_format=layout))
        torch.testing.assert_close(
            moved.gradients(rows),
            rows @ columns.transpose(1, 2),
            rtol=1e-10,
            atol=1e-12,
        )
        torch.testing.assert_close(
            moved.turned(basis), basis.T @ columns, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("size", [(8, 8), (7, 6), (4, 9)])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 5e-6)]
)
def test_tiles_turn_patches(
    size: tuple[int, int], dtype: torch.dtype, rtol: float, generator: torch.Generator
) -> None:
    """Pictures that tiles cover and pictures they overlap."""
    inputs = torch.randn(3, 5, *size, generator=generator, dtype=torch.float64)
    basis = torch.randn(45, 7, generator=generator, dtype=torch.float64)
    expected = basis.T @ F.unfold(inputs, 3, padding=1)
    got = turn_by_tiles(inputs.permute(0, 2, 3, 1).to(dtype), basis.to(dtype)).mT
    assert float((got - expected).norm()) < rtol * float(expected.norm())


@pytest.mark.parametrize(
    ("options", "channels", "filters", "size", "expected"),
    [
        ({"padding": 1}, 32, 32, (8, 8), True),
        ({"padding": "same"}, 32, 32, (8, 8), True),
        ({"padding": 1}, 31, 32, (8, 8), False),
        ({"padding": 1}, 32, 31, (8, 8), False),
        ({"padding": 1}, 32, 32, (5, 5), False),
        ({"padding": 1, "stride": 2}, 32, 32, (8, 8), False),
        ({"padding": 2, "dilation": 2}, 32, 32, (8, 8), False),
        ({}, 32, 32, (8, 8), False),
    ],
)
def test_only_plain_wide_convolutions_are_tiled(
    options: dict,
    channels: int,
    filters: int,
    size: tuple[int, int],
    *,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    calls = []

    def noted(inputs: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
        calls.append(basis.shape)
        return turn_by_tiles(inputs, basis)

    monkeypatch.setattr(patches_module, "turn_by_tiles", noted)
    conv = nn.Conv2d(channels, 4, 3, bias=False, **options)
    inputs = torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
    patches = Patches(conv, inputs)
    width = 9 * channels
    basis = torch.randn(width, filters, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        patches.turned(basis), basis.T @ patches.dense(), rtol=1e-10, atol=1e-10
    )
    assert bool(calls) is expected
    low = Patches(conv, inputs.bfloat16())
    assert not low.is_tiled(filters)
