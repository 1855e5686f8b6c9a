"""Run a suite in a folder; more pairs can be added to it later, row by row."""

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from infusion.configs import RunConfig, as_plain
from infusion.device import settle
from infusion.errors import (
    ArtefactError,
    InfusionError,
    InputError,
    TooFewPairsError,
    check_whole,
)
from infusion.presets.base import check_taken
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import (
    alone_in,
    refuse_other_config,
    refuse_other_environment,
)
from infusion.runs.parallel import Engine, Failed, Work, processes
from infusion.runs.rows import Rows
from infusion.runs.store import RECORD, digest
from infusion.suites.retrainings import is_replayed, replay
from infusion.suites.site import NOBODY, Follow, Site
from infusion.suites.stages import (
    TOGETHER,
    Block,
    Keep,
    Todo,
    clean_audits,
    crafts,
    epochs_of,
    parts,
    retrainings,
    scores,
)
from infusion.suites.study import check_suite, study_of
from infusion.suites.subjects import Home, fitted, opened
from infusion.suites.trial import Trial


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
    check_suite(config.preset, suite)
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
    settle(config.device, config.threads)
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
        raise TooFewPairsError(
            f"pairs must be ≤ {len(whole)}, as many as there are, got {pairs}; "
            "ask for fewer, or for more base models by their seeds"
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
    keep = Keep(suite, rows, [trial.name for trial in listed], site.follow.on_row)
    _pipeline(site, _blocks(home, whole, left), keep)
    _write_manifests(home, wanted)
    return list(rows.read().values())


def _blocks(home: Home, whole: list[Pair], left: list[Todo]) -> list[Block]:
    """Deal out pairs in blocks that do not depend on what is left to do."""
    size = TOGETHER[home.run(home.config.architecture).is_recorded]
    blocks = [
        Block(whole[start : start + size], []) for start in range(0, len(whole), size)
    ]
    places = {pair: place for place, pair in enumerate(whole)}
    for pair, missing in left:
        blocks[places[pair] // size].left.append((pair, missing))
    return [block for block in blocks if block.left]


def _pipeline(site: Site, blocks: list[Block], keep: Keep) -> None:
    """Score a block while the one before is crafted for and one more is retrained on.

    So workers wait at the end of a step, for one short job, and not of every stage.
    """
    for step in range(len(blocks) + 2):
        if site.engine.stopped():
            return
        works = []
        if step < len(blocks):
            works += scores(site.home, blocks[step])
        if 0 <= step - 1 < len(blocks):
            works += clean_audits(site.home, blocks[step - 1])
            works += crafts(site.home, blocks[step - 1])
        if step >= 2:
            gives_up = site.engine.retries is not None
            works += retrainings(site.home, blocks[step - 2], keep, gives_up=gives_up)
        _side_by_side(site, f"step {step + 1} of {len(blocks) + 2}", works)


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
    missing.sort(key=lambda spec: -epochs_of(home.run(spec.architecture), spec))
    works = [
        Work("clean replays", replay, (home, part)) for part in parts(home, missing)
    ]
    failed = _side_by_side(site, "clean replays", works)
    if failed:
        raise InfusionError(f"nothing can be compared: {failed[0].error}")


def _side_by_side(site: Site, label: str, works: list[Work]) -> list[Failed]:
    """Do works; their stages' times are summed over workers."""
    if not works:
        return []
    store = site.home.run(site.home.config.architecture).store
    store.read_times()  # an altered file is refused before the work
    spent: dict[str, float] = {}

    def on_seconds(stage: str, seconds: float) -> None:
        spent[stage] = spent.get(stage, 0.0) + seconds

    try:
        failed = site.engine(label, works, on_seconds)
    finally:
        for stage, seconds in spent.items():
            store.add_time(stage, seconds)
    for each in failed:
        site.follow.on_failed(each)
    return failed


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
