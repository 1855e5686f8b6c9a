"""The fidelity suite in a folder: goes on where it stopped, ends with the same results.

``config.yaml``, ``environment.json`` and ``times.json`` are those of any run folder;
``retrains.jsonl``, ``pbrf.jsonl`` and ``flips.jsonl`` hold a finished job per line.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from infusion.configs import FlipsConfig, LDSConfig, as_plain
from infusion.errors import InputError, check_whole
from infusion.fidelity import jobs
from infusion.fidelity.methods import offered
from infusion.fidelity.results import collect_flips, collect_lds
from infusion.fidelity.subsets import check_lds, fresh_seeds, probe_positions
from infusion.fidelity.suites import Suite, open_suite, suite_config
from infusion.measure import accuracy
from infusion.runs.config_files import to_yaml
from infusion.runs.folder import refuse_other_config, refuse_other_environment
from infusion.runs.parallel import side_by_side
from infusion.runs.rows import Rows
from infusion.runs.store import (
    Store,
    digest,
    environment,
    json_bytes,
)


def settings(
    suite: str,
    data: str | None = None,
    *,
    subsets: int | None = None,
    seeds: int | None = None,
    probes: int | None = None,
    flips: float | None = None,
) -> LDSConfig | FlipsConfig:
    """Turn what was asked for into settings; ``None`` is the default.

    Args:
        suite: digits, digits-mlp, mnist or cifar10.
        data: Folder of its data.
        subsets: Random subsets to retrain on.
        seeds: Fresh seeds per subset, or base models with flipped labels.
        probes: Test documents to predict.
        flips: Share of the labels to flip, instead of retraining on subsets.

    Returns:
        Settings of a linear datamodelling score, or of a search for flips.

    Raises:
        InputError: There is no such suite, or a setting does not go with ``flips``.
    """
    trained = suite_config(suite, data)
    asked = {"subsets": subsets, "seeds": seeds, "probes": probes}
    given = {name: value for name, value in asked.items() if value is not None}
    if flips is None:
        return LDSConfig(suite=trained, **given)
    if set(given) - {"seeds"}:
        raise InputError(
            "flips must come without subsets and probes, got "
            f"{' and '.join(sorted(set(given) - {'seeds'}))}; drop one or the other"
        )
    return FlipsConfig(suite=trained, share=flips, **given)


def run(
    config: LDSConfig | FlipsConfig, root: Path | None = None, *, threads: int = 2
) -> tuple[dict[str, Any], Path]:
    """Run the suite to the end, continuing whatever the folder already holds.

    Args:
        config: Everything that decides the results.
        root: Run folder; refused if it was started with another configuration. The
            default is named after the settings.
        threads: Jobs side by side, on one thread each; does not change the results.

    Returns:
        What ``results.json`` holds, and the folder.

    Raises:
        InputError: Wrong settings, unusable data, or a folder of other settings.
        ArtefactError: A file was altered, or is of another processor.
        DivergedError: A training, a solve or a score became NaN or infinite.
    """
    kind = "flips" if isinstance(config, FlipsConfig) else "lds"
    name = f"fidelity-{kind}-{config.suite.name}-{digest(config)[:8]}"
    root = Path("runs") / name if root is None else root
    check_whole("threads", threads)
    suite = open_suite(config.suite)
    if isinstance(config, LDSConfig):
        check_lds(config, train=len(suite.train), test=len(suite.test))
    elif config.seeds < 1 or not 0 < config.share < 1:
        raise InputError(
            f"flips must be a share between 0 and 1 and seeds ≥ 1, got {config.share:g}"
            f" and {config.seeds}; choose others"
        )
    refuse_other_config(root, to_yaml(config))
    refuse_other_environment(root)
    if isinstance(config, LDSConfig):
        results = _run_lds(config, Store(root), suite, threads)
    else:
        results = _run_flips(config, Store(root), suite, threads)
    Store(root).derive("results.json", json_bytes(results))
    return results, root


def _run_lds(
    config: LDSConfig, store: Store, suite: Suite, threads: int
) -> dict[str, Any]:
    hashes = suite.hashes()
    decides: dict[str, Any] = {
        "suite": config.suite.name,
        "train": as_plain(config.suite.train),
        "data": hashes,
        "seed": config.seed,
    }
    if not store.has(jobs.BASE, decides):
        with store.timed("base model"):
            state = suite.fit(suite.train, config.seed).model.state_dict()
            store.tensors(jobs.BASE, decides, lambda: state)
    base = {"base_sha256": store.sha256(jobs.BASE)}
    decides |= {
        "share": config.share,
        "skip": config.suite.skip,
        "probes": probe_positions(config, len(suite.test)),
    }
    names = offered(suite.parameters)
    _score(config, store, threads, {**decides, **base}, names)
    retrains = Rows(store.root / "retrains.jsonl", ("subset", "seed"), digest(decides))
    wanted = [
        (index, seed)
        for index in range(config.subsets)
        for seed in (config.seed, *fresh_seeds(config))
    ]
    retrain = partial(jobs.retrained, config)
    _fill(store, retrains, retrain, wanted, threads=threads, stamp=base)
    responses = Rows(
        store.root / "pbrf.jsonl", ("subset",), digest({**decides, **base})
    )
    first = [(index,) for index in range(min(config.pbrf, config.subsets))]
    respond = partial(jobs.responded, store.root, config)
    _fill(store, responses, respond, first, threads=threads, stamp=base)
    test = accuracy(jobs.base_task(store.root, config), suite.test)
    facts = {"accuracy": test, "data_sha256": hashes, **base}
    return collect_lds(config, store, suite, retrains, responses) | facts


def _score(
    config: LDSConfig,
    store: Store,
    threads: int,
    decides: dict[str, Any],
    names: list[str],
) -> None:
    """Score by every method whose scores the folder does not hold yet.

    The dearest methods stand last in the list and are started first.
    """
    inputs = {name: {**decides, "method": name} for name in names}
    missing = [
        (store.root, config, inputs[name], name, first)
        for name in reversed(names)
        for first in range(0, config.probes, jobs.CHUNK)
        if not store.has(jobs.score_file(name, first), inputs[name])
    ]
    if missing:
        with store.timed("score"):
            side_by_side("score", jobs.scored, missing, workers=threads)


def _fill(
    store: Store,
    rows: Rows,
    job: Callable[..., dict[str, Any]],
    keys: list[tuple[int, ...]],
    *,
    threads: int,
    stamp: dict[str, Any],
) -> None:
    """Do the jobs whose rows are missing, and keep each as it comes."""
    done = rows.read()
    missing = [key for key in keys if key not in done]
    stamp = {**stamp, "processor": environment()["processor"]}
    label = rows.path.stem
    if missing:
        with store.timed(label):
            side_by_side(
                label,
                job,
                missing,
                workers=threads,
                on_result=lambda row: rows.append({**row, **stamp}),
            )


def _run_flips(
    config: FlipsConfig, store: Store, suite: Suite, threads: int
) -> dict[str, Any]:
    hashes = suite.hashes()
    decides = {
        "suite": config.suite.name,
        "train": as_plain(config.suite.train),
        "data": hashes,
        "share": config.share,
        "skip": config.suite.skip,
    }
    rows = Rows(store.root / "flips.jsonl", ("seed",), digest(decides))
    seeds = [(seed,) for seed in range(config.seeds)]
    flip = partial(jobs.flipped, config)
    _fill(store, rows, flip, seeds, threads=threads, stamp={})
    return collect_flips(config, suite, rows) | {"data_sha256": hashes}
