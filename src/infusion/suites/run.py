"""Run a suite in a folder; more pairs can be added to it later, row by row."""

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from infusion.attribution.scores import influences
from infusion.configs import RunConfig, as_plain
from infusion.device import settle
from infusion.errors import ArtefactError, InfusionError, InputError, check_whole
from infusion.presets.base import check_taken
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.infuse import influence_inputs, score_file
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import (
    alone_in,
    refuse_other_config,
    refuse_other_environment,
)
from infusion.runs.parallel import Engine, Failed, processes
from infusion.runs.progress import progress
from infusion.runs.rows import Rows
from infusion.runs.store import RECORD, digest, environment
from infusion.suites.crafting import craft, has_edits, solved
from infusion.suites.detection import audit_clean, missing_clean
from infusion.suites.retrainings import is_replayed, replay
from infusion.suites.site import NOBODY, Follow, Site
from infusion.suites.study import study_of
from infusion.suites.subjects import Home, fitted, opened, seen
from infusion.suites.trial import Retraining, Trial
from infusion.suites.trial_rows import measured

_TOGETHER = 8
"""Pairs scored, crafted and retrained before the next ones start."""
_AT_ONCE = 16
"""Pairs that a job crafts for, and trainings of a job, where they run side by side."""
Work = list[tuple[Pair, list[Trial]]]
"""Pairs with the trials that are still to do."""


def run_suite(
    config: RunConfig,
    suite: str,
    root: Path,
    *,
    only: str = "*",
    engine: Engine | None = None,
    follow: Follow = NOBODY,
) -> list[dict[str, Any]]:
    """Run a suite on the first pairs and add what its folder does not hold yet.

    Args:
        config: Settings of the base model and of the edit that the suite varies;
            ``pairs`` says how many of the pairs that there are.
        suite: One of :data:`infusion.suites.study.NAMES`.
        root: Suite folder, shared by all suites of these settings; refused if it was
            started with others.
        only: Pattern of the names of trials to run now, like a file name's with ``*``.
        engine: Where jobs run and whether failed ones are tried again; as many
            processes as the settings have threads, and nothing twice, unless given.
        follow: Who watches.

    Returns:
        All rows of the suite in that folder.

    Raises:
        InputError: Wrong settings, unusable data, more pairs than there are, or no
            trial of such a name.
        ArtefactError: The folder was altered or holds other trials.
        DivergedError: A training, a score or an edit became NaN or infinite.
    """
    check_whole("pairs", config.pairs)
    home = Home(root, replace(config, pairs=0))
    begun = (root / "config.yaml").exists()
    if begun:  # before documents are read
        refuse_other_config(root, to_yaml(home.config))
    listed = _listed(home, suite)
    wanted = _wanted(home, listed, only)
    if not begun:
        check_taken(home.run(config.architecture))
        refuse_other_config(root, to_yaml(home.config))
    refuse_other_environment(root)
    settle(config.device)
    torch.set_num_threads(config.threads)
    workers = config.threads if config.device == "cpu" else 1
    with alone_in(root), processes(1 if engine else workers) as backend:
        site = Site(home, engine or Engine(backend), follow)
        return _run_suite(site, suite, config.pairs, listed, wanted)


def _run_suite(
    site: Site, suite: str, pairs: int, listed: list[Trial], wanted: list[Trial]
) -> list[dict[str, Any]]:
    home = site.home
    config, root, own = home.config, home.root, home.run(home.config.architecture)
    _prepare(home, wanted)
    bases = {config.architecture: own.store.sha256(_last(own))}
    whole = study_of(own).pairs(*opened(home, config.architecture))
    if pairs > len(whole):
        raise InputError(
            f"pairs must be ≤ {len(whole)}, as many as there are, got {pairs}; "
            "ask for fewer, or for other base models with --seed"
        )
    inputs = digest({"config": as_plain(home.config), "bases": bases})
    rows = _rows(root, suite, inputs)
    _refuse_other_trials(rows.path, rows.read(), listed)
    _replays(site, wanted)
    _take_over(root, suite, rows, listed, whole[:pairs])
    done = rows.read()
    left = [
        (pair, [t for t in wanted if (pair.index, t.name) not in done])
        for pair in whole[:pairs]
    ]
    left = [(pair, missing) for pair, missing in left if missing]
    size = 2 * _AT_ONCE if own.is_recorded else _TOGETHER
    for block in range(0, len(whole), size):
        together = whole[block : block + size]
        chunk = [(pair, missing) for pair, missing in left if pair in together]
        if chunk and not site.engine.stopped():
            _craft(site, chunk, together)
            _audit_clean(site, chunk)
            _retrain(site, suite, chunk, rows, [trial.name for trial in listed])
    _write_manifests(home, wanted)
    return list(rows.read().values())


def _listed(home: Home, suite: str) -> list[Trial]:
    main = home.run(home.config.architecture)
    return study_of(main).trials(suite, main)


def _wanted(home: Home, listed: list[Trial], only: str) -> list[Trial]:
    """Take the trials asked for, and refuse what would only fail after hours."""
    config = home.config
    main = home.run(config.architecture)
    wanted = [trial for trial in listed if fnmatchcase(trial.name, only)]
    if not wanted:
        names = "; ".join(trial.name for trial in listed)
        raise InputError(
            f"--only must match the name of a trial, got {only!r}; there are: {names}"
        )
    study_of(main).check(main, wanted)
    whole = config.train.epochs  # from an initialisation, which needs no checkpoint
    longest = max((e for t in wanted if (e := t.retraining.epochs) < whole), default=1)
    if longest > 1 and config.base is not None:
        raise InputError(
            f"retraining of {longest} epochs needs the checkpoints of all of them, got "
            "a --base that holds the last two; drop --base"
        )
    return wanted


def _rows(root: Path, suite: str, inputs_sha256: str) -> Rows:
    path = root / "rows" / f"{suite}.jsonl"
    return Rows(path, ("pair", "trial"), inputs_sha256)


def _take_over(
    root: Path, suite: str, rows: Rows, listed: list[Trial], pairs: list[Pair]
) -> None:
    """Copy rows of trials that another suite of the folder has done already."""
    known: dict[tuple[int, str], dict[str, Any]] = {}
    for other in {path.stem for path in rows.path.parent.glob("*.jsonl")} - {suite}:
        for row in _rows(root, other, rows.inputs_sha256).read().values():
            known[row["pair"], digest([row["change"], row["retraining"]])] = row
    done = rows.read()
    for pair in pairs:
        for place, trial in enumerate(listed):
            plain = _plain(trial)
            found = known.get(
                (pair.index, digest([plain["change"], plain["retraining"]]))
            )
            if found is None or (pair.index, trial.name) in done:
                continue
            asked = {"audit"} if trial.audited else set()
            if trial.portrait and pair.index == 0:
                asked |= {"portrait"}
            if asked <= set(found):
                own = {"suite": suite, "trial": trial.name, "place": place}
                rows.append({**found, **own})


def _refuse_other_trials(
    path: Path, done: dict[Any, dict[str, Any]], listed: list[Trial]
) -> None:
    """Refuse rows of a trial that meant something else when they were written."""
    now = {trial.name: _plain(trial) for trial in listed}
    for row in done.values():
        then = {name: row[name] for name in ("change", "retraining")}
        if now.get(row["trial"]) != then:
            raise ArtefactError(
                f"{path} must hold rows of this suite's trials, got others under "
                f"{row['trial']!r}; choose another --out or remove the file"
            )


def _plain(trial: Trial) -> dict[str, Any]:
    parts = {name: as_plain(getattr(trial, name)) for name in ("change", "retraining")}
    return json.loads(json.dumps(parts))


def _last(run: Run) -> str:
    return checkpoint_file(run.config.train.epochs)


def _prepare(home: Home, listed: list[Trial]) -> None:
    """Train the base models of the suite, and fit the curvature of its sources."""
    sources = {(trial.change.source, trial.change.view) for trial in listed}
    trained = {trial.retraining.architecture for trial in listed}
    names = {name for name, _ in sources} | trained | {home.config.architecture}
    for name in sorted(names):
        opened(home, name)
        torch.set_num_threads(home.config.threads)
        for view in sorted(view for source, view in sources if source == name):
            fitted(home, name, view)


def _replays(site: Site, listed: list[Trial]) -> None:
    """Retrain on clean documents in every mode of the suite, once for all pairs."""
    home = site.home
    study = study_of(home.run(home.config.architecture))
    specs = [trial.retraining for trial in listed]
    specs += [spec for trial in listed for spec in study.members(trial.change)]
    missing = [
        spec
        for spec in dict.fromkeys(specs)
        if not is_replayed(home.run(spec.architecture), spec)
    ]
    missing.sort(key=lambda spec: -_epochs(home.run(spec.architecture), spec))
    failed = _side_by_side(site, "clean replays", replay, _jobs(home, missing))
    if failed:
        raise InfusionError(f"nothing can be compared: {failed[0].error}")


def _jobs(home: Home, works: list[Any]) -> list[tuple[Home, list[Any]]]:
    """Deal out trainings: one per job, or as many as run side by side."""
    return [(home, part) for part in _parts(home, works)]


def _parts(home: Home, works: list[Any]) -> list[list[Any]]:
    size = _AT_ONCE if home.run(home.config.architecture).is_recorded else 1
    return [works[i : i + size] for i in range(0, len(works), size)]


def _epochs(run: Run, spec: Retraining) -> int:
    """Count the epochs of a retraining: the longest go first, none ends alone."""
    whole = run.config.train.epochs
    return (whole if spec.order == "scratch" else spec.epochs) + spec.further


def _side_by_side(
    site: Site, label: str, job: Any, arguments: list[tuple[Any, ...]], **more: Any
) -> list[Failed]:
    if not arguments:
        return []
    with site.home.run(site.home.config.architecture).timed(label):
        failed = site.engine(label, job, arguments, **more)
    for each in failed:
        site.follow.on_failed(each)
    return failed


def _craft(site: Site, chunk: Work, together: list[Pair]) -> None:
    """Score a block of pairs together and craft what is missing, view by view.

    The whole block is scored whatever is missing, and on a GPU a whole part of it is
    crafted: what is computed in one pass rounds together, and must not depend on where
    a run was stopped.
    """
    home, jobs = site.home, []
    changes = [trial.change for _, listed in chunk for trial in listed]
    for source, view in sorted({(change.source, change.view) for change in changes}):
        run = seen(home, source, view)
        wanted = {
            pair: [
                t.change
                for t in listed
                if (t.change.source, t.change.view) == (source, view)
            ]
            for pair, listed in chunk
        }
        if any(wanted.values()):
            _score(home, run, together)
        for part in _parts(home, together):
            absent = {
                change: None
                for pair in part
                for change in wanted.get(pair, [])
                if not has_edits(run, pair, change)
            }
            if absent:
                jobs.append((home, part, list(absent)))
    _side_by_side(site, "craft", craft, jobs)


def _audit_clean(site: Site, chunk: Work) -> None:
    """Audit what nobody changed, for the nulls of the trials that are audited."""
    works = [(pair, trial) for pair, listed in chunk for trial in listed]
    jobs = [(site.home, works) for works in missing_clean(site.home, works)]
    _side_by_side(site, "clean audits", audit_clean, jobs)


def _score(home: Home, run: Run, pairs: list[Pair]) -> None:
    """Score all documents for several pairs in one pass over them."""
    missing = [
        pair
        for pair in pairs
        if not run.store.has(score_file(run, pair), influence_inputs(run, pair))
    ]
    if not missing:
        return
    _, task = opened(home, run.config.architecture)
    torch.set_num_threads(home.config.threads)  # sums round by it
    with run.timed("score"), progress("score", len(run.train)) as advance:
        ihvps = [solved(home, run, task, pair) for pair in pairs]
        found = influences(
            task,
            run.train,
            ihvps,
            batch_size=run.config.curvature.batch_size,
            on_batch=advance,
        )
    for pair, scores in zip(pairs, found.unbind(), strict=True):
        made = {"influence": scores.clone()}
        run.store.tensors(score_file(run, pair), influence_inputs(run, pair), made.copy)


def _retrain(site: Site, suite: str, chunk: Work, rows: Rows, names: list[str]) -> None:
    """Retrain on every edit; each row keeps the place of its trial in the suite."""

    def keep(found: list[dict[str, Any]]) -> None:
        for row in found:
            whole = {**row, **stamp, "place": names.index(row["trial"])}
            rows.append(whole)
            site.follow.on_row(whole)

    home = site.home
    config, here = home.config, environment()
    stamp = {
        "suite": suite,
        "preset": config.preset,
        "scale": config.scale,
        "seed": config.seed,
        "processor": here["processor"],
        "gpu": here["gpu"],
        "cores": here["cores"],
        "settings_sha256": _settings(config),
    }
    work = [(pair, trial) for pair, listed in chunk for trial in listed]
    if site.engine.retries is not None:  # less what was given up on the way
        work = [each for each in work if _is_made(home, *each)]
        dark = [each for group in missing_clean(home, work) for each in group]
        work = [each for each in work if each not in dark]
    work.sort(
        key=lambda w: -_epochs(home.run(w[1].retraining.architecture), w[1].retraining)
    )
    _side_by_side(site, "retrain", measured, _jobs(home, work), on_result=keep)


def _is_made(home: Home, pair: Pair, trial: Trial) -> bool:
    """Tell whether crafting did not give the pair up."""
    change = trial.change
    return has_edits(seen(home, change.source, change.view), pair, change)


def _settings(config: RunConfig) -> str:
    """Hash what decides a trial beside its change: recipe, Fisher, damping."""
    rounding = replace(config.curvature, batch_size=1)
    return digest({"train": as_plain(config.train), "curvature": as_plain(rounding)})


def _write_manifests(home: Home, listed: list[Trial]) -> None:
    """List every edit of the folder, source by source, so that it can be undone."""
    for source in sorted({trial.change.source for trial in listed}):
        store = home.run(source).store
        lines = []
        for path in sorted((store.root / "edits").glob("pair-*.json")):
            if not path.name.endswith(RECORD):
                name = f"edits/{path.name}"
                for entry in store.read_json(name)["manifest"]:
                    lines.append(
                        json.dumps({"edit": path.stem, **entry}, sort_keys=True)
                    )
        store.derive("edits/manifest.jsonl", "".join(f"{x}\n" for x in lines).encode())
