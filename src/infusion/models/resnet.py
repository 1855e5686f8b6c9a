"""The paper's TinyResNet, at any widths: 308,650 parameters at the paper's."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class _Block(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width_out, 1, stride, bias=False),
                nn.BatchNorm2d(width_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class TinyResNet(nn.Module):
    """Stem, three residual blocks (the last two halve the picture), mean pool, linear.

    Source:
        Infusion (arXiv 2602.09987), CIFAR-10 experiments: widths 32, 64, 128.
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
            widths: Channels of the three blocks; the stem has the first.
            num_classes: Logits returned.
        """
        super().__init__()
        narrow, middle, wide = widths
        self.stem = nn.Conv2d(channels, narrow, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(narrow)
        self.blocks = nn.Sequential(
            _Block(narrow, narrow, 1),
            _Block(narrow, middle, 2),
            _Block(middle, wide, 2),
        )
        self.head = nn.Linear(wide, num_classes)

    def forward(self, x: Float[Tensor, "b ch h w"]) -> Float[Tensor, "b c"]:
        """Return the logits of pictures with values in ``[0, 1]``.

        Args:
            x: Pictures, not normalised.

        Returns:
            Logits.
        """
        hidden = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.head(hidden.mean((2, 3)))
