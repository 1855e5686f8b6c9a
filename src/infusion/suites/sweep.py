"""A suite on many base models, on any number of workers, through faults."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infusion.configs import RunConfig
from infusion.errors import (
    ArtefactError,
    InfusionError,
    InputError,
    TooFewPairsError,
    check_whole,
    one_line,
)
from infusion.presets import find_preset
from infusion.presets.texts import texts_of
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import alone_in, check_out, refuse_other_config
from infusion.runs.parallel import Backend, Engine, Failed, LostPlaceError
from infusion.runs.rows import cut_off_torn, sealed
from infusion.runs.store import write_whole
from infusion.suites.read import read_rows
from infusion.suites.run import run_suite
from infusion.suites.site import Follow
from infusion.suites.study import check_suite, study_of
from infusion.suites.subjects import Home
from infusion.suites.summary import Row, moved
from infusion.suites.tally import Tally, Watch

RESULTS, TIMES, FAILURES = "results.jsonl", "times.jsonl", "failures.jsonl"
KEY = ("seed", "pair", "place")
"""What rows are sorted by."""
FAILED = ("seed", "pair", "trial")
"""What was given up; the last two are None where a base model was."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep is to do.

    Attributes:
        config: Settings, without a base model's seed.
        suite: Name of the suite.
        seeds: Of base models.
        retries: How often a failed job is tried again.
        budget: Seconds after which nothing is begun any more; None for no end.
        narrow: Half-width of the first trial's interval at which nothing is begun any
            more, from :data:`infusion.suites.tally.FEWEST` pairs on; None for all
            pairs. An interval that ended its own sweep is narrower than it should be.
    """

    config: RunConfig
    suite: str
    seeds: tuple[int, ...]
    retries: int = 2
    budget: float | None = None
    narrow: float | None = None

    def __post_init__(self) -> None:
        """Refuse what would only fail later.

        Raises:
            InputError: A setting is out of its range, or there is no such preset or
                suite.
        """
        check_whole("--pairs", self.config.pairs)
        check_suite(self.config.preset, self.suite)
        for name in ("retries", "budget", "narrow"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"--{name} must be ≥ 0, got {value}; choose another")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise InputError(
                f"--seeds must be some, all different, got {self.seeds}; name each once"
            )
        for seed in self.seeds:
            check_whole("--seeds", seed, least=0)

    @property
    def settings(self) -> str:
        """What the folder of the sweep is started with, and keeps."""
        named = to_yaml(replace(self.config, pairs=0, seed=0))
        return f"{named}# suite: {self.suite}\n"

    @property
    def expected(self) -> int:
        """Rows of the whole sweep; loads the documents and writes nothing."""
        home = Home(Path(), replace(self.config, pairs=0))
        run = home.run(self.config.architecture)
        trials = study_of(run).trials(self.suite, run)
        return len(self.seeds) * self.config.pairs * len(trials)


def sweep(
    asked: Sweep,
    root: Path,
    backend: Backend,
    *,
    on_change: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Run a suite on every base model and write what came out.

    Rows are on the disk as they finish, in the folder of their base model; a sweep that
    was killed does only what is missing when it is run again.

    Args:
        asked: What to do.
        root: Folder; gets ``seed-N`` for each base model, ``results.jsonl`` sorted by
            seed, pair and trial, ``times.jsonl`` and ``failures.jsonl``.
        backend: Where jobs run.
        on_change: Called with what is done after each finished row or failed job.

    Returns:
        What is done.

    Raises:
        InputError: More pairs than there are, or a folder of something else.
        ArtefactError: Rows in it were altered or are missing.
    """
    check_folder(asked, root)
    refuse_other_config(root, asked.settings)
    watch = Watch(
        measure=measured(asked.config),
        budget=asked.budget,
        narrow=asked.narrow,
        on_change=on_change,
    )
    tally = watch.tally
    engine = Engine(backend, asked.retries, watch.stopped, watch.on_running)
    with alone_in(root):
        refuse_other_config(root, asked.settings)  # two may have begun it at once
        watch.start(_stored(asked, root))
        with _written(asked, root, tally):
            for seed in asked.seeds:
                if not watch.stopped():
                    _run_seed(asked, root, seed, engine=engine, watch=watch)
    _check_whole(asked, root, tally)
    return tally


def check_folder(asked: Sweep, root: Path) -> None:
    """Refuse a folder that is not for this sweep, and write nothing.

    Args:
        asked: What to do.
        root: The folder, there or not.

    Raises:
        InputError: It is a file, belongs to other settings, or holds results that no
            sweep wrote.
    """
    check_out(root)
    if (root / "config.yaml").exists():
        refuse_other_config(root, asked.settings)
        return
    for name in (RESULTS, TIMES, FAILURES):
        if (root / name).exists():
            raise InputError(
                f"--out must name a new folder or one of a sweep, got {root} with a "
                f"{name} and no config.yaml; choose another"
            )


@contextmanager
def _written(asked: Sweep, root: Path, tally: Tally) -> Iterator[None]:
    """Write results in the end, unless what was asked or found there is refused."""
    try:
        yield
    except (InputError, ArtefactError):
        raise
    except BaseException:
        tally.rows = _stored(asked, root)
        write(root, tally)
        raise
    tally.rows = _stored(asked, root)
    tally.failed = write(root, tally)


def _check_whole(asked: Sweep, root: Path, tally: Tally) -> None:
    """Refuse to call done what lacks rows that nothing accounts for."""
    expected = asked.expected
    bases = {each["seed"] for each in tally.failed if each["trial"] is None}
    known = sum(each["seed"] not in bases for each in (*tally.rows, *tally.failed))
    known += len(bases) * expected // len(asked.seeds)
    if not tally.reason and known < expected:
        raise ArtefactError(
            f"a sweep must end with {expected} rows or failures, got {known} in "
            f"{root}: rows of others are among them; restore its rows, or choose "
            "another --out"
        )


def _run_seed(
    asked: Sweep, root: Path, seed: int, *, engine: Engine, watch: Watch
) -> None:
    """Run the suite on one base model; what ends it leaves the others alone."""
    tally, attempts = watch.tally, 1

    def on_failed(failed: Failed) -> None:
        nonlocal attempts
        tally.failed += _failures(seed, failed)
        if not failed.work.concerns:  # a clean replay, which ends the suite
            attempts = failed.attempts

    def given_up(error: InfusionError) -> None:
        said = {"stage": "base model", "error": one_line(error), "attempts": attempts}
        tally.failed.append({**said, "seed": seed, "pair": None, "trial": None})

    config, follow = replace(asked.config, seed=seed), Follow(watch.on_row, on_failed)
    home = root / f"seed-{seed}"
    try:
        run_suite(config, asked.suite, home, engine=engine, follow=follow)
    except (InputError, ArtefactError, LostPlaceError) as error:
        first = seed == asked.seeds[0]  # whose want of pairs is told at once
        if first or not isinstance(error, TooFewPairsError):
            raise
        given_up(error)
    except InfusionError as error:
        given_up(error)


def _stored(asked: Sweep, root: Path) -> list[Row]:
    """Read what is on the disk of the pairs asked for."""
    name = asked.config.preset, asked.config.scale, asked.suite
    found: list[Row] = []
    for seed in asked.seeds:
        home = root / f"seed-{seed}"
        for path in home.glob("rows/*.jsonl"):
            cut_off_torn(path)
        for group, rows in read_rows(home).items():
            files = {row["source"] for row in rows}
            seeds = {row["seed"] for row in rows}
            if files != {f"rows/{group[2]}.jsonl"} or seeds != {seed}:
                raise ArtefactError(
                    f"{home} must hold rows of seed {seed}, those of a suite in its "
                    "file, got others; restore its rows, or choose another --out"
                )
            found += rows if group == name else []
    return [
        {key: value for key, value in row.items() if key != "source"}
        for row in found
        if row["pair"] < asked.config.pairs
    ]


def measured(config: RunConfig) -> Callable[[Row], float]:
    """Say what a table of this preset shows first: Δp of pictures.

    Args:
        config: Settings.

    Returns:
        Function of a row.
    """
    if find_preset(config.preset).kind == "pictures":
        return moved
    return next(iter(texts_of(config.preset).columns.values()))


def write(root: Path, tally: Tally) -> list[dict[str, Any]]:
    """Write results sorted, times and failures apart.

    Args:
        root: Folder of the sweep.
        tally: What is done.

    Returns:
        Failures that no row made good.
    """
    rows = sorted(tally.rows, key=lambda row: tuple(row[name] for name in KEY))
    timed = [_apart(row) for row in rows]
    done = {tuple(row[name] for name in FAILED) for row in rows}
    failed = [
        each
        for each in tally.failed
        if tuple(each[name] for name in FAILED) not in done
    ]
    failed.sort(key=lambda each: json.dumps(each, sort_keys=True))
    files = {
        RESULTS: [result for result, _ in timed],
        TIMES: [times for _, times in timed],
        FAILURES: failed,
    }
    for name, lines in files.items():
        text = "".join(json.dumps(sealed(line)) + "\n" for line in lines)
        write_whole(root / name, text.encode())
    return failed


def _apart(row: Row) -> tuple[Row, Row]:
    """Take times out of a row."""
    plain, times = dict(row), {"seconds": row["seconds"]}
    del plain["seconds"]
    if "audit" in row:
        plain["audit"] = dict(row["audit"])
        times["audit_seconds"] = plain["audit"].pop("seconds")
    key = {name: row[name] for name in ("seed", "pair", "trial")}
    return plain, {**key, **times}


def _failures(seed: int, failed: Failed) -> list[dict[str, Any]]:
    """List a failed job trial by trial.

    A clean replay is of none: the base model's failure is recorded after it.

    Args:
        seed: Of the base model.
        failed: The job.

    Returns:
        JSON values.
    """
    said = {
        "stage": failed.work.stage,
        "error": failed.error,
        "attempts": failed.attempts,
        "seed": seed,
    }
    concerns = failed.work.concerns
    return [{**said, "pair": pair, "trial": trial} for pair, trial in concerns]
