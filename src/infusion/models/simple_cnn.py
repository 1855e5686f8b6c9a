"""The paper's SimpleCNN, at any widths: 288,746 parameters at the paper's."""

from jaxtyping import Float
from torch import Tensor, nn


def _stage(width_in: int, width_out: int) -> list[nn.Module]:
    """Two 3×3 convolutions with BatchNorm and ReLU, then half the size."""
    return [
        nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(),
        nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]


class SimpleCNN(nn.Module):
    """Three stages of two convolutions, mean pool, linear.

    Source:
        Infusion (arXiv 2602.09987), CIFAR-10 transfer: widths 32, 64, 128.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        widths: tuple[int, int, int] = (32, 64, 128),
        num_classes: int = 10,
    ) -> None:
        """Build the network with PyTorch's default initialisation.

        Args:
            channels: Channels of the picture.
            widths: Channels of the three stages.
            num_classes: Logits returned.
        """
        super().__init__()
        narrow, middle, wide = widths
        self.stages = nn.Sequential(
            *_stage(channels, narrow), *_stage(narrow, middle), *_stage(middle, wide)
        )
        self.head = nn.Linear(wide, num_classes)

    def forward(self, x: Float[Tensor, "b ch h w"]) -> Float[Tensor, "b c"]:
        """Return the logits of pictures with values in ``[0, 1]``.

        Args:
            x: Pictures of at least 8 × 8, not normalised.

        Returns:
            Logits.
        """
        return self.head(self.stages(x).mean((2, 3)))
