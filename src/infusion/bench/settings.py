"""The models of the benchmark with their sizes."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from infusion.bench.models import Decoder, language
from infusion.configs import TrainConfig
from infusion.models.resnet import TinyResNet
from infusion.records import Task
from infusion.tasks import classification


@dataclass(frozen=True)
class Setting:
    """A model with its documents.

    Attributes:
        title: Model and number of documents, for people.
        documents: How many are fitted and scored.
        shape: Of one document as the model sees it.
        classes: Labels, or tokens, lie below it.
        make_model: Draws the initial weights from torch's global generator.
        make_task: Outputs and loss.
        skip: Layers that no contender fits.
        batch_size: Held at once, by every contender.
        recipe: A short training, so that gradients are not those of noise.
        products: Multiply-adds, twice, of one document's forward pass outside the
            fitted layers.
    """

    title: str
    documents: int
    shape: tuple[int, ...]
    classes: int
    make_model: Callable[[], nn.Module]
    make_task: Callable[[nn.Module], Task]
    skip: tuple[str, ...]
    batch_size: int
    recipe: TrainConfig
    products: int = 0


def settings(*, small: bool) -> dict[str, Setting]:
    """List the settings by name.

    Args:
        small: Shrink every size.

    Returns:
        ``resnet``, ``mlp`` and ``transformer``.
    """
    return {
        "resnet": _resnet(small=small),
        "mlp": _mlp(small=small),
        "transformer": _transformer(small=small),
    }


def _resnet(*, small: bool) -> Setting:
    n, side, batch = (64, 8, 16) if small else (2_048, 32, 64)
    widths = (4, 6, 8) if small else (32, 64, 128)
    return Setting(
        title=f"TinyResNet, {n:,} images",
        documents=n,
        shape=(3, side, side),
        classes=10,
        make_model=lambda: TinyResNet(widths=widths),
        make_task=classification,
        skip=("BatchNorm2d",),
        batch_size=batch,
        recipe=TrainConfig(
            epochs=6, batch_size=batch, lr=0.02, momentum=0.9, channels_last=False
        ),
    )


def _mlp(*, small: bool) -> Setting:
    n, hidden, batch = (96, 16, 32) if small else (4_096, 512, 64)

    def make_model() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(784, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 10),
        )

    return Setting(
        title=f"MLP 784-{hidden}-{hidden}-10, {n:,} images",
        documents=n,
        shape=(1, 28, 28),
        classes=10,
        make_model=make_model,
        make_task=classification,
        skip=(),
        batch_size=batch,
        recipe=TrainConfig(epochs=3, batch_size=batch, lr=0.1, channels_last=False),
    )


def _transformer(*, small: bool) -> Setting:
    n, context, batch = (16, 8, 4) if small else (64, 128, 16)
    vocabulary, width, depth = (20, 8, 2) if small else (1_000, 256, 4)

    def make_model() -> nn.Module:
        return Decoder(
            vocabulary=vocabulary, width=width, depth=depth, heads=4, context=context
        )

    return Setting(
        title=f"transformer, {depth} layers, d = {width}, {n} documents × {context}",
        documents=n,
        shape=(context,),
        classes=vocabulary,
        make_model=make_model,
        make_task=language,
        skip=("Embedding", "LayerNorm"),
        batch_size=batch,
        recipe=TrainConfig(
            epochs=25, batch_size=8, optimiser="adam", lr=1e-3, channels_last=False
        ),
        # Queries with keys, and weights with values: 2 t² d operations each.
        products=depth * 2 * 2 * context**2 * width,
    )
