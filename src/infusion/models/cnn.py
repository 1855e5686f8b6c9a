"""A small convolutional network without BatchNorm, for pictures of 28 × 28."""

from jaxtyping import Float
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Two 5 × 5 convolutions with ReLU and mean pooling, then one linear layer.

    18,378 parameters at the default widths, every one of them in a layer that EK-FAC
    covers; about one million multiplications a picture.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        widths: tuple[int, int] = (16, 32),
        num_classes: int = 10,
    ) -> None:
        """Build the network with PyTorch's default initialisation.

        Args:
            channels: Channels of the picture.
            widths: Channels of the two convolutions.
            num_classes: Logits returned.
        """
        super().__init__()
        narrow, wide = widths
        self.features = nn.Sequential(
            nn.Conv2d(channels, narrow, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(narrow, wide, 5),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Linear(wide * 4 * 4, num_classes)

    def forward(self, x: Float[Tensor, "b ch h w"]) -> Float[Tensor, "b c"]:
        """Return the logits of pictures with values in ``[0, 1]``.

        Args:
            x: Pictures of 28 × 28.

        Returns:
            Logits.
        """
        return self.head(self.features(x))
