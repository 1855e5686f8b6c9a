"""This package as a contender."""

from typing import Any

from torch import Tensor

import infusion as inf
from infusion.bench.cost import Clock
from infusion.bench.problem import Problem


def fit(problem: Problem, clock: Clock, documents: Tensor | None = None) -> Any:
    """Fit EK-FAC of the empirical Fisher.

    Args:
        problem: Model and documents.
        clock: Gets one part.
        documents: Fit on these only.

    Returns:
        The curvature.
    """
    setting = problem.setting
    with clock("fit"):
        return inf.fit_ekfac(
            problem.task,
            problem.data,
            fisher="empirical",
            skip=setting.skip,
            documents=documents,
            batch_size=setting.batch_size,
        )


def scores(
    problem: Problem,
    fitted: Any,
    count: int,
    damping: dict[str, float],
    clock: Clock,
) -> Tensor:
    """Influence of every document on the first measurements.

    Args:
        problem: Model, documents and probes.
        fitted: From :func:`fit`.
        count: How many measurements.
        damping: ``damping_ratio`` or ``damping``.
        clock: Gets the parts.

    Returns:
        ``[count, n]``.
    """
    ihvps = []
    for index in range(count):
        with clock("measurement gradients"):
            gradient = inf.gradient(problem.task, problem.measurement(index))
        with clock("inverse"):
            ihvps.append(fitted.solve(gradient, **damping))
    task, data, size = problem.task, problem.data, problem.setting.batch_size
    with clock("influence of documents"):
        if count == 1:
            return inf.influence(task, data, ihvps[0], batch_size=size)[None]
        return inf.influences(task, data, ihvps, batch_size=size)
