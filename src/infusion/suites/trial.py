"""The nouns of a suite: a trial is a change of documents and a way to retrain on it."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Order = Literal["own", "fresh", "scratch"]
Hardening = Literal["augmentation", "weight decay", "clipping", "noise"]


@runtime_checkable
class Change(Protocol):
    """What is done to the documents: a frozen dataclass of settings."""

    @property
    def source(self) -> str:
        """Name the base model that it is crafted on."""
        ...

    @property
    def view(self) -> str:
        """Name how that base model is seen: "" as the settings say."""
        ...


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """What is trained on the changed documents.

    Attributes:
        architecture: Trained by its own recipe.
        epochs: Epochs before the end at which retraining starts.
        order: The run's own order, a fresh one, or from scratch with a fresh
            initialisation and order, whatever ``epochs`` says.
        draw: Which of the fresh ones.
        further: Epochs on clean documents afterwards.
        hardening: What the recipe adds for these epochs.
    """

    architecture: str
    epochs: int = 1
    order: Order = "own"
    draw: int = 0
    further: int = 0
    hardening: Hardening | None = None


@dataclass(frozen=True)
class Trial:
    """One row per pair: an effect is measured against a clean replay in the same mode.

    Attributes:
        name: Unique in its suite.
        change: Of the documents.
        retraining: On them.
        portrait: Whether the first pair's row says what there is to say about the whole
            model too.
        audited: Whether an auditor looks for the changed documents afterwards.
    """

    name: str
    change: Change
    retraining: Retraining
    portrait: bool = False
    audited: bool = False
