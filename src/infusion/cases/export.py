"""Hand an edited dataset over: the case, and apart from it the truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from infusion.cases.case import MODEL, START, check_new, write_case
from infusion.cases.pictures import to_stored
from infusion.cases.truth import Truth, write_truth
from infusion.configs import Arm
from infusion.data.edits import Edits
from infusion.errors import InputError
from infusion.params import Params, params_sha256
from infusion.presets import find_pictures
from infusion.presets.context import Pair, Run, checkpoint_file
from infusion.presets.infuse import read_edits
from infusion.presets.jobs import job_file
from infusion.runs.config_files import from_yaml
from infusion.runs.files import small_text
from infusion.runs.folder import check_out
from infusion.runs.store import Store, write_whole
from infusion.training.checkpoints import from_tensors
from infusion.training.retrain import retrain


def export(root: Path, *, pair: int, arm: Arm, out: Path) -> dict[str, Any]:
    """Write a run's edited dataset, and the model retrained on it, as files.

    Args:
        root: Folder of a finished run of pictures.
        pair: Which of its pairs.
        arm: The edit, or a control.
        out: New folder: ``given`` is the case, ``truth`` lists the edits and keeps the
            originals, ``affected.png`` is the probe.

    Returns:
        Paths, the documents edited, the probe's class and the target's.

    Raises:
        InputError: There is no such run, pair or arm, or the folder is not new.
        ArtefactError: The run was altered.
    """
    if not (root / "config.yaml").is_file():
        raise InputError(
            f"a run to export must hold config.yaml, got none in {root}; use the "
            "folder of `infusion run cifar10`"
        )
    check_new(out)
    check_out(out, root)
    config = from_yaml(small_text(root / "config.yaml"))
    preset, store = find_pictures(config.preset), Store(root)
    run = Run(config, preset, store, *preset.load(config.data))
    which = _pair(store, pair)
    if arm not in config.arms or arm == "clean_replay":
        edited = [name for name in config.arms if name != "clean_replay"]
        raise InputError(
            f"--arm must be one of {', '.join(edited)}, got {arm!r}; choose one of them"
        )
    edits = read_edits(run, which, arm)
    facts = store.read_json(which.file("edits", ".json"))[arm]["manifest"]
    torch.set_num_threads(1)  # as the run measured it
    model = hand_over(run, which, edits, facts, out)
    names = preset.class_names
    return {
        "given": str(out / "given"),
        "truth": str(out / "truth"),
        "affected": str(out / "affected.png"),
        "edited": len(edits),
        "documents": len(run.train),
        "label": names[which.label],
        "target": names[which.target],
        "as_measured": _as_measured(store, which, arm, model),
    }


def hand_over(
    run: Run, pair: Pair, edits: Edits, manifest: list[dict[str, Any]], out: Path
) -> Params:
    """Retrain on edits and write the case, the truth and the probe.

    Args:
        run: Settings, documents and checkpoints.
        pair: Probe and target.
        edits: Of the training documents, on their grid.
        manifest: What is said of them.
        out: New folder.

    Returns:
        Weights and buffers of the model.
    """
    config, edited = run.config, edits.apply(run.train)
    rows, originals = to_stored(edited), to_stored(edits.before)
    start = run.store.read_tensors(checkpoint_file(config.train.epochs - 1))
    _, final = retrain(
        run.make_task, edited, config.train, seed=config.seed, start=from_tensors(start)
    )
    about = {
        "levels": run.train.levels,
        "valid": list(run.train.valid or (0.0, 1.0)),
        "classes": run.train.num_classes,
    }
    whole = replace(config, pairs=0, probe=None, target=None)
    tensors = {MODEL: final.model, START: start}
    write_case(out / "given", whole, about, rows, tensors)
    write_truth(out / "truth", Truth(manifest, originals, pair.label, pair.target))
    probe = to_stored(run.test.take(pair.row))[0].png
    write_whole(out / "affected.png", probe)
    return final.model


def _pair(store: Store, index: int) -> Pair:
    pairs = [Pair(**row) for row in store.read_json("pairs.json")]
    if not 0 <= index < len(pairs):
        raise InputError(
            f"--pair must lie in 0…{len(pairs) - 1}, the run's pairs, got {index}; "
            "choose one of them"
        )
    return pairs[index]


def _as_measured(store: Store, pair: Pair, arm: Arm, model: Params) -> bool | None:
    """Tell whether the model is the one that the run measured; None if it did not."""
    name = job_file(arm, pair)
    if not store.is_finished(name):
        return None
    return store.read_json(name)["model_sha256"] == params_sha256(model)
