"""What curvature would cover of a model, cost, and trip over: before anything starts.

Operations are multiplications and additions of matrix products and convolutions, per
stage over all documents. Bytes are the most held at once beside the model, the data and
the libraries: factors and bases by their shapes, activations as one document's autograd
graph saves them. Elementwise work is not counted.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from infusion.attribution.influence import directional_losses
from infusion.curvature.hooks import shared_uses
from infusion.curvature.layers import Coverage, survey
from infusion.curvature.plan import Plan, make_plan
from infusion.curvature.sweep import check_gradients, loss_gradients
from infusion.errors import InfusionError
from infusion.records import Documents, Task
from infusion.tasks import evaluating, first_parameter

Outcome = Literal["ok", "warning", "not applicable"]
_WIDE = 8  # bytes of a float64
EIGENVECTORS = 4
"""Operations of a symmetric eigendecomposition over n³: tridiagonal form and back."""
_ALIKE = 1e-3
"""Relative difference of a gradient between batch shapes that rounding explains."""


@dataclass(frozen=True)
class Stage:
    """What one stage will need.

    Attributes:
        name: Stage.
        operations: Multiplications and additions, over all documents.
        memory: Most bytes held at once.
    """

    name: str
    operations: float
    memory: int


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        code: Stable name, ``D001``…
        title: What was checked.
        outcome: ``"not applicable"`` where it could not be run.
        evidence: One sentence with what was seen.
    """

    code: str
    title: str
    outcome: Outcome
    evidence: str


@dataclass(frozen=True)
class Diagnosis:
    """Everything the doctor found.

    Attributes:
        coverage: Which parameters curvature would cover, and why not the others.
        stages: Costs in the order they arise; empty where the model cannot be run.
        findings: Checks.
    """

    coverage: Coverage
    stages: list[Stage]
    findings: list[Finding]

    @property
    def fits(self) -> bool:
        """Whether a fit would run: every layer is covered or skipped, one at least."""
        odd = self.coverage.refused or self.coverage.unmatched
        return bool(self.stages) and not odd


def diagnose(
    task: Task,
    data: Documents,
    *,
    skip: tuple[str, ...] = (),
    batch_size: int = 64,
    measurements: int = 1,
) -> Diagnosis:
    """Examine a task on a few of its documents.

    Args:
        task: Model in any mode; it is run in eval mode.
        data: Training documents; the first ones are run.
        skip: Module types or names to leave out of the curvature.
        batch_size: Documents that the stages will hold at once.
        measurements: Measurements to score.

    Returns:
        Coverage, costs and checks; problems are findings, not errors.

    Raises:
        InputError: ``skip`` is a text or splits modules that share a weight.
    """
    coverage = survey(task.model, skip)
    findings = [_covered(coverage), _precision(task), _likelihood(task)]
    findings.append(_sharing(coverage))
    try:
        shared = shared_uses(task, data, coverage.layers)
    except InfusionError as error:
        findings.append(Finding("D005", "wiring", "warning", str(error)))
        return Diagnosis(coverage, [], findings)
    wired = f"{len(shared)} layers run once for all documents" if shared else "as usual"
    findings.append(Finding("D005", "wiring", "ok", wired))
    if not coverage.layers:
        return Diagnosis(coverage, [], findings)
    try:
        findings.append(_batch_shape(task, data, coverage, shared))
        check_gradients(task, data, coverage.layers, shared)
        plan = make_plan(task, data, coverage.layers, shared)
    except InfusionError as error:
        findings.append(Finding("D008", "gradients", "warning", str(error)))
        return Diagnosis(coverage, [], findings)
    findings.append(_forward_mode(task, data))
    said = "hooks find what autograd does at every layer"
    findings.append(Finding("D008", "gradients", "ok", said))
    return Diagnosis(coverage, _stages(data, plan, batch_size, measurements), findings)


# Checks


def _covered(coverage: Coverage) -> Finding:
    title = "every trainable layer is covered or skipped"
    if coverage.refused:
        listed = ", ".join(f"{n}: {count:,}" for n, count in coverage.refused.items())
        return Finding("D001", title, "warning", f"not covered: {listed}; skip them")
    if coverage.unmatched:
        listed = ", ".join(coverage.unmatched)
        return Finding("D001", title, "warning", f"skip matches nothing: {listed}")
    if not coverage.layers:
        return Finding("D001", title, "warning", "no layer is left to cover")
    return Finding("D001", title, "ok", f"{len(coverage.layers)} layers")


def _precision(task: Task) -> Finding:
    title = "precision of factors"
    kinds = {p.dtype for p in task.model.parameters()}
    half = kinds & {torch.float16, torch.bfloat16}
    if half:
        return Finding(
            "D002",
            title,
            "warning",
            f"parameters of {', '.join(map(str, half))}: products are rounded before "
            "they are summed in float64, which can make small eigenvalues wrong; call "
            "model.float() before fitting",
        )
    return Finding("D002", title, "ok", f"{', '.join(sorted(map(str, kinds)))}")


def _likelihood(task: Task) -> Finding:
    title = "likelihood for the true Fisher"
    if task.likelihood is None:
        return Finding(
            "D003", title, "warning", "none named: only the empirical Fisher is fitted"
        )
    name = task.likelihood if isinstance(task.likelihood, str) else "a sampler"
    return Finding("D003", title, "ok", name)


def _sharing(coverage: Coverage) -> Finding:
    title = "shared weights are summed before squaring"
    tied = [
        " = ".join(use.name for use in layer.uses)
        for layer in coverage.layers
        if len(layer.uses) > 1
    ]
    if not tied:
        return Finding("D004", title, "not applicable", "no weight has two modules")
    return Finding("D004", title, "ok", "; ".join(tied))


def _batch_shape(
    task: Task, data: Documents, coverage: Coverage, shared: frozenset[str]
) -> Finding:
    title = "gradients do not depend on the batch's shape"
    count = min(len(data), 8)
    if count < 2:
        return Finding("D006", title, "not applicable", "there is only one document")
    _, alone = loss_gradients(task, data, coverage.layers, shared, 1)
    _, beside = loss_gradients(task, data, coverage.layers, shared, count)
    worst, where = 0.0, ""
    for name, calls in alone.items():
        for one, many in zip(calls, beside[name], strict=True):
            off = (one[0].double() - many[0].double()).norm()
            scale = float(one[0].double().norm()) or 1.0
            if float(off) / scale > worst:
                worst, where = float(off) / scale, name
    evidence = (
        f"largest relative difference {worst:.1e} between 1 and {count} documents"
    )
    if worst > _ALIKE:
        evidence += f", at {where}: use the math or eager attention kernel"
        return Finding("D006", title, "warning", evidence)
    return Finding("D006", title, "ok", evidence)


def _forward_mode(task: Task, data: Documents) -> Finding:
    title = "forward mode, for influence of one measurement and for crafting"
    batch = data.batch(torch.tensor([0]), like=first_parameter(task))
    named = {n: p.detach() for n, p in task.model.named_parameters() if p.requires_grad}
    try:
        with evaluating(task.model), torch.no_grad():
            directional_losses(task, named, named, batch)
    except (InfusionError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        evidence = f"{said[:200]}; or use influences, which needs no forward mode"
        return Finding("D007", title, "warning", evidence)
    return Finding("D007", title, "ok", "works")


# Costs


def _stages(
    data: Documents, plan: Plan, batch_size: int, measurements: int
) -> list[Stage]:
    n, b, item = len(data), min(batch_size, len(data)), plan.item
    passes = n * plan.passes
    factors = sum(size.factor_numbers() for size in plan.sizes)
    largest = max(max(s.row_factor, s.column_factor) for s in plan.sizes)
    cubes = sum(s.row_factor**3 + s.column_factor**3 for s in plan.sizes)
    own = n * sum(size.matrix() for size in plan.sizes)
    dots = n * measurements * sum(size.dot() for size in plan.sizes)
    working, document = b * plan.sides(), plan.document()
    return [
        Stage(
            "factors",
            passes + n * sum(s.moments() for s in plan.sizes),
            _WIDE * factors + working,
        ),
        Stage(
            "eigenvectors",
            EIGENVECTORS * float(cubes),
            (_WIDE + item) * factors + 3 * _WIDE * largest**2,
        ),
        Stage(
            "eigenvalues",
            passes + n * sum(s.eigenvalues() for s in plan.sizes),
            item * (factors + plan.tiled()) + _WIDE * plan.numbers() + b * document,
        ),
        Stage(
            "influence of one",
            1.5 * passes,
            b * 2 * plan.saved + 2 * item * plan.numbers(),
        ),
        Stage(
            f"influence of {measurements}, together",
            passes + own + dots,
            measurements * plan.measurement() + b * plan.document(),
        ),
    ]
