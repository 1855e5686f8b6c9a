"""One contender, one work, one process: ``python -m infusion.bench.child JOB``.

``JOB`` is a JSON file; beside it the result and the scores are written. Imports, the
reading of the problem and a first run on one batch are not timed.
"""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infusion.bench.cost import Clock, Cost, measure, operators, product_rate
from infusion.bench.floor import count
from infusion.bench.problem import Problem, forward, load
from infusion.bench.works import DAMPING_RATIO, LOW_DAMPING, OURS, WORKS, Work
from infusion.intervals import rank_correlation
from infusion.runs.store import json_bytes, write_whole

HOMES = {
    OURS: "infusion.bench.ours",
    "kronfluence": "infusion.bench.peer_kronfluence",
    "curvlinops": "infusion.bench.peer_curvlinops",
}
"""Modules with ``fit(problem, clock)`` and ``scores(problem, fitted, …)``."""

DAMPED = {"damping_ratio": DAMPING_RATIO}
SHARES = (64, 32, 16, 8, 4, 2)
FEWEST = 4


@dataclass(frozen=True)
class Job:
    """What the parent asks for.

    Attributes:
        work: Name of the work.
        contender: Who does it.
        threads: Torch threads.
        small: Shrink every size.
        channels_last: Memory layout of convolutions.
        folder: Holds the stored problem.
        scratch: For what the contender writes; a fit starts from an empty one.
        profile: Afterwards, also say where the time goes.
    """

    work: str
    contender: str
    threads: int
    small: bool
    channels_last: bool
    folder: str
    scratch: str
    profile: bool = False


def run(job: Job, out: Path) -> dict[str, Any]:
    """Do one job in this process.

    Args:
        job: What to do.
        out: Scores go to ``{out}.npy`` and, at the low damping, ``{out}-low.npy``.

    Returns:
        A JSON value.
    """
    torch.set_num_threads(job.threads)
    work, scratch = WORKS[job.work], Path(job.scratch)
    problem = load(
        work.setting,
        small=job.small,
        folder=Path(job.folder),
        scratch=scratch,
        channels_last=job.channels_last,
    )
    shutil.rmtree(scratch / "warm-up", ignore_errors=True)
    if work.stage == "fit":
        shutil.rmtree(scratch, ignore_errors=True)
    contender, clock = import_module(HOMES[job.contender]), Clock()
    first = problem.warm_up()
    warm = contender.fit(first, Clock())
    contender.scores(first, warm, work.measurements, DAMPED, Clock())
    timed = {"fit": _fit, "scores": _scores, "shares": _shares}[work.stage]
    result = timed(contender, problem, work, clock, out)
    if job.contender == OURS:
        result |= _yardsticks(problem, work, small=job.small)
    if job.profile:
        result["where"] = _where(contender, problem.fresh(), work)
    return result | {"parts": clock.parts}


def _fit(
    contender: Any, problem: Problem, work: Work, clock: Clock, out: Path
) -> dict[str, Any]:
    fresh = problem.fresh()
    fitted, cost = measure(lambda: contender.fit(fresh, clock))
    for damping, name in ((DAMPED, ""), ({"damping": LOW_DAMPING}, "-low")):
        found = contender.scores(fresh, fitted, work.measurements, damping, Clock())
        _save(out, name, found)
    return asdict(cost)


def _scores(
    contender: Any, problem: Problem, work: Work, clock: Clock, out: Path
) -> dict[str, Any]:
    fresh = problem.fresh()
    fitted = contender.fit(fresh, Clock())
    found, cost = measure(
        lambda: contender.scores(fresh, fitted, work.measurements, DAMPED, clock)
    )
    _save(out, "", found)
    return asdict(cost)


def _shares(
    contender: Any, problem: Problem, work: Work, clock: Clock, out: Path
) -> dict[str, Any]:
    """Fit on ever more documents and compare the scores' ranks with the full fit's."""
    n = len(problem.data)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))

    def fit_on(documents: int) -> tuple[Tensor, Cost]:
        chosen = order[:documents]
        fitted, cost = measure(lambda: contender.fit(problem, Clock(), chosen))
        args = (work.measurements, DAMPED, Clock())
        return contender.scores(problem, fitted, *args), cost

    wanted, full = fit_on(n)
    del clock, out
    rows = [
        _share(n // part, n, fit_on, wanted) for part in SHARES if n // part >= FEWEST
    ]
    whole = {"share": 1.0, "spearman": 1.0, "spearman_mean": 1.0, **asdict(full)}
    return {**asdict(full), "shares": [*rows, whole]}


def _share(
    documents: int,
    n: int,
    fit_on: Callable[[int], tuple[Tensor, Cost]],
    wanted: Tensor,
) -> dict[str, Any]:
    """Score with a fit on some documents: the worst measurement's rank correlation."""
    found, cost = fit_on(documents)
    ranks = [
        rank_correlation(a.tolist(), b.tolist()) or 0.0
        for a, b in zip(found, wanted, strict=True)
    ]
    mean = sum(ranks) / len(ranks)
    share = {"share": documents / n, "spearman": min(ranks), "spearman_mean": mean}
    return {**share, **asdict(cost)}


def _yardsticks(problem: Problem, work: Work, *, small: bool) -> dict[str, Any]:
    """Time a plain forward pass, and the arithmetic at the rate of matrix products."""
    forward(problem.warm_up())
    _, plain = measure(lambda: forward(problem))
    counts, n = count(problem), len(problem.data)
    operations = counts.fit(n)
    if work.stage == "scores":
        operations = counts.scores(n, work.measurements)
    rate = product_rate(128 if small else 1024)
    return {
        "forward_seconds": plain.seconds,
        "operations": operations,
        "operations_per_second": rate,
        "floor_seconds": operations / rate,
    }


def _where(contender: Any, problem: Problem, work: Work) -> dict[str, float]:
    """Return the shares of time of the operators that take most of it."""
    if work.stage != "scores":
        return operators(lambda: contender.fit(problem, Clock()))
    fitted = contender.fit(problem, Clock())
    args = (work.measurements, DAMPED, Clock())
    return operators(lambda: contender.scores(problem, fitted, *args))


def _save(out: Path, name: str, found: Tensor) -> None:
    np.save(f"{out}{name}.npy", found.numpy())


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    asked = Job(**json.loads(job_file.read_text()))
    result_file = job_file.with_suffix(".result")
    write_whole(result_file, json_bytes(run(asked, job_file.with_suffix(""))))
