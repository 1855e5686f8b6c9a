"""Trials: retrain on their edits and measure, beside the clean replays."""

import time
from dataclasses import replace
from typing import Any

import torch

from infusion.configs import as_plain
from infusion.device import settle
from infusion.params import params_sha256
from infusion.presets.context import Pair, checkpoint_file
from infusion.records import Task
from infusion.suites.crafting import edit_file, read_edits
from infusion.suites.detection import audited
from infusion.suites.retrainings import (
    replay_file,
    replayed,
    retrained_together,
    training_of,
)
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, opened, seen
from infusion.suites.trial import Trial


def measured(home: Home, works: list[tuple[Pair, Trial]]) -> list[dict[str, Any]]:
    """Retrain on the edits of a few trials, together, and measure their pairs.

    Args:
        home: Suite folder; holds the edits and the clean replays of these modes.
        works: Probe and target, and what to retrain on which change.

    Returns:
        A row each: behaviour of the base model, after a clean replay and after the
        edit. ``seconds`` is the share of one.
    """
    settle(home.config.device, 1)
    edits = [
        read_edits(opened(home, trial.change.source)[0], pair, trial.change)
        for pair, trial in works
    ]
    runs = [opened(home, trial.retraining.architecture)[0] for _, trial in works]
    began, trainings = time.monotonic(), []
    for run, (_, trial), each in zip(runs, works, edits, strict=True):
        placed = replace(run, train=run.placed)
        change, data = study_of(run).training(placed, each)
        training = training_of(run, trial.retraining, data, change)
        trainings.append((run, training, trial.retraining))
    tasks = retrained_together(trainings)
    seconds = (time.monotonic() - began) / len(works)
    return [
        {
            **_row(home, pair, trial, task),
            **(
                {"audit": audited(home, pair, trial, each, task)}
                if trial.audited
                else {}
            ),
            "seconds": round(seconds, 2),
        }
        for (pair, trial), each, task in zip(works, edits, tasks, strict=True)
    ]


def _row(home: Home, pair: Pair, trial: Trial, after: Task) -> dict[str, Any]:
    source, _ = opened(home, trial.change.source)
    run, base = opened(home, trial.retraining.architecture)
    facts = source.store.read_json(edit_file(pair, trial.change, ".json"))
    clean = run.store.read_json(replay_file(trial.retraining, ".json"))
    viewed = seen(home, trial.retraining.architecture, trial.change.view)
    study = study_of(run)
    tasks = {"before": base, "clean": replayed(run, trial.retraining), "after": after}
    portrait = {}
    if trial.portrait and pair.index == 0:
        drawn = {name: study.portrait(viewed, task) for name, task in tasks.items()}
        portrait = {"portrait": drawn}
    return {
        "pair": pair.index,
        "probe": pair.probe,
        "label": pair.label,
        "target": pair.target,
        "trial": trial.name,
        "change": as_plain(trial.change),
        "retraining": as_plain(trial.retraining),
        **{name: study.behaviour(viewed, task, pair) for name, task in tasks.items()},
        **portrait,
        "accuracy": study.accuracy(run, after),
        "clean_accuracy": clean["accuracy"],
        **{name: value for name, value in facts.items() if name != "manifest"},
        "base_sha256": run.store.sha256(checkpoint_file(run.config.train.epochs)),
        "model_sha256": params_sha256(after.model.state_dict()),
        "threads": torch.get_num_threads(),
    }
