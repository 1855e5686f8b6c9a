"""Retrain a model on edited documents."""

from collections.abc import Callable

from infusion.configs import TrainConfig
from infusion.records import Documents, Task
from infusion.training.checkpoints import Checkpoint
from infusion.training.loop import train


def retrain(
    make_task: Callable[[], Task],
    data: Documents,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint,
    record: bool = False,
) -> tuple[Task, Checkpoint]:
    """Continue a saved training run on other documents, in the order it used.

    Args:
        make_task: Builds a task with a model of the same architecture.
        data: Edited or clean training documents.
        config: The recipe of the saved run.
        seed: Its seed.
        start: Its state to continue from, usually one epoch before the end.
        record: See :class:`infusion.training.lane.Training`.

    Returns:
        The retrained task and its final checkpoint.

    Raises:
        ArtefactError: The start is of another architecture or data order.
        DivergedError: A training loss became NaN or infinite.
    """
    task = make_task()
    done = train(task, data, config, seed=seed, start=start, record=record)
    return task, done
