"""Retrain on what an undo left, and say whether the behaviour is gone."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infusion.audit.findings import Finding, Outcome, verdict
from infusion.cases.case import Case
from infusion.cases.inspect import read_behaviour
from infusion.cases.pictures import decoded
from infusion.cases.truth import Truth
from infusion.cases.undo import Undone, undone, undone_case
from infusion.errors import InputError, check_whole
from infusion.measure import accuracy, log_prob
from infusion.records import Dataset, Task
from infusion.runs.progress import progress
from infusion.runs.store import Store, json_bytes
from infusion.seeding import derive

COVERAGE = 0.95
"""Share of further clean seeds that a band is to hold."""
COST, LARGE = 0.003, 0.01
"""Accuracy that an undo may cost, and that is a failure."""


@dataclass(frozen=True)
class Reading:
    """What a model does.

    Attributes:
        log_p: Of the unwanted class on the affected input, in nats.
        predicted: Class of the affected input.
        accuracy: On clean test documents, a share.
    """

    log_p: float
    predicted: int
    accuracy: float


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
    check_whole("--seeds", seeds)
    if seeds < 3:
        raise InputError(f"--seeds must be ≥ 3 for a band, got {seeds}; 5 are usual")
    case, known, found = undone_case(root, truth, flagged, drop=drop)
    picture, target = read_behaviour(case, affected, unwanted)
    test = _test(case, data)
    torch.set_num_threads(1)

    def read(task: Task) -> Reading:
        return _read(task, picture, target, test)

    given = read(case.trained())
    whole = None if known is None else undone(case, known, None, drop=False).rows
    with progress("retrain", 1 + (seeds if whole else 0)) as advance:

        def trained(data: Dataset, seed: int | None = None) -> Reading:
            reading = read(case.retrained(data, seed=seed))
            advance(1)
            return reading

        after, replay = trained(decoded(found.rows, case.about, case.root)), None
        clean: list[Reading] = []
        if whole is not None:
            originals = decoded(whole, case.about, case.root)
            if len(whole) == len(found.rows):
                replay = after if whole == found.rows else trained(originals)
            for number in range(seeds):
                seed = derive(case.config.seed, "clean seed", number)
                clean.append(trained(originals, seed))
    findings = [
        _manifest(known),
        _rows(known, found),
        _behaviour(after, clean),
        _prediction(case, after, clean, target),
        _cost(after, replay, clean),
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
        "band": _band([each.log_p for each in clean]) if clean else None,
    }
    Store(out).derive("certificate.json", json_bytes(results))
    return results


def _test(case: Case, data: str | None) -> Dataset:
    config = case.config.data
    if data is not None:
        config = replace(config, source=data)
    return case.preset.load(config)[1]


def _read(task: Task, picture: Tensor, target: int, test: Dataset) -> Reading:
    with torch.no_grad():
        log_p = float(log_prob(picture, target)(task.model))
        predicted = int(task.model(picture[None]).argmax())
    return Reading(log_p, predicted, accuracy(task, test))


def _band(values: list[float]) -> tuple[float, float]:
    """Interval that one more value of the same normal lies in: Student's t."""
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf((1 + COVERAGE) / 2, count - 1)) * float(np.std(values, ddof=1))
    half *= (1 + 1 / count) ** 0.5
    return float(np.mean(values)) - half, float(np.mean(values)) + half


_NOBODY = "needs clean documents to train clean seeds on, got no --truth"


def _manifest(truth: Truth | None) -> Finding:
    title = "manifest agrees with the rows"
    if truth is None:
        return Finding("C001", title, "not applicable", "got no manifest")
    count = len(truth.manifest)
    return Finding(
        "C001", title, "pass", f"hashes, labels and distances of {count} rows derived"
    )


def _rows(truth: Truth | None, found: Undone) -> Finding:
    title = "no edited row is left"
    facts = found.facts
    said = ", ".join(f"{count} {name}" for name, count in facts.items())
    if truth is None:
        return Finding("C002", title, "not applicable", f"{said}; got no manifest")
    return Finding("C002", title, "fail" if found.missed else "pass", said)


def _behaviour(after: Reading, clean: list[Reading]) -> Finding:
    title = "behaviour is back among clean seeds"
    if not clean:
        return Finding("C003", title, "not applicable", _NOBODY)
    low, high = _band([each.log_p for each in clean])
    inside = low <= after.log_p <= high
    return Finding(
        "C003",
        title,
        "pass" if inside else "fail",
        f"log p of the unwanted class {after.log_p:+.2f}, {len(clean)} clean seeds "
        f"span {low:+.2f} to {high:+.2f} (a further one in 95 of 100)",
    )


def _prediction(
    case: Case, after: Reading, clean: list[Reading], target: int
) -> Finding:
    names = case.preset.class_names
    also = sum(each.predicted == target for each in clean)
    outcome: Outcome = "pass"
    if after.predicted == target:
        outcome = "warn" if also else "fail"
    return Finding(
        "C004",
        "affected input is not taken for the unwanted class",
        outcome,
        f"predicted {names[after.predicted]}; {also} of {len(clean)} clean seeds "
        f"predict {names[target]}",
    )


def _cost(after: Reading, replay: Reading | None, clean: list[Reading]) -> Finding:
    """Compare accuracies in one order of the documents, or with all clean seeds."""
    title, said = "clean accuracy", f"{after.accuracy:.2%}, "
    if not clean:
        return Finding("C005", title, "not applicable", said + _NOBODY)
    known = [each.accuracy for each in clean]
    low, high = _band(known)
    reference = replay or Reading(0.0, 0, float(np.mean(known)))
    cost = reference.accuracy - after.accuracy
    by_chance = replay is None and after.accuracy >= low
    outcome: Outcome = "pass" if cost <= COST or by_chance else "warn"
    if outcome == "warn" and cost > LARGE:
        outcome = "fail"
    against = "clean rows in the same order" if replay else "the mean of clean seeds"
    return Finding(
        "C005",
        title,
        outcome,
        f"{said}{100 * cost:+.2f} points below {against}; clean seeds span {low:.2%} "
        f"to {high:.2%}",
    )
