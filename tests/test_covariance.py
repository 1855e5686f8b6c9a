"""The input covariance by shifts equals the one of unfolded patches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from infusion.curvature.covariance import is_shift_invariant, shift_covariance

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


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(2, 3, 3, padding=1, bias=False), True),
        (nn.Conv2d(2, 3, (5, 3), padding="same", bias=False), True),
        (nn.Conv2d(2, 3, 3, padding=1), False),
        (nn.Conv2d(2, 3, 3, padding=0, bias=False), False),
        (nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), False),
        (nn.Conv2d(2, 3, 3, dilation=2, padding="same", bias=False), False),
        (nn.Conv2d(2, 3, 1, bias=False), False),
    ],
)
def test_only_convolutions_that_shift_are_routed_there(
    conv: nn.Conv2d, *, expected: bool
) -> None:
    assert is_shift_invariant(conv) is expected
