"""Handwritten digits from idx files: 5,000 of them and a CNN that trains in seconds."""

from torch import nn

from infusion.configs import DataConfig, TrainConfig
from infusion.data.idx import load_mnist
from infusion.data.images import take_split
from infusion.errors import InputError
from infusion.models.cnn import SmallCNN
from infusion.records import Dataset

DATA = DataConfig(source="mnist", train=5_000, split_seed=0)
TRAIN = TrainConfig(
    epochs=5,
    batch_size=50,
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    milestones=(4,),
)


def load(config: DataConfig) -> tuple[Dataset, Dataset]:
    """Load the training documents the settings ask for, and all test documents.

    Args:
        config: ``source`` is a folder of idx files, see :mod:`infusion.data.idx`.

    Returns:
        Training and test documents.

    Raises:
        InputError: A file is missing or altered, or holds fewer documents.
    """
    train, test = load_mnist(config.source)
    if config.train > len(train):
        raise InputError(
            f"this suite trains on {config.train} documents, got {len(train)} in "
            f"{config.source}; use a larger copy"
        )
    if config.train < len(train):
        train, _ = take_split(train, config.train, config.split_seed)
    return train, test


def make_model() -> nn.Module:
    """Build the network.

    Returns:
        About 18,000 parameters.
    """
    return SmallCNN()
