"""The stages of a suite as jobs: score pairs, craft for them, retrain on edits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from infusion.attribution.scores import influences
from infusion.configs import RunConfig, as_plain
from infusion.device import settle
from infusion.presets.context import Pair, Run
from infusion.presets.infuse import influence_inputs, score_file
from infusion.runs.parallel import Work
from infusion.runs.rows import Rows
from infusion.runs.store import digest, environment
from infusion.suites.crafting import craft, has_edits, solved
from infusion.suites.detection import audit_clean, missing_clean
from infusion.suites.study import Json
from infusion.suites.subjects import Home, opened, seen
from infusion.suites.trial import Change, Retraining, Trial
from infusion.suites.trial_rows import measured

_AT_ONCE = 16
"""Pairs that a job crafts for, and trainings of a job, where they run side by side."""
TOGETHER = {False: 8, True: 2 * _AT_ONCE}
"""Pairs of a block, by whether trainings are recorded."""
Todo = tuple[Pair, list[Trial]]
"""A pair with the trials that are still to do."""


@dataclass(frozen=True)
class Block:
    """Pairs that go through the stages together.

    The whole block is scored whatever is missing, and on a GPU a whole part of it is
    crafted for: what is computed in one pass rounds together, and must not depend on
    where a run was stopped.

    Attributes:
        pairs: All of them.
        left: Those with trials to do.
    """

    pairs: list[Pair]
    left: list[Todo]


@dataclass(frozen=True)
class Keep:
    """Where finished rows go.

    Attributes:
        suite: Name of the suite.
        rows: Its file.
        names: Of its trials, in their places.
        on_row: Called with each.
    """

    suite: str
    rows: Rows
    names: list[str]
    on_row: Callable[[Json], None]

    def __call__(self, stamp: Json, found: list[Json]) -> None:
        """Put rows on the disk; each keeps the place of its trial in the suite."""
        for row in found:
            place = self.names.index(row["trial"])
            whole = {**row, **stamp, "suite": self.suite, "place": place}
            self.rows.append(whole)
            self.on_row(whole)


def scores(home: Home, block: Block) -> list[Work]:
    """List jobs that score all documents for a block, a view of a base model each.

    Args:
        home: Suite folder; holds base models and curvature.
        block: Pairs.

    Returns:
        Calls to make.
    """
    return [
        Work(
            "score",
            score,
            (home, block.pairs, source, view),
            concerns=_named(_of_view(block, (source, view))),
        )
        for source, view in _views(block)
        if any(not _is_scored(seen(home, source, view), pair) for pair in block.pairs)
    ]


def score(home: Home, pairs: list[Pair], source: str, view: str) -> None:
    """Score all documents for several pairs in one pass over them, and store that.

    Args:
        home: Suite folder.
        pairs: Probes and targets; those stored already are scored again beside them.
        source: Architecture of the base model.
        view: See :func:`infusion.suites.subjects.seen`.
    """
    settle(home.config.device, 1)
    _, task = opened(home, source)
    run = seen(home, source, view)
    found = influences(
        task,
        run.train,
        [solved(home, run, task, pair) for pair in pairs],
        batch_size=run.config.curvature.batch_size,
    )
    for pair, each in zip(pairs, found.unbind(), strict=True):
        made = {"influence": each.clone()}
        run.store.tensors(score_file(run, pair), influence_inputs(run, pair), made.copy)


def crafts(home: Home, block: Block) -> list[Work]:
    """List jobs that craft what a block lacks, view by view.

    Args:
        home: Suite folder; holds scores, less those that were given up.
        block: Pairs.

    Returns:
        Calls to make.
    """
    works = []
    for source, view in _views(block):
        run = seen(home, source, view)
        scored = [pair for pair in block.pairs if _is_scored(run, pair)]
        for part in parts(home, scored):
            lacking = [
                (pair, trial)
                for pair, trial in _of_view(block, (source, view))
                if pair in part and not has_edits(run, pair, trial.change)
            ]
            if lacking:
                absent = dict.fromkeys(trial.change for _, trial in lacking)
                given = home, part, list(absent)
                named = _named(lacking)
                works.append(Work("craft", craft, given, concerns=named))
    return works


def clean_audits(home: Home, block: Block) -> list[Work]:
    """List jobs that audit what nobody changed, for nulls of the audited trials.

    Args:
        home: Suite folder; holds the clean replays.
        block: Pairs.

    Returns:
        Calls to make.
    """
    missing = missing_clean(home, _each(block))
    return [
        Work("clean audits", audit_clean, (home, works), concerns=_named(works))
        for works in missing
    ]


def retrainings(home: Home, block: Block, keep: Keep, *, gives_up: bool) -> list[Work]:
    """List jobs that retrain on every edit of a block and measure, the longest first.

    Args:
        home: Suite folder; holds edits.
        block: Pairs.
        keep: Where rows go.
        gives_up: Whether edits may be missing, which are then left out.

    Returns:
        Calls to make.
    """
    work = _each(block)
    if gives_up:
        work = [each for each in work if _is_made(home, *each)]
        dark = [each for group in missing_clean(home, work) for each in group]
        work = [each for each in work if each not in dark]

    def epochs(each: tuple[Pair, Trial]) -> int:
        spec = each[1].retraining
        return epochs_of(home.run(spec.architecture), spec)

    work.sort(key=epochs, reverse=True)
    on_result = partial(keep, _stamp(home.config))
    return [
        Work("retrain", measured, (home, part), on_result, _named(part))
        for part in parts(home, work)
    ]


def parts(home: Home, works: list[Any]) -> list[list[Any]]:
    """Deal out one per job, or as many as run side by side on a GPU.

    Args:
        home: Suite folder.
        works: Pairs, or trainings.

    Returns:
        Those of each job.
    """
    size = _AT_ONCE if home.run(home.config.architecture).is_recorded else 1
    return [works[i : i + size] for i in range(0, len(works), size)]


def epochs_of(run: Run, spec: Retraining) -> int:
    """Count the epochs of a retraining: the longest go first, none ends alone.

    Args:
        run: Settings.
        spec: How it is retrained.

    Returns:
        Epochs.
    """
    whole = run.config.train.epochs
    return (whole if spec.order == "scratch" else spec.epochs) + spec.further


def _each(block: Block) -> list[tuple[Pair, Trial]]:
    return [(pair, trial) for pair, listed in block.left for trial in listed]


def _of_view(block: Block, view: tuple[str, str]) -> list[tuple[Pair, Trial]]:
    return [each for each in _each(block) if _view(each[1].change) == view]


def _named(works: list[tuple[Pair, Trial]]) -> tuple[tuple[int, str], ...]:
    return tuple((pair.index, trial.name) for pair, trial in works)


def _view(change: Change) -> tuple[str, str]:
    return change.source, change.view


def _views(block: Block) -> list[tuple[str, str]]:
    return sorted({_view(trial.change) for _, trial in _each(block)})


def _is_scored(run: Run, pair: Pair) -> bool:
    return run.store.has(score_file(run, pair), influence_inputs(run, pair))


def _is_made(home: Home, pair: Pair, trial: Trial) -> bool:
    """Tell whether scoring or crafting did not give the pair up."""
    change = trial.change
    run = seen(home, *_view(change))
    return _is_scored(run, pair) and has_edits(run, pair, change)


def _stamp(config: RunConfig) -> Json:
    """Say what every row of a folder has in common."""
    here = environment()
    rounding = replace(config.curvature, batch_size=1)
    decides = {"train": as_plain(config.train), "curvature": as_plain(rounding)}
    return {
        "preset": config.preset,
        "scale": config.scale,
        "seed": config.seed,
        "processor": here["processor"],
        "gpu": here["gpu"],
        "cores": here["cores"],
        "settings_sha256": digest(decides),
    }
