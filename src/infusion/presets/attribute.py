"""Attribution alone: which documents drive these measurements; nothing is edited."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from infusion.attribution.scores import influences, self_influence
from infusion.configs import AttributeConfig, Fisher, as_plain
from infusion.curvature import storage
from infusion.curvature.blocks import Curvature
from infusion.curvature.fit import fit_curvature
from infusion.params import Params
from infusion.presets.ranking import ends, form, ranked, tables
from infusion.presets.run import Finished
from infusion.presets.subjects import Subject, open_subject
from infusion.report.page import report
from infusion.runs.progress import progress
from infusion.runs.store import Store, environment, json_bytes
from infusion.seeding import derive

INFLUENCE = "scores/influence.safetensors"
SELF_INFLUENCE = "scores/self_influence.safetensors"
SHOWN = "shown.safetensors"
_PASSES = {"identity": 0, "diagonal": 1, "kfac": 1, "ekfac": 2}


class _Damping(TypedDict):
    damping: float | None
    damping_ratio: float | None


def attribute(config: AttributeConfig, root: Path) -> Finished:
    """Attribute measurements to documents, continuing what the run folder holds.

    Args:
        config: Everything that decides the results.
        root: Run folder; refused if it was started with another configuration.

    Returns:
        What ``results.json`` holds, and the path of the page.

    Raises:
        InfusionError: Wrong settings, unusable data, an uncovered layer, an altered
            artefact, a score or a training that diverged.
    """
    store = Store(root)
    subject = open_subject(config, store)
    fitted = _curvature(config, store, subject)
    scored = _influences(config, store, subject, fitted)
    scores, values = scored["influence"], scored["values"].tolist()
    own = None
    if config.self_influence:
        own = _self_influence(config, store, subject, fitted)
    for name, content in tables(subject, scores, own).items():
        store.derive(name, content)
    order = ranked(scores)
    rows = [
        {"value": value, **ends(subject, row, order[row], scores=scores[row], own=own)}
        for row, value in enumerate(values)
    ]
    _store_pictures(store, subject, rows)
    results = {
        "kind": "attribution",
        "subject": config.preset or config.task,
        "n": len(subject.train),
        "form": form(subject.train),
        "levels": subject.train.levels,
        "valid": subject.train.valid,
        "class_names": subject.class_names,
        "clean_accuracy": subject.accuracy,
        "measurements": rows,
        **_coverage(config, subject, fitted),
        "hashes": subject.hashes,
        "threads": config.threads,
        "environment": environment(),
        "config": as_plain(config),
    }
    store.derive("results.json", json_bytes(results))
    return Finished(results, report(root))


def _fisher(config: AttributeConfig, subject: Subject) -> Fisher:
    """Resolve the Fisher: a task without a likelihood has no other than this."""
    default = "sampled" if subject.task.likelihood is not None else "empirical"
    return config.curvature.fisher or default


def _curvature(config: AttributeConfig, store: Store, subject: Subject) -> Curvature:
    fit = config.curvature
    fisher = _fisher(config, subject)
    inputs = {
        "hashes": subject.hashes,
        "kind": fit.kind,
        "fisher": fisher,
        "skip": fit.skip,
        "seed": config.seed,
        "batch_size": fit.batch_size,
    }

    def make() -> bytes:
        total = _PASSES[fit.kind] * len(subject.train)
        with store.timed("curvature"), progress("fit curvature", total) as advance:
            fitted = fit_curvature(
                subject.task,
                subject.train,
                kind=fit.kind,
                fisher=fisher,
                skip=fit.skip,
                seed=derive(config.seed, "curvature"),
                batch_size=fit.batch_size,
                on_batch=advance,
            )
        return storage.to_bytes(fitted, origin=inputs)

    content = store.file(_curvature_file(config), inputs, make)
    return storage.from_bytes(content, subject.task.model)


def _curvature_file(config: AttributeConfig) -> str:
    return f"curvature/{config.curvature.kind}.safetensors"


def _damping(config: AttributeConfig) -> _Damping:
    fit = config.curvature
    return _Damping(damping=fit.damping, damping_ratio=fit.damping_ratio)


def _score_inputs(config: AttributeConfig, store: Store) -> dict[str, Any]:
    return {
        "curvature": store.sha256(_curvature_file(config)),
        **_damping(config),
    }


def _influences(
    config: AttributeConfig, store: Store, subject: Subject, fitted: Curvature
) -> Params:
    """Score all documents on all measurements in one pass."""
    inputs = {
        **_score_inputs(config, store),
        "measurements": subject.decided_by(),
    }

    def make() -> Params:
        measured = subject.measured
        ihvps = [fitted.solve(g, **_damping(config)) for g in measured.gradients]
        with (
            store.timed("scores"),
            progress("score documents", len(subject.train)) as advance,
        ):
            scores = influences(
                subject.task,
                subject.train,
                ihvps,
                batch_size=config.curvature.batch_size,
                on_batch=advance,
            )
        values = torch.tensor(measured.values, dtype=torch.float64)
        return {"influence": scores, "values": values}

    return store.tensors(INFLUENCE, inputs, make)


def _self_influence(
    config: AttributeConfig, store: Store, subject: Subject, fitted: Curvature
) -> Tensor:
    def make() -> Params:
        with (
            store.timed("self-influence"),
            progress("self-influence", len(subject.train)) as advance,
        ):
            scores = self_influence(
                subject.task,
                subject.train,
                fitted,
                **_damping(config),
                batch_size=config.curvature.batch_size,
                on_batch=advance,
            )
        return {"self_influence": scores}

    inputs = _score_inputs(config, store)
    return store.tensors(SELF_INFLUENCE, inputs, make)["self_influence"]


def _store_pictures(store: Store, subject: Subject, rows: list[dict[str, Any]]) -> None:
    """Keep what the page shows, so that it can be drawn from the folder alone."""
    if form(subject.train) != "picture":
        return
    documents = {
        shown["document"]
        for row in rows
        for shown in row["supporting"] + row["opposing"]
    }
    listed = torch.tensor(sorted(documents), dtype=torch.int64)

    def make() -> Params:
        inputs = subject.train.inputs[listed.to(subject.train.inputs.device)].cpu()
        pictures = {"documents": listed, "inputs": inputs}
        if subject.probes is not None:
            pictures["probes"] = subject.probes
        return pictures

    store.tensors(SHOWN, {"scores": store.sha256(INFLUENCE)}, make)


def _coverage(
    config: AttributeConfig, subject: Subject, fitted: Curvature
) -> dict[str, Any]:
    """Describe the curvature and what it covers, layer by layer."""
    lambdas = fitted.damping(**_damping(config))
    named = dict(subject.task.model.named_parameters())  # a shared one once
    own, order = list(named.values()), list(named)
    covered = {
        name: block.eigenvalues.numel()
        for name, block in sorted(
            fitted.blocks.items(), key=lambda item: order.index(item[1].names[0])
        )
    }
    total = sum(covered.values())
    trained = sum(p.numel() for p in own if p.requires_grad)
    parameters = {
        "covered": total,
        "skipped": trained - total,
        "frozen": sum(p.numel() for p in own) - trained,
    }
    return {
        "curvature": {
            "kind": fitted.kind,
            "fisher": fitted.fisher,
            "num_documents": fitted.num_documents,
        },
        "coverage": {
            "layers": [
                {"name": name, "parameters": size, "damping": lambdas[name]}
                for name, size in covered.items()
            ],
            "skipped": [
                {"name": name, "parameters": size}
                for name, size in fitted.skipped.items()
            ],
            "parameters": parameters,
            "share": total / trained,
        },
    }
