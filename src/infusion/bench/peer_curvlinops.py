"""curvlinops as a contender, imported inside functions only.

Its EKFAC takes outputs of one row per loss term and a sum over them, so positions are
flattened into rows; hooks still see documents, whose gradients it squares. It works in
float32 throughout, eigenvectors included.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

import infusion as inf
from infusion.bench.cost import Clock
from infusion.bench.problem import Problem
from infusion.bench.works import DAMPING_RATIO
from infusion.params import Params

INNER = "model"


class _Flat(nn.Module):
    """The model with its outputs as rows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).flatten(0, -2)


class _Batches:
    """Documents a batch at a time, as this package reads them, as often as asked."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data, size = self.problem.data, self.problem.setting.batch_size
        for rows in torch.arange(len(data)).split(size):
            inputs, labels = self.problem.read(data, rows)
            yield inputs, labels.flatten()


def fit(problem: Problem, clock: Clock) -> Any:
    """Fit EK-FAC with curvlinops.

    Args:
        problem: Model, whose skipped layers are frozen, and documents.
        clock: Gets the steps.

    Returns:
        The linear operator of ``n H``.
    """
    model, names = problem.task.model, _fitted_parameters(problem)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    with clock("set up"):
        fitted = import_module("curvlinops").EKFACLinearOperator(
            _Flat(model),
            nn.CrossEntropyLoss(reduction="sum"),
            [model.get_parameter(name) for name in names],
            _Batches(problem),
            fisher_type="empirical",
            kfac_approx="expand",
            separate_weight_and_bias=False,
            check_deterministic=False,
            num_data=len(problem.data),
            num_per_example_loss_terms=problem.data.labels[0].numel(),
        )
    with clock("covariances"):
        fitted.compute_kronecker_factors()
    with clock("eigenvectors and eigenvalues"):
        fitted.compute_eigenvalue_correction()
    return fitted


def scores(
    problem: Problem,
    fitted: Any,
    count: int,
    damping: dict[str, float],
    clock: Clock,
) -> Tensor:
    """Influence by this package along curvlinops' inverse: it has no scores itself.

    Its operator is a sum over documents, so it is damped by ``n λ`` and its inverse
    multiplied by ``n``. It takes one damping, so each layer is solved alone.

    Args:
        problem: Model, documents and probes.
        fitted: From :func:`fit`.
        count: How many measurements.
        damping: ``damping_ratio`` or ``damping``.
        clock: Gets one part.

    Returns:
        ``[count, n]``.
    """
    inverse = import_module("curvlinops").KFACInverseLinearOperator
    names, n = _fitted_parameters(problem), len(problem.data)
    eigenvalues = fitted.state_dict()["corrected_eigenvalues"]
    rows = []
    with clock("inverse and influence"):
        for index in range(count):
            gradient = inf.gradient(problem.task, problem.measurement(index))
            right = [gradient[name] for name in names]
            ihvp: Params = {}
            for layer, own_values in eigenvalues.items():
                # By position of the parameter where there is no bias.
                is_dict = isinstance(own_values, dict)
                (values,) = own_values.values() if is_dict else (own_values,)
                absolute = n * damping.get("damping", 0.0)
                ratio = DAMPING_RATIO * float(values.double().mean())
                operator = inverse(
                    fitted, damping=absolute or ratio, use_exact_damping=True
                )
                solved = zip(names, operator @ right, strict=True)
                own = layer.removeprefix(f"{INNER}.") + "."
                ihvp |= {k: n * v for k, v in solved if k.startswith(own)}
            rows.append(inf.influence(problem.task, problem.data, ihvp))
    return torch.stack(rows)


def _fitted_parameters(problem: Problem) -> list[str]:
    return [
        f"{name}.{own}"
        for name, module in problem.task.model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        for own, _ in module.named_parameters(recurse=False)
    ]
