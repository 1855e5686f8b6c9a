"""Provenance, undo and certificates of a suite's edits; and what an audit costs.

    python benchmarks/defence.py rows FOLDER [--pairs 10]
    python benchmarks/defence.py cost [--data CIFAR10]

``rows`` takes the trial ``edit`` of pairs in the folder of a suite: the edited
dataset is held against a seal of the clean one, undone with its manifest, retrained and
certified. It appends to ``results/defence.jsonl`` and goes on where it stopped.
``cost`` audits the paper's base model on 45,000 pictures, two threads, with one
reported behaviour, and writes ``results/audit.json``.
"""

import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from suite_folder import made

import infusion as inf
from infusion.audit.changes import compare
from infusion.audit.evidence import Report, gather
from infusion.audit.rows import read_rows
from infusion.audit.suspicion import suspicions
from infusion.audit.transforms import changed_copies
from infusion.cases.case import DOCUMENTS
from infusion.cases.certify import certify
from infusion.cases.export import hand_over
from infusion.cases.pictures import to_stored, write_stored
from infusion.cases.truth import read_truth
from infusion.cases.undo import undo
from infusion.presets import find_preset
from infusion.presets.base import base_model
from infusion.presets.context import Pair, Run
from infusion.runs.rows import Rows
from infusion.runs.store import Store, environment, json_bytes, write_whole
from infusion.suites.crafting import edit_file, read_edits
from infusion.suites.trial import Trial

ROOT = Path(__file__).parent.parent
OUT = ROOT / "results"


def rows(folder: tyro.conf.Positional[Path], pairs: int = 10) -> None:
    """Undo and certify a suite's edits."""
    torch.set_num_threads(1)
    run, trial, made_of = made(folder, "edit")
    kept = Rows(OUT / "defence.jsonl", ("preset", "seed", "pair"), "defence")
    done = kept.read()
    for pair in made_of[:pairs]:
        if (run.config.preset, run.config.seed, pair.index) not in done:
            kept.append(_row(run, pair, trial))


def _row(run: Run, pair: Pair, trial: Trial) -> dict[str, Any]:
    edits = read_edits(run, pair, trial.change)
    manifest = run.store.read_json(edit_file(pair, trial.change, ".json"))["manifest"]
    with TemporaryDirectory() as place:
        out = Path(place)
        hand_over(run, pair, edits, manifest, out)
        (out / "clean").mkdir()
        write_stored(out / "clean" / DOCUMENTS, to_stored(run.train))
        sealed = read_rows(str(out / "clean" / DOCUMENTS))
        found = read_rows(str(out / "given" / DOCUMENTS))
        named = {c.after.row for c in compare(sealed, found).changes if c.after}
        truth = set(read_truth(out / "truth").documents)
        undo(out / "given", out / "truth", None, out / "back", drop=False)
        clean = (out / "clean" / DOCUMENTS).read_bytes()
        certificate = certify(
            out / "given",
            affected=out / "affected.png",
            unwanted=str(pair.target),
            truth=out / "truth",
            flagged=None,
            drop=False,
            seeds=5,
            data=None,
            out=out / "certificate",
        )
        here = environment()
        return {
            "preset": run.config.preset,
            "scale": run.config.scale,
            "seed": run.config.seed,
            "pair": pair.index,
            "probe": pair.probe,
            "target": pair.target,
            "edited": len(truth),
            "named": len(named & truth),
            "falsely": len(named - truth),
            "identical": (out / "back" / DOCUMENTS).read_bytes() == clean,
            "certificate": {
                name: certificate[name]
                for name in ("verdict", "given", "after", "replay", "clean", "band")
            },
            "outcomes": {f["code"]: f["outcome"] for f in certificate["findings"]},
            "processor": here["processor"],
            "cores": here["cores"],
        }


def cost(data: str = "../shared/data/cifar10", threads: int = 2) -> None:
    """Time an audit of the paper's training set."""
    torch.set_num_threads(threads)
    preset = find_preset("cifar10")
    config = preset.configs["paper"]
    config = replace(
        config,
        data=replace(config.data, source=data),
        base=str(OUT / "base" / "cifar10-seed0"),
    )
    train, test = preset.load(config.data)
    with TemporaryDirectory() as place:
        task = base_model(Run(config, preset, Store(Path(place)), train, test))
    picture = test.batch(torch.tensor([0])).inputs[0]
    measured = [inf.log_prob(each, 3) for each in [picture, *changed_copies(picture)]]
    began = time.monotonic()
    evidence = gather(
        task,
        train,
        reports=(Report(measured[0], tuple(measured[1:]), (picture, 3)),),
        skip=config.curvature.skip,
    )
    fitted = time.monotonic()
    found, without = suspicions(evidence)
    ended = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "documents": len(train),
        "detectors": list(found),
        "without": list(without),
        "fit_seconds": fitted - began,
        "seconds": ended - fitted,
        "peak_bytes": peak,
        "threads": threads,
        "environment": environment(),
    }
    write_whole(OUT / "audit.json", json_bytes(result))
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}))


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"rows": rows, "cost": cost})
