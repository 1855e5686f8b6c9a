"""Retrain a model on edited documents, and measure what came of it."""

from collections.abc import Callable

import torch

from infusion.configs import TrainConfig
from infusion.measure import Behaviour, behaviour
from infusion.records import Dataset, Task
from infusion.tasks import first_parameter
from infusion.training import Checkpoint, train


def retrain(
    make_task: Callable[[], Task],
    data: Dataset,
    config: TrainConfig,
    *,
    seed: int,
    start: Checkpoint,
) -> tuple[Task, Checkpoint]:
    """Continue a saved training run on other documents, in the order it used.

    Args:
        make_task: Builds a task with a model of the same architecture.
        data: Edited or clean training documents.
        config: The recipe of the saved run.
        seed: Its seed.
        start: Its state to continue from, usually one epoch before the end.

    Returns:
        The retrained task and its final checkpoint.

    Raises:
        ArtefactError: The start is of another architecture or data order.
        DivergedError: A training loss became NaN or infinite.
    """
    task = make_task()
    final = start
    for checkpoint in train(task, data, config, seed=seed, start=start):
        final = checkpoint
    return task, final


def behaviours(
    task: Task, test: Dataset, pairs: list[tuple[int, int]]
) -> list[Behaviour]:
    """Evaluate a model on probes of the test set.

    Args:
        task: Classifier.
        test: Clean test documents.
        pairs: Probe's position in ``test``, and target class.

    Returns:
        One behaviour per pair.
    """
    like = first_parameter(task)
    return [
        behaviour(
            task.model, test.batch(torch.tensor([probe]), like=like).inputs[0], target
        )
        for probe, target in pairs
    ]
