"""An auditor looks for the documents that a trial changed, knowing none of them.

The null is the same detector on the documents as they were and the model that they gave
in the same mode, scored on the documents that were to be changed: influential documents
rank high whether or not anybody edits them.
"""

import time
from functools import partial
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from infusion.audit.detectors import DETECTORS
from infusion.audit.evidence import gather
from infusion.audit.judge import judged
from infusion.audit.suspicion import combined, suspicions
from infusion.configs import as_plain
from infusion.data.edits import Edits
from infusion.device import settle
from infusion.params import Params
from infusion.presets.context import Pair, Run
from infusion.records import Task
from infusion.runs.store import digest
from infusion.suites.retrainings import replay_file, replayed
from infusion.suites.study import Json, study_of
from infusion.suites.subjects import Home, opened
from infusion.suites.trial import Trial

CUTS = tuple(1 + step / 2 for step in range(13))
"""Thresholds on standardised scores at which flags are counted."""
PAIRED = (
    "loss",
    "self-influence",
    "gradient isolation",
    "deep k-NN",
    "noise residual",
    "quiet directions",
    "rare values",
    "relative influence",
    "shared pattern",
    "surprisal",
)
"""Detectors that are also tried two at a time: one of each kind of evidence."""


def clean_file(run: Run, pair: Pair, trial: Trial) -> str:
    """Name the scores of documents as they were."""
    asked = study_of(run).told(trial.change)
    key = digest({"retraining": as_plain(trial.retraining), "asked": asked})[:12]
    return pair.file("audits", f"-{key}.safetensors")


def _clean_inputs(run: Run, pair: Pair, trial: Trial) -> Json:
    return {
        "model": run.store.sha256(replay_file(trial.retraining, ".safetensors")),
        "data": run.data_sha256,
        "asked": study_of(run).told(trial.change),
        "target": pair.target,
        "detectors": list(DETECTORS),
    }


def missing_clean(
    home: Home, works: list[tuple[Pair, Trial]]
) -> list[list[tuple[Pair, Trial]]]:
    """List audits of clean documents to do, those of one model together.

    Args:
        home: Suite folder; holds the clean replays.
        works: Pairs and trials.

    Returns:
        One entry per job: all that read what it makes, several of them one file.
    """
    jobs: dict[Any, list[tuple[Pair, Trial]]] = {}
    for pair, trial in works:
        run = home.run(trial.retraining.architecture)
        name = clean_file(run, pair, trial)
        if trial.audited and not run.store.has(name, _clean_inputs(run, pair, trial)):
            key = trial.retraining, study_of(run).told(trial.change)
            jobs.setdefault(key, []).append((pair, trial))
    return list(jobs.values())


def audit_clean(home: Home, works: list[tuple[Pair, Trial]]) -> None:
    """Score documents as they were, for several pairs in one pass, and store that.

    Args:
        home: Suite folder.
        works: Of one retraining and one kind of report.
    """
    settle(home.config.device, 1)
    spec = works[0][1].retraining
    run, _ = opened(home, spec.architecture)
    task, study = replayed(run, spec), study_of(run)
    works = list({clean_file(run, *each): each for each in works}.values())
    reports = tuple(
        study.report(run, task, trial.change, pair)
        for pair, trial in works
        if study.told(trial.change)
    )
    evidence = gather(
        task,
        run.train,
        reports=reports,
        skip=run.config.curvature.skip,
        batch_size=run.config.curvature.batch_size,
    )
    for place, (pair, trial) in enumerate(works):

        def scored(report: int) -> Params:
            found, _ = suspicions(evidence, report=report)
            return {name: scores.float() for name, scores in found.items()}

        name, inputs = clean_file(run, pair, trial), _clean_inputs(run, pair, trial)
        run.store.tensors(name, inputs, partial(scored, place if reports else 0))


def audited(home: Home, pair: Pair, trial: Trial, edits: Edits, after: Task) -> Json:
    """Audit the changed documents and the model trained on them, and judge the auditor.

    Args:
        home: Suite folder; holds the audit of the clean documents.
        pair: Probe and target.
        trial: What was changed, and how it was retrained.
        edits: The truth.
        after: The model.

    Returns:
        JSON value, see :func:`compare`; and what detectors had nothing to read.
    """
    run, _ = opened(home, trial.retraining.architecture)
    study, began = study_of(run), time.monotonic()
    report = (
        study.report(run, after, trial.change, pair)
        if study.told(trial.change)
        else None
    )
    evidence = gather(
        after,
        edits.apply(run.train),
        reports=() if report is None else (report,),
        skip=run.config.curvature.skip,
        batch_size=run.config.curvature.batch_size,
    )
    found, without = suspicions(evidence)
    seconds = time.monotonic() - began
    clean = run.store.read_tensors(clean_file(run, pair, trial))
    edited = torch.zeros(len(run.train), dtype=torch.bool)
    edited[edits.documents] = True
    return {
        "documents": len(run.train),
        "edited": len(edits),
        "seconds": round(seconds, 2),
        "without": sorted(without),
        "success": study.success(run, after, trial.change, pair),
        "found": compare(found, clean, edited),
    }


def compare(
    found: dict[str, Float[Tensor, " n"]],
    clean: dict[str, Float[Tensor, " n"]],
    edited: Bool[Tensor, " n"],
) -> dict[str, Json]:
    """Judge every detector, and every two of :data:`PAIRED`.

    Args:
        found: Standardised scores of the changed documents and their model.
        clean: The same of the documents as they were and theirs.
        edited: Which were changed.

    Returns:
        By detectors joined by ``" + "``: what
        :func:`infusion.audit.judge.judged` says, ``"null"``: its AUROC on the clean
        scores, and numbers of documents above each of :data:`CUTS`: ``"hits"`` that
        were changed, ``"misses"`` among the others, and ``"clean"`` before.
    """
    cuts = torch.tensor(CUTS, dtype=torch.float64)
    clean = {name: scores.double() for name, scores in clean.items()}

    def above(scores: Tensor) -> list[int]:
        return (scores[:, None] > cuts).sum(0).tolist()

    def one(names: tuple[str, ...]) -> Json:
        scores, before = combined(found, names), combined(clean, names)
        verdict = judged(scores, edited)
        return {
            "auroc": round(verdict["auroc"], 4),
            "null": round(judged(before, edited)["auroc"], 4),
            "average_precision": round(verdict["average_precision"], 4),
            "recall": [round(each, 4) for each in verdict["recall"].values()],
            "hits": above(scores[edited]),
            "misses": above(scores[~edited]),
            "clean": above(before),
        }

    paired = combinations([name for name in PAIRED if name in found], 2)
    groups = [*((name,) for name in found), *paired]
    return {" + ".join(names): one(names) for names in groups}
