"""kronfluence as a contender, imported inside functions only.

It is told to do what this package does: the empirical Fisher, no sub-sampling, and the
given batch size instead of a search for the largest one that fits. Its eigenvectors are
in float64, all else in float32, as it comes. All measurements are one batch, because it
goes through the documents once per batch of them.
"""

import logging
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import data

from infusion.bench.cost import Clock
from infusion.bench.problem import Problem
from infusion.records import Batch, Dataset

FACTORS = "ekfac"


class _Rows(data.Dataset):
    """Documents as the model sees them, a batch at a time as this package reads them.

    Without ``__getitems__`` the peer would be charged for a loop over documents.
    """

    def __init__(self, problem: Problem, documents: Dataset) -> None:
        self.problem, self.documents = problem, documents

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return tuple(self.problem.read(self.documents, torch.tensor(indices)))


def _as_it_is(batch: Any) -> Any:
    return batch


def _task(problem: Problem) -> Any:
    base: Any = import_module("kronfluence.task").Task
    task = problem.task

    class PeerTask(base):
        """The task's loss, summed over the batch as kronfluence asks."""

        def compute_train_loss(
            self, batch: Any, model: nn.Module, sample: bool = False
        ) -> Tensor:
            assert not sample, "the empirical Fisher draws no labels"
            rows = Batch(*batch)
            return task.loss(task.outputs(model, rows), rows).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return -self.compute_train_loss(batch, model)

    return PeerTask()


def fit(problem: Problem, clock: Clock) -> Any:
    """Fit EK-FAC in kronfluence's three steps, or find what an earlier fit stored.

    Args:
        problem: Model, which is wrapped, and documents.
        clock: Gets the steps.

    Returns:
        The analyzer, which reads its factors from disk.
    """
    home, task = import_module("kronfluence.analyzer"), _task(problem)
    arguments = import_module("kronfluence.arguments").FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=True,
        covariance_max_examples=None,
        lambda_max_examples=None,
    )
    loader = import_module("kronfluence.utils.dataset").DataLoaderKwargs
    rows, size = _Rows(problem, problem.data), problem.setting.batch_size
    with clock("set up"):
        fitted = home.Analyzer(
            analysis_name="bench",
            model=home.prepare_model(problem.task.model, task),
            task=task,
            cpu=True,
            disable_tqdm=True,
            log_level=logging.ERROR,
            output_dir=str(problem.scratch),
        )
        fitted.set_dataloader_kwargs(loader(collate_fn=_as_it_is))
    with clock("covariances"):
        fitted.fit_covariance_matrices(
            FACTORS, rows, per_device_batch_size=size, factor_args=arguments
        )
    with clock("eigenvectors"):
        fitted.perform_eigendecomposition(FACTORS, factor_args=arguments)
    with clock("eigenvalues"):
        fitted.fit_lambda_matrices(
            FACTORS, rows, per_device_batch_size=size, factor_args=arguments
        )
    return fitted


def scores(
    problem: Problem,
    fitted: Any,
    count: int,
    damping: dict[str, float],
    clock: Clock,
) -> Tensor:
    """Pairwise scores in this package's unit.

    kronfluence's score is ``⟨s, ∇ℓ⟩``: without the minus sign and ``1/n``.

    Args:
        problem: Documents and probes.
        fitted: From :func:`fit`.
        count: How many measurements.
        damping: Without ``damping``, kronfluence takes 0.1 of each layer's mean.
        clock: Gets one part.

    Returns:
        ``[count, n]``.
    """
    constants = import_module("kronfluence.utils.constants")
    ratio = damping.get("damping_ratio", constants.HEURISTIC_DAMPING_SCALE)
    assert ratio == constants.HEURISTIC_DAMPING_SCALE, "it has no other ratio"
    arguments = import_module("kronfluence.arguments").ScoreArguments(
        damping_factor=damping.get("damping")
    )
    probes = problem.probes.take(torch.arange(count))
    with clock("pairwise scores"):
        fitted.compute_pairwise_scores(
            scores_name="scores",
            factors_name=FACTORS,
            query_dataset=_Rows(problem, probes),
            train_dataset=_Rows(problem, problem.data),
            per_device_query_batch_size=count,
            per_device_train_batch_size=problem.setting.batch_size,
            score_args=arguments,
            overwrite_output_dir=True,
        )
        (found,) = fitted.load_pairwise_scores("scores").values()
    return found / -len(problem.data)
