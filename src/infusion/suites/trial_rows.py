"""One trial of one pair: retrain on its edits and measure, beside the clean replay."""

import time
from typing import Any

import torch

from infusion.configs import as_plain
from infusion.params import params_sha256
from infusion.presets.context import Pair, checkpoint_file
from infusion.suites.crafting import edit_file, read_edits
from infusion.suites.retrainings import replay_file, replayed, retrained
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, opened, seen
from infusion.suites.trial import Trial


def measured(home: Home, pair: Pair, trial: Trial) -> dict[str, Any]:
    """Retrain on a trial's edits and measure the pair.

    Args:
        home: Suite folder; holds the edits and the clean replay of this mode.
        pair: Probe and target.
        trial: What to retrain, on which change.

    Returns:
        A row: behaviour of the base model, after a clean replay and after the edit.
    """
    torch.set_num_threads(1)
    source, _ = opened(home, trial.change.source)
    run, base = opened(home, trial.retraining.architecture)
    edits = read_edits(source, pair, trial.change)
    facts = source.store.read_json(edit_file(pair, trial.change, ".json"))
    clean = run.store.read_json(replay_file(trial.retraining, ".json"))
    viewed = seen(home, trial.retraining.architecture, trial.change.view)
    began, study = time.monotonic(), study_of(run)
    change, data = study.training(run, edits)
    after = retrained(run, trial.retraining, data, change)
    seconds = time.monotonic() - began
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
        "seconds": round(seconds, 2),
    }
