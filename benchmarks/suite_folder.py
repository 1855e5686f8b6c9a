"""One trial of the folder of a suite: how both benchmarks of the defence begin."""

from dataclasses import replace
from pathlib import Path

from infusion.presets.context import Pair, Run
from infusion.runs.config_files import from_yaml
from infusion.suites.crafting import edit_file
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, opened
from infusion.suites.trial import Trial


def made(folder: Path, name: str) -> tuple[Run, Trial, list[Pair]]:
    """Open a trial of the suite ``detection`` and the pairs whose edits are stored.

    Args:
        folder: Of the suite.
        name: Of the trial.

    Returns:
        Settings and documents, the trial, and the pairs in their drawn order.
    """
    config = from_yaml((folder / "config.yaml").read_text())
    run, task = opened(Home(folder, replace(config, pairs=0)), config.architecture)
    study = study_of(run)
    trial = next(t for t in study.trials("detection", run) if t.name == name)
    pairs = [
        pair
        for pair in study.pairs(run, task)
        if run.store.is_finished(edit_file(pair, trial.change, ".safetensors"))
    ]
    return run, trial, pairs
