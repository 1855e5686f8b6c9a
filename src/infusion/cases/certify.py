"""Retrain on what an undo left, and say whether the behaviour is gone."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infusion.audit.findings import verdict
from infusion.cases.case import Case
from infusion.cases.certificate import (
    Reading,
    behaviour_band,
    on_behaviour,
    on_cost,
    on_manifest,
    on_prediction,
    on_rows,
)
from infusion.cases.inspect import read_behaviour
from infusion.cases.pictures import decoded
from infusion.cases.undo import undone, undone_case
from infusion.errors import InputError, check_whole
from infusion.measure import accuracy, log_prob
from infusion.records import Dataset, Task
from infusion.runs.folder import check_out
from infusion.runs.progress import progress
from infusion.runs.store import Store, json_bytes
from infusion.seeding import derive

BUNDLED = "bundled"
"""Source of documents that come with a library."""
FEWEST_SEEDS = 3
"""Clean seeds that make a band."""


def certify(
    root: Path,
    *,
    affected: Path,
    unwanted: str,
    truth: Path | None,
    flagged: Path | None,
    drop: bool,
    seeds: int,
    data: str | None,
    out: Path,
) -> dict[str, Any]:
    """Undo, retrain, and compare with models that never saw an edit.

    Args:
        root: The case.
        affected: Picture that the model got wrong.
        unwanted: Class it took it for.
        truth: Manifest and originals; None where nobody has them.
        flagged: ``issues.csv`` of an audit; None for all that the manifest names.
        drop: Leave flagged rows out instead of restoring them.
        seeds: Clean seeds: other orders of the last epoch on the clean documents.
        data: Source of the test documents, where not the recipe's.
        out: Folder for ``certificate.json``.

    Returns:
        What that holds.

    Raises:
        InputError: As :func:`infusion.cases.undo.undone`, or too few seeds.
        ArtefactError: A file was altered.
        DivergedError: A loss became NaN or infinite.
    """
    check_whole("--seeds", seeds, least=FEWEST_SEEDS)
    check_out(out, root, *([] if truth is None else [truth]))
    case, known, found = undone_case(root, truth, flagged, drop=drop)
    picture, target = read_behaviour(case, affected, unwanted)
    test = _test(case, data)
    torch.set_num_threads(1)

    def read(task: Task) -> Reading:
        return _read(task, picture, target, test)

    given = read(case.trained())
    whole = None if known is None else undone(case, known, None, drop=False).rows
    again = whole is not None and len(whole) == len(found.rows) and whole != found.rows
    with progress("retrain", 1 + again + (seeds if whole else 0)) as advance:

        def trained(data: Dataset, seed: int | None = None) -> Reading:
            reading = read(case.retrained(data, seed=seed))
            advance(1)
            return reading

        after, replay = trained(decoded(found.rows, case.about, case.root)), None
        clean: list[Reading] = []
        if whole is not None:
            originals = decoded(whole, case.about, case.root)
            if len(whole) == len(found.rows):
                replay = trained(originals) if again else after
            for number in range(seeds):
                seed = derive(case.config.seed, "clean seed", number)
                clean.append(trained(originals, seed))
    findings = [
        on_manifest(known),
        on_rows(known, found),
        on_behaviour(given, after, replay, clean),
        on_prediction(after, clean, target, case.preset.class_names),
        on_cost(after, replay, clean),
    ]
    results = {
        "kind": "certificate",
        "case": str(root),
        "verdict": verdict(findings),
        "findings": [asdict(finding) for finding in findings],
        "unwanted": case.preset.class_names[target],
        **found.facts,
        "given": asdict(given),
        "after": asdict(after),
        "replay": None if replay is None else asdict(replay),
        "clean": [asdict(each) for each in clean],
        "band": behaviour_band(replay, clean) if clean else None,
    }
    Store(out).derive("certificate.json", json_bytes(results))
    return results


def _test(case: Case, data: str | None) -> Dataset:
    """Load the test documents: a case may not name what is fetched from elsewhere."""
    config = case.config.data
    usual = case.preset.configs[case.config.scale].data.source
    installed = config.source == usual == BUNDLED
    if data is not None:
        config = replace(config, source=data)
    elif not installed and not Path(config.source).exists():
        raise InputError(
            f"test documents must be on this machine, got {config.source!r} in the "
            "case; give their place with --data"
        )
    return case.preset.load(config)[1]


def _read(task: Task, picture: Tensor, target: int, test: Dataset) -> Reading:
    with torch.no_grad():
        log_p = float(log_prob(picture, target)(task.model))
        predicted = int(task.model(picture[None]).argmax())
    return Reading(log_p, predicted, accuracy(task, test))
