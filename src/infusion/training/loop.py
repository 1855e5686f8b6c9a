"""The one training loop: deterministic, with a checkpoint after every epoch.

Nothing but the seed, the recipe, the documents and the thread count decides the bits:
orders come from named streams, so a checkpoint needs no generator state.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from infusion.configs import TrainConfig
from infusion.errors import InputError
from infusion.records import Documents, Task
from infusion.seeding import derive
from infusion.training.checkpoints import Checkpoint
from infusion.training.lane import Lane, Training


def train(
    task: Task,
    data: Documents,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint | None = None,
    record: bool = False,
) -> Checkpoint:
    """Train the task's model in place to the end of the recipe.

    Args:
        task: Its model is overwritten.
        data: Training documents.
        config: Recipe.
        seed: Decides the orders.
        start: Continue after this checkpoint instead of from the model as it is.
        record: See :class:`infusion.training.lane.Training`.

    Returns:
        The state after the last epoch; ``start`` itself where nothing was left to do.

    Raises:
        InputError: There is no epoch to train and no start, or see
            :func:`train_epochs`.
        ArtefactError: ``start`` is of another architecture, optimiser or data order.
        DivergedError: A training loss became NaN or infinite.
    """
    final = start
    for checkpoint in train_epochs(
        task, data, config, seed=seed, start=start, record=record
    ):
        final = checkpoint
    if final is None:
        raise InputError(f"epochs must be ≥ 1, got {config.epochs}; train for more")
    return final


def train_epochs(
    task: Task,
    data: Documents,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint | None = None,
    record: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Checkpoint]:
    """Train the task's model in place, an epoch per checkpoint.

    Args:
        task: Its model is overwritten.
        data: Training documents; the objective is the mean loss of each batch.
        config: Recipe.
        seed: Decides the orders. Initialisation is the caller's, see ``init_model``.
        start: Continue after this checkpoint instead of from the model as it is.
        record: See :class:`infusion.training.lane.Training`.
        on_step: Called after every optimiser step.

    Yields:
        The state after each epoch; consume all to train to the end.

    Raises:
        InputError: A setting of the recipe or the seed cannot be used, ``start`` lies
            beyond the recipe's end, or the loss is not one value per document.
        ArtefactError: ``start`` is of another architecture, optimiser or data order.
        DivergedError: A training loss became NaN or infinite.
    """
    lane = Lane(Training(task, data, config, seed=seed, start=start, record=record))
    while lane.has_epochs_left:
        for number in range(lane.begin()):
            lane.step(number)
            on_step()
        yield lane.end()


def init_model(make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a model whose initialisation depends on the seed alone.

    Args:
        make_model: Builds it, drawing from torch's global generator.
        seed: Root seed of the run.

    Returns:
        The model; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "train", "init"))
        return make_model()
