"""Run a suite in a folder; more pairs can be added to it later, row by row."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from infusion.config_files import to_yaml
from infusion.configs import RunConfig
from infusion.parallel import side_by_side
from infusion.presets.checks import check
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.rows import Rows
from infusion.run_folder import refuse_other_config, refuse_other_environment
from infusion.scores import influences
from infusion.store import digest, environment
from infusion.suites.crafting import (
    craft,
    has_edits,
    score_file,
    score_inputs,
    solved,
)
from infusion.suites.subjects import Home, class_pairs, fitted, opened
from infusion.suites.trial_rows import measured
from infusion.suites.trials import Retraining, Trial, trials
from infusion.suites.victims import MEMBERS, is_replayed, member, replay

_TOGETHER = 8
"""Pairs scored, crafted and retrained before the next ones start."""
Work = list[tuple[Pair, list[Trial]]]
"""Pairs with the trials that are still to do."""


def run_suite(config: RunConfig, suite: str, root: Path) -> list[dict[str, Any]]:
    """Run a suite on the first pairs and add what its folder does not hold yet.

    Args:
        config: Settings of the base model and of the edit that the suite varies;
            ``pairs`` says how many of the ninety pairs of classes.
        suite: One of :data:`infusion.suites.trials.NAMES`.
        root: Suite folder, shared by all suites of these settings; refused if it was
            started with others.

    Returns:
        All rows of the suite in that folder.

    Raises:
        InfusionError: Wrong settings, unusable data, an altered artefact, a training
            that diverged.
    """
    home = Home(root, replace(config, pairs=0))
    main = home.run(config.architecture)
    check(config, main.train, main.test)
    others = tuple(main.preset.recipes)
    listed = trials(suite, config, others, main.train.levels or 0)
    refuse_other_config(root, to_yaml(home.config))
    refuse_other_environment(root)
    torch.set_num_threads(config.threads)
    bases = _bases(home, listed)
    pairs = class_pairs(*opened(home, config.architecture))[: config.pairs]
    rows = Rows(
        root / "rows" / f"{suite}.jsonl",
        ("pair", "trial"),
        digest({"config": asdict(home.config), "bases": bases}),
    )
    _replays(home, listed)
    done = rows.read()
    left = [(p, [t for t in listed if (p.index, t.name) not in done]) for p in pairs]
    left = [(pair, missing) for pair, missing in left if missing]
    for first in range(0, len(left), _TOGETHER):
        chunk = left[first : first + _TOGETHER]
        _craft(home, chunk)
        _retrain(home, suite, chunk, rows, [trial.name for trial in listed])
    return list(rows.read().values())


def _bases(home: Home, listed: list[Trial]) -> dict[str, str]:
    """Train the base models of the suite, and fit the curvature of its sources.

    Returns:
        Architecture to the hash of its base model.
    """
    sources = {trial.change.source for trial in listed}
    victims = {trial.retraining.victim for trial in listed}
    found = {}
    for name in sorted(sources | victims | {home.config.architecture}):
        run, _ = opened(home, name)
        found[name] = run.store.sha256(checkpoint_file(run.config.train.epochs))
        if name in sources:
            fitted(home, name)
    return found


def _replays(home: Home, listed: list[Trial]) -> None:
    """Retrain on clean documents in every mode of the suite, once for all pairs."""
    specs = [trial.retraining for trial in listed]
    for trial in listed:
        if trial.change.editor == "ensemble":
            specs += [member(i, trial.change.source) for i in range(MEMBERS)]
    missing = [
        (home, spec)
        for spec in dict.fromkeys(specs)
        if not is_replayed(home.run(spec.victim), spec)
    ]
    missing.sort(key=lambda given: -_epochs(home.run(given[1].victim), given[1]))
    _side_by_side(home, "clean replays", replay, missing)


def _epochs(run: Run, spec: Retraining) -> int:
    """Count the epochs of a retraining: the longest go first, none ends alone."""
    whole = run.config.train.epochs
    return (whole if spec.order == "scratch" else spec.epochs) + spec.further


def _side_by_side(
    home: Home, label: str, job: Any, arguments: list[tuple[Any, ...]], **more: Any
) -> None:
    if not arguments:
        return
    config = home.config
    workers = config.threads if config.device == "cpu" else 1
    with home.run(config.architecture).timed(label):
        side_by_side(label, job, arguments, workers=workers, **more)


def _craft(home: Home, chunk: Work) -> None:
    """Score the pairs together and craft their edits, source by source."""
    missing = []
    for source in sorted({t.change.source for _, listed in chunk for t in listed}):
        run = home.run(source)
        wanted = {
            pair: [t.change for t in listed if t.change.source == source]
            for pair, listed in chunk
        }
        _score(home, run, [pair for pair, changes in wanted.items() if changes])
        for pair, changes in wanted.items():
            absent = [
                change
                for change in dict.fromkeys(changes)
                if not has_edits(run, pair, change)
            ]
            if absent:
                missing.append((home, pair, absent))
    _side_by_side(home, "craft", craft, missing)


def _score(home: Home, run: Run, pairs: list[Pair]) -> None:
    """Score all documents for several pairs in one pass over them."""
    missing = [
        pair
        for pair in pairs
        if not run.store.has(score_file(pair), score_inputs(run, pair))
    ]
    if not missing:
        return
    _, task = opened(home, run.config.architecture)
    with run.timed("score"):
        ihvps = [solved(home, run, task, pair) for pair in missing]
        found = influences(task, run.train, ihvps)
    for pair, scores in zip(missing, found.unbind(), strict=True):
        made = {"influence": scores.clone()}
        run.store.tensors(score_file(pair), score_inputs(run, pair), made.copy)


def _retrain(home: Home, suite: str, chunk: Work, rows: Rows, names: list[str]) -> None:
    """Retrain on every edit; each row keeps the place of its trial in the suite."""

    def keep(row: dict[str, Any]) -> None:
        rows.append({**row, **stamp, "place": names.index(row["trial"])})

    config, here = home.config, environment()
    stamp = {
        "suite": suite,
        "preset": config.preset,
        "scale": config.scale,
        "seed": config.seed,
        "processor": here["processor"],
        "gpu": here["gpu"],
        "cores": here["cores"],
    }
    work = [(home, pair, trial) for pair, listed in chunk for trial in listed]
    work.sort(key=lambda w: -_epochs(home.run(w[2].retraining.victim), w[2].retraining))
    _side_by_side(home, "retrain", measured, work, on_result=keep)
