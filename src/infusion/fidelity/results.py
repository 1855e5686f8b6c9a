"""Put the suite's rows together: scores against retraining, and flips found."""

from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.configs import FlipsConfig, LDSConfig, SuiteConfig, as_plain
from infusion.fidelity.flips import INSPECTED
from infusion.fidelity.jobs import CHUNK, score_file
from infusion.fidelity.lds import correlations, group_predictions
from infusion.fidelity.methods import offered
from infusion.fidelity.subsets import fresh_seeds, membership, probe_positions
from infusion.fidelity.suites import Suite
from infusion.intervals import bootstrap_mean, share
from infusion.runs.rows import Rows
from infusion.runs.store import Store, environment

REFERENCE = "ekfac"
"""The method whose lead over the others is reported."""


def collect_lds(
    config: LDSConfig, store: Store, suite: Suite, retrains: Rows, responses: Rows
) -> dict[str, Any]:
    """Compare every method's predictions with the retrained models.

    Args:
        config: Settings.
        store: Run folder, with all scores.
        suite: Its documents.
        retrains: All of them.
        responses: Proximal Bregman responses, or none.

    Returns:
        JSON value: scores with their 95 % intervals over probes, against retrains with
        the base model's seed (``fixed``) and with other seeds (``fresh``).
    """
    members = membership(config, len(suite.train))
    measured = _measured(config, retrains)
    predicted = {
        name: group_predictions(_scores(config, store, name), members)
        for name in offered(suite.parameters)
    }
    each = {
        name: {kind: correlations(sums, values) for kind, values in measured.items()}
        for name, sums in predicted.items()
    }
    agreement = correlations(measured["fixed"], measured["fresh"])
    return {
        "kind": "lds",
        **_suite_facts(config.suite, suite),
        "subsets": config.subsets,
        "subset_size": int(members[0].sum()),
        "seeds": {"fixed": [config.seed], "fresh": fresh_seeds(config)},
        "probes": probe_positions(config, len(suite.test)),
        "lds": {name: _intervals(config, by) for name, by in each.items()},
        "lead": {name: _lead(config, each[REFERENCE], by) for name, by in each.items()},
        "fixed_vs_fresh": _interval(config, agreement),
        "pbrf": _pbrf(config, predicted[REFERENCE], measured, responses),
        "per_probe": each,
        "environment": environment(),
    }


def _suite_facts(config: SuiteConfig, suite: Suite) -> dict[str, Any]:
    """Describe what was trained; the folder of the data is nobody else's business."""
    return {
        "suite": config.name,
        "num_documents": {"train": len(suite.train), "test": len(suite.test)},
        "recipe": as_plain(config.train),
        "skip": config.skip,
    }


def _scores(config: LDSConfig, store: Store, method: str) -> Float[Tensor, "m n"]:
    """Put a method's chunks of probes together."""
    files = [score_file(method, f) for f in range(0, config.probes, CHUNK)]
    return torch.cat([store.read_tensors(file)["scores"] for file in files])


def _measured(config: LDSConfig, retrains: Rows) -> dict[str, Float[Tensor, "s m"]]:
    rows = retrains.read()

    def mean(seeds: list[int]) -> Tensor:
        values = [
            [rows[index, seed]["log_odds"] for seed in seeds]
            for index in range(config.subsets)
        ]
        return torch.tensor(values, dtype=torch.float64).mean(1)

    return {"fixed": mean([config.seed]), "fresh": mean(fresh_seeds(config))}


def _interval(config: LDSConfig, values: list[float]) -> dict[str, float | None]:
    return asdict(bootstrap_mean(values, seed=config.seed))


def _intervals(config: LDSConfig, by: dict[str, list[float]]) -> dict[str, Any]:
    return {kind: _interval(config, values) for kind, values in by.items()}


def _lead(
    config: LDSConfig, best: dict[str, list[float]], other: dict[str, list[float]]
) -> dict[str, Any]:
    """Paired difference of the reference method and another, over probes."""
    return {
        kind: _interval(
            config, [a - b for a, b in zip(best[kind], other[kind], strict=True)]
        )
        for kind in best
    }


def _pbrf(
    config: LDSConfig,
    predicted: Float[Tensor, "s m"],
    measured: dict[str, Float[Tensor, "s m"]],
    responses: Rows,
) -> dict[str, Any] | None:
    """Compare the reference method and PBRF with retraining, on the first subsets."""
    rows = list(responses.read().values())
    if len(rows) < 3:
        return None
    answered = torch.tensor([row["log_odds"] for row in rows], dtype=torch.float64)
    first = {kind: values[: len(rows)] for kind, values in measured.items()}
    linear = predicted[: len(rows)]

    def against(side: Tensor) -> dict[str, Any]:
        return {
            kind: _interval(config, correlations(side, values))
            for kind, values in first.items()
        }

    residuals = sorted(row["residual"] for row in rows)
    return {
        "subsets": len(rows),
        "pbrf": against(answered),
        REFERENCE: against(linear),
        f"{REFERENCE}_vs_pbrf": _interval(config, correlations(linear, answered)),
        "residual": {"median": residuals[len(rows) // 2], "largest": residuals[-1]},
        "evaluations": max(row["evaluations"] for row in rows),
    }


def collect_flips(config: FlipsConfig, suite: Suite, rows: Rows) -> dict[str, Any]:
    """Pool the flipped labels found over the base models.

    Args:
        config: Settings.
        suite: Its documents.
        rows: One per base model.

    Returns:
        JSON value: share found by method and share inspected, with Wilson's 95 %
        interval over all flipped labels.
    """
    done = list(rows.read().values())
    total = sum(row["flipped"] for row in done)
    return {
        "kind": "flips",
        **_suite_facts(config.suite, suite),
        "share": config.share,
        "flipped": total,
        "inspected": list(INSPECTED),
        "seeds": [row["seed"] for row in done],
        "accuracy": [row["accuracy"] for row in done],
        "base_sha256": [row["base_sha256"] for row in done],
        "found": {
            name: {
                inspected: share(
                    sum(row["found"][name][inspected] for row in done), total
                )
                for inspected in by
            }
            for name, by in done[0]["found"].items()
        },
        "per_seed": [row["found"] for row in done],
        "environment": environment(),
    }
