"""Put a run's measurements together: effects, paired differences, predictions."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from infusion.configs import CONTROLS, Arm, as_plain
from infusion.intervals import bootstrap_mean, rank_correlation, share
from infusion.measure import Behaviour, behaviours
from infusion.params import Params, params_sha256
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.jobs import job_file
from infusion.records import Task
from infusion.runs.store import environment

KEPT = ("accuracy", "model_sha256", "threads", "environment")
CHANGES = ("p", "log_p", "log_odds")


def change(before: Behaviour, after: dict[str, Any]) -> dict[str, Any]:
    """Compare a probe's behaviour after a retrain with the base model's.

    Args:
        before: Base model.
        after: Retrained model, as stored.

    Returns:
        ``delta_p``, ``delta_log_p`` and ``delta_log_odds`` beside the behaviour.
    """
    plain = asdict(before)
    return {
        **after,
        **{f"delta_{name}": after[name] - plain[name] for name in CHANGES},
    }


def collect(
    run: Run,
    task: Task,
    pairs: list[Pair],
    accuracies: dict[str, float],
) -> dict[str, Any]:
    """Collect everything a run measured, for ``results.json``.

    Args:
        run: Settings and documents.
        task: Base model.
        pairs: Probes and targets.
        accuracies: Clean accuracy after each epoch of the base model.

    Returns:
        The JSON value of ``results.json``.
    """
    config, store = run.config, run.store
    probes = [(pair.probe, pair.target) for pair in pairs]
    befores = behaviours(task, run.test, probes)
    rows = [
        {
            **asdict(pair),
            "before": asdict(before),
            "arms": {arm: _arm(run, pair, arm, before) for arm in config.arms},
        }
        for pair, before in zip(pairs, befores, strict=True)
    ]
    base_accuracy = accuracies[str(config.train.epochs)]
    summary = _summary(run, rows) if rows else {}
    edited = [row["arms"]["edit"]["accuracy"] for row in rows]
    after = sum(edited) / len(edited) if edited else None
    return {
        "preset": config.preset,
        "scale": config.scale,
        "n_pairs": len(pairs),
        "seeds": [config.seed],
        "clean_accuracy": {"before": base_accuracy, "after": after},
        "accuracy_by_epoch": accuracies,
        **summary,
        "base_sha256": store.sha256(checkpoint_file(config.train.epochs)),
        "data_sha256": run.data_sha256,
        "num_documents": {"train": len(run.train), "test": len(run.test)},
        "levels": run.train.levels,
        "valid": run.train.valid,
        "class_names": run.preset.class_names,
        "threads": config.threads,
        "environment": environment(),
        "config": _without_folders(as_plain(config)),
        "pairs": rows,
    }


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """Keep the names of folders only: results are published, ``config.yaml`` is not."""
    source, base = config["data"]["source"], config["base"]
    return {
        **config,
        "data": {**config["data"], "source": _last_part(source)},
        "base": None if base is None else _last_part(base),
    }


def _last_part(place: str) -> str:
    return Path(place).resolve().name if Path(place).is_dir() else place


def _arm(run: Run, pair: Pair, arm: Arm, before: Behaviour) -> dict[str, Any]:
    stored = run.store.read_json(job_file(arm, pair))
    index = pair.index if arm == "clean_replay" else 0
    row = {
        **change(before, stored["behaviours"][index]),
        **{name: stored[name] for name in KEPT},
        "base_sha256": run.store.sha256(checkpoint_file(run.config.train.epochs)),
    }
    if arm == "clean_replay":
        return {**row, "predicted": 0.0, "documents": 0, "reached": None}
    facts = run.store.read_json(pair.file("edits", ".json"))[arm]
    manifest = facts["manifest"]
    reached = {
        norm: max(entry["reached"][norm] for entry in manifest)
        for norm in ("linf", "l2")
    }
    return {
        **row,
        "predicted": facts["predicted"],
        "documents": len(manifest),
        "reached": reached,
    }


def _summary(run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    arms, seed = run.config.arms, run.config.seed

    def values(arm: Arm, name: str) -> list[float]:
        return [row["arms"][arm][name] for row in rows]

    def hits(arm: Arm) -> int:
        return sum(row["arms"][arm]["top1"] == row["target"] for row in rows)

    def interval(numbers: list[float]) -> dict[str, float | None]:
        return asdict(bootstrap_mean(numbers, seed=seed))

    edit = values("edit", "delta_log_p")
    return {
        "effects": {arm: interval(values(arm, "delta_log_p")) for arm in arms},
        "paired": {
            arm: interval(
                [e - c for e, c in zip(edit, values(arm, "delta_log_p"), strict=True)]
            )
            for arm in arms
            if arm in CONTROLS
        },
        "effects_p": {arm: interval(values(arm, "delta_p")) for arm in arms},
        "effects_log_odds": {
            arm: interval(values(arm, "delta_log_odds")) for arm in arms
        },
        "top1": {arm: share(hits(arm), len(rows)) for arm in arms},
        "accuracy_after": {arm: interval(values(arm, "accuracy")) for arm in arms},
        "replay_is_bit_identical": _replay_is_identical(run, rows),
        "predicted_vs_realised": {
            "rank_correlation": rank_correlation(values("edit", "predicted"), edit)
        },
    }


def _replay_is_identical(run: Run, rows: list[dict[str, Any]]) -> bool | None:
    if "clean_replay" not in run.config.arms:
        return None
    final: Params = run.store.read_tensors(checkpoint_file(run.config.train.epochs))
    model = {
        k.removeprefix("model."): v for k, v in final.items() if k.startswith("model.")
    }
    return rows[0]["arms"]["clean_replay"]["model_sha256"] == params_sha256(model)
