"""Second moments by shifts, by rows and by halves equal those of unfolded patches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from infusion.curvature import covariance
from infusion.curvature.covariance import (
    gram,
    is_correlated,
    shift_covariance,
)
from infusion.curvature.patches import Patches

from .test_curvature import CONVOLUTIONS

KERNELS = st.sampled_from([1, 3, 5])
SIZES = st.integers(1, 7)


@settings(max_examples=40, deadline=None)
@given(kernel=st.tuples(KERNELS, KERNELS), size=st.tuples(SIZES, SIZES))
def test_shifts_equal_patches(kernel: tuple[int, int], size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    patches = F.unfold(x, kernel, padding=(kernel[0] // 2, kernel[1] // 2))
    flat = patches.transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        shift_covariance(x, kernel), flat @ flat.T, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("count", [100, 300, 1_000])
def test_half_of_a_symmetric_product_is_enough(
    count: int, generator: torch.Generator
) -> None:
    """Of 301 columns, from more and from fewer rows than pay for mirroring."""
    side = torch.randn(2, 301, count // 2, generator=generator, dtype=torch.float64)
    expected = sum(document @ document.T for document in side)
    for laid_out in (side, side.mT.contiguous().mT):
        torch.testing.assert_close(gram(laid_out), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_patches_row_by_row_are_those_of_unfold(
    options: dict, generator: torch.Generator
) -> None:
    conv = nn.Conv2d(3, 4, bias=False, **options)
    inputs = torch.randn(2, 3, 7, 6, generator=generator, dtype=torch.float64)
    patches = Patches(conv, inputs)
    flat = patches.dense().transpose(0, 1).flatten(1)
    torch.testing.assert_close(gram(patches), flat @ flat.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "size", "rtol"),
    [
        (torch.float32, (9, 8), 1e-5),
        (torch.float32, (70, 9), 1e-5),
        (torch.float16, (32, 32), 1e-2),
        (torch.bfloat16, (32, 32), 2e-2),
    ],
    ids=["float32", "by FFT", "float16", "bfloat16"],
)
def test_shifts_in_lower_precision(
    dtype: torch.dtype,
    size: tuple[int, int],
    rtol: float,
    generator: torch.Generator,
) -> None:
    """Positive pixels, whose sum over a picture is the largest number of all."""
    inputs = torch.rand(2, 8, *size, generator=generator).to(dtype)
    flat = F.unfold(inputs.double(), 3, padding=1).transpose(0, 1).flatten(1)
    expected, got = flat @ flat.T, shift_covariance(inputs, (3, 3)).double()
    assert float((got - expected).norm()) < rtol * float(expected.norm())


def test_frequencies_may_be_taken_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    x = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    whole = shift_covariance(x, (3, 3))
    monkeypatch.setattr(covariance, "_CACHED", 1)
    torch.testing.assert_close(
        shift_covariance(x, (3, 3)), whole, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(8, 3, 3, padding=1, bias=False), True),
        (nn.Conv2d(8, 3, (5, 3), padding="same", bias=False), True),
        (nn.Conv2d(2, 3, 3, padding=1, bias=False), False),
        (nn.Conv2d(8, 3, 3, padding=1), False),
        (nn.Conv2d(8, 3, 3, padding=0, bias=False), False),
        (nn.Conv2d(8, 3, 3, stride=2, padding=1, bias=False), False),
        (nn.Conv2d(8, 3, 3, dilation=2, padding="same", bias=False), False),
        (nn.Conv2d(8, 3, 1, bias=False), False),
    ],
)
def test_only_convolutions_that_shift_are_routed_there(
    conv: nn.Conv2d, *, expected: bool
) -> None:
    assert is_correlated(conv, (8, 8)) is expected
