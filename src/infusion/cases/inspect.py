"""Audit a model and its documents, knowing nothing clean."""

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from infusion.audit.evidence import Report, gather
from infusion.audit.findings import Finding, verdict
from infusion.audit.judge import curve, judged
from infusion.audit.shipped import Rule, rules
from infusion.audit.suspicion import combined, suspicions
from infusion.audit.transforms import changed_copies
from infusion.cases.case import Case, read_case
from infusion.cases.pictures import read_picture
from infusion.cases.truth import check_truth, read_truth
from infusion.errors import InputError, check_whole
from infusion.measure import log_prob
from infusion.presets import find_class
from infusion.presets.own import load_question
from infusion.records import Dataset, Measurement, Task
from infusion.runs.store import Store, json_bytes

SHOWN = 40
"""Documents on the page."""
_BINS = 40


def audit_case(
    root: Path,
    *,
    affected: Path | None,
    unwanted: str | None,
    truth: Path | None,
    out: Path,
) -> dict[str, Any]:
    """Rank a case's documents by how suspicious they are.

    Args:
        root: The case.
        affected: Picture that the model gets wrong; None where nothing is known.
        unwanted: Class it takes it for, by name or number.
        truth: Where it is known, to judge the audit by; it is not told to it.
        out: Folder for ``audit.json``, ``issues.csv`` and what the page shows.

    Returns:
        What ``audit.json`` holds.

    Raises:
        InputError: A file cannot be read, or only one of picture and class is given.
        ArtefactError: The model or the truth was altered.
    """
    case = read_case(root)
    task = case.trained()
    reports = ()
    if affected is not None or unwanted is not None:
        picture, target = read_behaviour(case, affected, unwanted)
        measured = [
            log_prob(each, target) for each in [picture, *changed_copies(picture)]
        ]
        shown = picture, target
        reports = (Report(measured[0], tuple(measured[1:]), shown),)
    edited = None
    if truth is not None:
        edited = torch.zeros(len(case.rows), dtype=torch.bool)
        edited[check_truth(case, read_truth(truth)).documents] = True
    names = case.preset.class_names
    return _audited(
        str(root),
        (task, case.train),
        reports,
        edited,
        out,
        skip=case.config.curvature.skip,
        names=names,
        batch_size=case.config.curvature.batch_size,
    )


def audit_question(
    place: str, *, skip: tuple[str, ...], batch_size: int, out: Path
) -> dict[str, Any]:
    """Rank the documents of a user's own model by how suspicious they are.

    Args:
        place: ``module:function`` that returns a question; its measurement is the
            reported behaviour.
        skip: Module types or names that the curvature leaves out.
        batch_size: Documents held at once.
        out: As in :func:`audit_case`.

    Returns:
        What ``audit.json`` holds.

    Raises:
        InputError: The question cannot be asked, or measures more than one thing.
    """
    check_whole("batch_size", batch_size)
    question = load_question(place)
    told: list[Measurement] = list(question.measurements.values())
    if len(told) > 1:
        raise InputError(
            "an audit takes one reported behaviour, got "
            f"{len(told)}: {', '.join(question.measurements)}; return one of them"
        )
    return _audited(
        place,
        (question.task, question.train),
        tuple(Report(each) for each in told),
        None,
        out,
        skip=skip,
        names=(),
        batch_size=batch_size,
    )


def read_behaviour(
    case: Case, affected: Path | None, unwanted: str | None
) -> tuple[Float[Tensor, "c h w"], int]:
    """Read what somebody affected reports.

    Args:
        case: Whose model it is about.
        affected: The picture.
        unwanted: The class, by name or number.

    Returns:
        The picture in values, and the class.

    Raises:
        InputError: One is missing or does not fit the case.
    """
    if affected is None or unwanted is None:
        raise InputError(
            "a reported behaviour needs --affected, a picture, and --unwanted, a "
            f"class, got {affected} and {unwanted}; give both"
        )
    target = find_class(case.config.preset, unwanted, "--unwanted")
    levels, wanted = read_picture(affected), case.train.inputs.shape[1:]
    if levels.shape != wanted:
        raise InputError(
            f"--affected must be a picture of {tuple(wanted)}, as the documents are, "
            f"got {tuple(levels.shape)} in {affected}; resize it as they were"
        )
    return levels.float() / case.about["levels"], target


def _audited(
    name: str,
    held: tuple[Task, Dataset],
    reports: tuple[Report, ...],
    edited: Tensor | None,
    out: Path,
    *,
    skip: tuple[str, ...],
    names: tuple[str, ...],
    batch_size: int,
) -> dict[str, Any]:
    task, data = held
    evidence = gather(task, data, reports=reports, skip=skip, batch_size=batch_size)
    found, without = suspicions(evidence)
    asked = rules(bool(reports))
    used = [rule for rule in asked if set(rule.detectors) <= set(found)]
    if not used:
        raise InputError(
            "an audit needs documents that a rule can read, got none for "
            f"{data.inputs.dtype} of shape {tuple(data.inputs.shape)}; see README"
        )
    margins = torch.stack([combined(found, r.detectors) - r.threshold for r in used])
    worst = margins.amax(0)
    order = worst.argsort(descending=True, stable=True)
    flagged = worst > 0
    unused = [_unused(rule, without) for rule in asked if rule not in used]
    said = {each.evidence for each in unused}
    rest = {name: why for name, why in without.items() if why not in said}
    findings = [*_findings(used, margins, rest), *unused]
    results = {
        "kind": "suspicion",
        "dataset": name,
        "rows": len(data),
        "told": bool(reports),
        "flagged": int(flagged.sum()),
        "findings": [asdict(each) for each in findings],
        "ranked": [
            _shown(data, int(place), margins[:, place], used, names)
            for place in order[:SHOWN]
        ],
        "distribution": _distribution(worst, edited),
        "judged": None if edited is None else _judged(worst, flagged, edited),
        "levels": data.levels,
        "valid": data.valid,
    }
    results["verdict"] = verdict(findings)
    store = Store(out)
    shown = data.inputs[order[:SHOWN]].cpu()
    store.derive("issues.csv", _issues(data, worst, margins, used, found))
    if shown.ndim == 4:
        from safetensors.torch import save

        store.derive("shown.safetensors", save({"inputs": shown.contiguous()}))
    store.derive("audit.json", json_bytes(results))
    return results


def _findings(
    used: list[Rule], margins: Float[Tensor, "r n"], without: dict[str, str]
) -> list[Finding]:
    """Say what each rule flags, and which detectors had nothing to read."""
    said = []
    for rule, margin in zip(used, margins, strict=True):
        count, size = int((margin > 0).sum()), margin.numel()
        limit = math.ceil(rule.expected * size)
        outcome = "pass" if not count else "warn" if count <= limit else "fail"
        said.append(
            Finding(
                rule.code,
                rule.title,
                outcome,
                f"{count:,} of {size:,} documents above the threshold of "
                f"{' + '.join(rule.detectors)}; at most {limit} of clean "
                "ones were where the rule was chosen",
            )
        )
    for name, why in sorted(without.items()):
        said.append(Finding("A109", name, "not applicable", why))
    return said


def _unused(rule: Rule, without: dict[str, str]) -> Finding:
    missing = next(name for name in rule.detectors if name in without)
    return Finding(rule.code, rule.title, "not applicable", without[missing])


def _shown(
    data: Dataset,
    place: int,
    margins: Float[Tensor, " r"],
    used: list[Rule],
    names: tuple[str, ...],
) -> dict[str, Any]:
    by, margin = int(margins.argmax()), float(margins.max())
    label = data.labels[place]
    named = (
        str(int(label)) if label.ndim == 0 and not label.is_floating_point() else "–"
    )
    if names and named != "–":
        named = names[int(label)]
    return {
        "index": place,
        "label": named,
        "score": _score(margin),
        "rule": used[by].title,
        "flagged": margin > 0,
    }


def _score(margin: float) -> float:
    """Squeeze a margin: 1 unsuspicious, 0.5 at the threshold, 0 suspicious."""
    return float(torch.sigmoid(torch.tensor(-margin, dtype=torch.float64)))


def _distribution(worst: Tensor, edited: Tensor | None) -> dict[str, Any]:
    low, high = float(worst.min()), float(worst.max())
    edges = torch.linspace(low, max(high, low + 1e-9), _BINS + 1, dtype=torch.float64)

    def count(values: Tensor) -> list[int]:
        return torch.histogram(values.double(), edges).hist.int().tolist()

    chosen = {"all": worst} if edited is None else {"others": worst[~edited]}
    if edited is not None:
        chosen["edited"] = worst[edited]
    return {
        "edges": edges.tolist(),
        "counts": {name: count(values) for name, values in chosen.items()},
    }


def _judged(worst: Tensor, flagged: Tensor, edited: Tensor) -> dict[str, Any]:
    hits = int((flagged & edited).sum())
    return {
        **judged(worst, edited),
        "edited": int(edited.sum()),
        "found": hits,
        "falsely": int(flagged.sum()) - hits,
        "curve": curve(worst, edited),
    }


def _issues(
    data: Dataset,
    worst: Tensor,
    margins: Tensor,
    used: list[Rule],
    found: dict[str, Tensor],
) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["index", "score", "is_flagged", "rule", "label", *found])
    by = margins.argmax(0).tolist()
    labels = data.labels.tolist() if data.labels.ndim == 1 else [""] * len(data)
    columns = [scores.tolist() for scores in found.values()]
    for place, margin in enumerate(worst.tolist()):
        own = [f"{column[place]:.4f}" for column in columns]
        row = [place, f"{_score(margin):.6f}", margin > 0, used[by[place]].title]
        table.writerow([*row, labels[place], *own])
    return text.getvalue().encode()
