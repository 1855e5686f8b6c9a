"""Wrong input ends with one line and status 2, and costs nothing already written."""

import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from infusion.attribution.selection import select
from infusion.command.cli import main
from infusion.command.verbs import COMMANDS
from infusion.errors import InputError
from infusion.perturb.budget import L2, LInf
from infusion.presets.cifar10 import CLASS_NAMES, SMALL
from infusion.records import Dataset
from infusion.runs.config_files import to_yaml

from .test_cli import (
    FinishedRun,
    command,
    environment,
    finished_run,
    tiny_config,
    tree,
    write_config,
)

Refused = Callable[..., None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`datasets` reads this at every call, so nothing lands in the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    return finished_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Refused:
    """Runs the command, which must refuse with a line like ``wanted``."""

    def run(wanted: str, *words: str | Path, keeps: Path | None = None) -> None:
        before = tree(keeps) if keeps else {}
        monkeypatch.setattr("sys.argv", ["infusion", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert_one_line(capfd.readouterr().err, wanted)
        after = tree(keeps) if keeps else {}
        assert {name: after.get(name) for name in before} == before

    return run


def assert_one_line(printed: str, wanted: str):
    """Only progress bars may come before the line."""
    assert "Traceback" not in printed
    assert printed.endswith("\n")
    lines = printed.splitlines()
    assert lines[-1].startswith("infusion: ")
    assert re.search(wanted, lines[-1]), lines[-1]
    assert sum("infusion: " in line for line in lines) == 1
    assert len(lines[-1]) < 500, "one line, not a page"


# What the flags say


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("run", "exactly one of PRESET and --config must be given, got None and None"),
        ("run digits --config x.yaml", "exactly one of PRESET and --config"),
        (
            "run mnist",
            r"preset must be one of digits, cifar10, .*, got 'mnist'",
        ),
        ("run digits --pears 3", r"Unrecognized options: --pears.*meant --pairs; try"),
        ("run digits cifar10", "Unrecognized options: cifar10"),
        ("run digits --pairs", "Missing value for argument '--pairs'"),
        ("run digits --pairs many", r"--pairs: no type matching .* \['many'\]"),
        ("run digits --scale huge", "invalid choice 'huge' for argument '--scale'"),
        ("run digits --device tpu", "invalid choice 'tpu' for argument '--device'"),
        ("", r"Expected one of \{run, sweep, attribute, .*report.*\}; try"),
        ("retrain digits", "Unrecognized options: .*retrain"),
        ("report", "Missing from infusion report"),
        ("run digits --k 0", "k must be a whole number in 1…1500, .*, got 0; choose"),
        ("run digits --k -3", "k must be a whole number in 1…1500, .*, got -3; choose"),
        (
            "run digits --k 1501",
            "k must be a whole number in 1…1500, .*, got 1501; choose",
        ),
        ("run digits --pairs -1", "pairs must be ≥ 0, got -1"),
        ("run digits --threads 0", "threads must be ≥ 1, got 0"),
        ("run digits --steps 0", "steps must be ≥ 1, got 0"),
        ("run digits --steps 3", r"steps × step size must be .* level.* got 0.0468"),
        ("run digits --damping 0", "damping must be > 0 and finite, got 0.0"),
        ("run digits --damping -1e-8", "damping must be > 0 and finite, got -1e-08"),
        ("run digits --damping nan", "damping must be > 0 and finite, got nan"),
        ("run digits --damping-ratio inf", "damping ratio must be > 0 .* got inf"),
        ("run digits --damping 1 --damping-ratio 1", "exactly one of damping and"),
        ("run digits --epsilon 0", r"budget must be > 0 .* got epsilon=0\.0; 8/255"),
        ("run digits --epsilon -1", r"budget must be > 0 .* got epsilon=-1\.0"),
        ("run digits --epsilon nan", "budget must be > 0 .* got epsilon=nan"),
        ("run digits --epsilon inf", "budget must be > 0 .* got epsilon=inf"),
        ("run digits --epsilon 0.06", r"epsilon must be .* 1/16 = 0.0625, got 0.06"),
        ("run digits --target 10", "--target must be one of 0, 1, .* got '10'"),
        ("run digits --target cat", "--target must be one of 0, 1, .* got 'cat'"),
        ("run digits --target ²", "--target must be one of 0, 1, .* got '²'"),
        ("run digits --target -1", "--target must be one of 0, 1, .* got '-1'"),
        ("run digits --probe 1000000000", "lie in 0…296, the test set, got 1000000000"),
        ("run digits --probe -1", "probe must lie in 0…296, the test set, got -1"),
        ("run digits --data somewhere", "digits come with .*, got --data somewhere"),
        ("run --config no.yaml", "--config must name a file, got no.yaml; use RUN"),
        ("run --config . --scale paper", "--scale must come with a PRESET, got paper"),
        ("run digits --base /no/such", "--base must hold .* no epoch-009.safetensors"),
    ],
)
def test_wrong_flags(words: str, wanted: str, refused: Refused, tmp_path: Path):
    out = ["--out", str(tmp_path / "run")] if words.startswith("run") else []
    refused(wanted, *words.split(), *out)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_gpu(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("must find a GPU, got none", "run", "digits", "--device", "cuda")


def test_the_real_process_says_the_same(tmp_path: Path):
    out = tmp_path / "run"
    done = subprocess.run(
        command("run", "digits", "--epsilon", "-1", "--out", out),
        env=environment(),
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.stderr, "budget must be > 0")
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_must_be_a_folder(out: str, tmp_path: Path, refused: Refused):
    (tmp_path / "file").write_text("precious")
    where = tmp_path / out
    wanted = "--out must name a folder that can be written to, got .*; choose another"
    refused(wanted, "run", "digits", "--out", where, keeps=tmp_path)


def test_report_needs_a_run(tmp_path: Path, refused: Refused):
    for folder in (tmp_path, tmp_path / "none"):
        refused("must hold a finished results.json, got none", "report", folder)


# What a config says


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"", r"config must have the keys .*, got \[\]"),
        (b"- 1\n- 2\n", r"config must have the keys .*, got \[\]"),
        (
            b"preset: digits\n",
            r"config must have the keys .*, got \[\] beside them and no ",
        ),
        (b"preset: [digits\n", "config must be YAML, got while parsing a flow"),
        (b"\xff\xfe\x00\x9c", "config must"),
        (b"!!python/object:os.system x", "config must be YAML, got could not"),
    ],
)
def test_config_that_is_none(
    text: bytes, wanted: str, tmp_path: Path, refused: Refused
):
    path = tmp_path / "config.yaml"
    path.write_bytes(text)
    refused(wanted, "run", "--config", path, "--out", tmp_path / "run", keeps=tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("edit.k", "many", r"config.edit.k must be of type int, got 'many'"),
        ("edit.k", 2.5, r"config.edit.k must be of type int, got 2.5"),
        ("edit.k", True, r"config.edit.k must be of type int, got True"),
        ("edit.norm", "l7", r"config.edit.norm must be of type Literal.*, got 'l7'"),
        ("train.epochs", -1, "epochs must be ≥ 2, got -1"),
        ("train.epochs", 1, "epochs must be ≥ 2, got 1"),
        ("train.lr", "1e6", r"config.train.lr must be of type float, got '1e6'"),
        ("train.lr", 0.0, "learning rate must be > 0 and finite, got 0.0"),
        ("train.lr", float("nan"), "learning rate must be > 0 and finite, got nan"),
        ("train.momentum", -0.5, "momentum must be ≥ 0, got -0.5"),
        ("train.weight_decay", float("inf"), "weight decay must be ≥ 0, got inf"),
        ("train.batch_size", 0, "batch size of training must be ≥ 1, got 0"),
        ("train.milestones", 3, r"milestones must be of type tuple, got 3"),
        ("train.milestones", ["a"], r"milestones must be of type int, got 'a'"),
        ("train.optimiser", "lion", r"optimiser must be of type Literal.*'lion'"),
        ("curvature.batch_size", 0, "batch size of curvature must be ≥ 1, got 0"),
        ("curvature.damping", 1.0, "exactly one of damping and damping_ratio"),
        ("edit.step_size", 0.0, "step size must be > 0 and finite, got 0.0"),
        ("data.train", 1797, "must hold 1…1796 of 1797 documents, got 1797"),
        ("data", None, r"config.data must have the keys"),
        ("arms", ["clean_replay"], "arms must hold the edit"),
        ("arms", ["edit", "wish"], r"config.arms must be of type Literal.*'wish'"),
        ("device", "tpu", "device must be cpu or cuda, got 'tpu'"),
        ("target", 10, "target must lie in 0…9, the classes, got 10"),
        (
            "preset",
            "mnist",
            r"preset must be one of digits, cifar10, .*, got 'mnist'",
        ),
        ("surprise", 1, "and no others than"),
    ],
)
def test_config_with_a_wrong_value(
    key: str, value: object, wanted: str, tmp_path: Path, refused: Refused
):
    written = yaml.safe_load(to_yaml(tiny_config()))
    *parents, last = key.split(".")
    inner = written
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(written))
    refused(wanted, "run", "--config", path, "--out", tmp_path / "run", keeps=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_becomes_nan(tmp_path: Path, refused: Refused):
    config = tiny_config()
    config = replace(config, train=replace(config.train, lr=1e6))
    path = write_config(tmp_path / "asked", config)
    out = tmp_path / "run"
    wanted = r"training loss must stay finite, got (nan|inf) .*now 1e\+06\)"
    refused(wanted, "run", "--config", path, "--out", out, keeps=path.parent)
    refused(wanted, "run", "--config", path, "--out", out, keeps=out)


# A run folder, and checkpoints


def test_a_target_the_probe_has_already(
    finished: FinishedRun, tmp_path: Path, refused: Refused
):
    row = next(
        row
        for row in finished.results["pairs"]
        if row["label"] != row["before"]["top1"]
    )
    base = finished.root / "checkpoints"
    config = finished.root / "config.yaml"
    true, predicted = row["label"], row["before"]["top1"]
    messages = {
        true: rf"must not be the true class of probe {row['probe']}, got {true}",
        predicted: (
            rf"target must be neither the true class \({true}\) nor the "
            rf"predicted one \({predicted}\).*, got {predicted}; choose"
        ),
    }
    for target, wanted in messages.items():
        out = tmp_path / f"to-{target}"
        words = ["--probe", row["probe"], "--target", target, "--base", base]
        refused(wanted, "run", "--config", config, *words, "--out", out, keeps=base)
        assert not (out / "pairs.json").exists()


def test_a_base_of_another_architecture(
    finished: FinishedRun, tmp_path: Path, refused: Refused
):
    base = finished.root / "checkpoints"
    wide = write_config(tmp_path / "asked", replace(finished.config, scale="paper"))
    wanted = (
        r"checkpoint must be of the same architecture, got \(16, 1, 3, 3\) for stem"
    )
    out = tmp_path / "run"
    refused(wanted, "run", "--config", wide, "--base", base, "--out", out, keeps=base)


def test_a_base_of_another_order(
    finished: FinishedRun, tmp_path: Path, refused: Refused
):
    base, config = finished.root / "checkpoints", finished.root / "config.yaml"
    out = tmp_path / "run"
    words = ["--config", config, "--seed", "7", "--base", base, "--out", out]
    refused(
        "must visit the documents in the order of seed 7", "run", *words, keeps=base
    )
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("is_recorded", "wanted"),
    [
        (False, "must be a safetensors file, got a truncated"),
        (True, "must have sha256"),
    ],
    ids=["alone", "with its record"],
)
@pytest.mark.parametrize(
    "content",
    [lambda old: old[:-100], lambda old: b"", lambda old: b"\xff" * 64],
    ids=["truncated", "empty", "other"],
)
def test_a_base_that_cannot_be_read(
    content: Callable[[bytes], bytes],
    is_recorded: bool,
    wanted: str,
    finished: FinishedRun,
    tmp_path: Path,
    refused: Refused,
):
    base, config = tmp_path / "base", finished.root / "config.yaml"
    shutil.copytree(finished.root / "checkpoints", base)
    last = base / "epoch-003.safetensors"
    last.write_bytes(content(last.read_bytes()))
    if not is_recorded:
        last.with_name(last.name + ".record.json").unlink()
    out = tmp_path / "run"
    refused(wanted, "run", "--config", config, "--base", base, "--out", out, keeps=base)


@pytest.mark.parametrize(
    "words",
    [
        ["--k", "4"],
        ["--seed", "1"],
        ["--pairs", "1"],
        ["--epsilon", "0.25"],
        ["--delivery", "as_coded"],
        ["--fisher", "exact"],
        ["--threads", "2"],
        ["--base", "elsewhere"],
    ],
    ids=" ".join,
)
def test_a_run_folder_keeps_its_inputs(
    words: list[str], finished: FinishedRun, refused: Refused
):
    root = finished.root
    wanted = "run folder must keep the inputs it was started with, got .*; choose"
    config = root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", root, *words, keeps=root)


ARTEFACTS = [
    "checkpoints/epoch-001.safetensors",
    "checkpoints/epoch-003.safetensors",
    "accuracy.json",
    "pairs.json",
    "curvature/ekfac.safetensors",
    "scores/pair-001.safetensors",
    "edits/pair-000.safetensors",
    "edits/pair-001.json",
    "edits/manifest.jsonl",
    "retrain/clean_replay.json",
    "retrain/pair-000-edit.json",
    "retrain/pair-001-noise_l2.json",
    "results.json",
]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda old: old[: len(old) // 2],
    "emptied": lambda old: b"",
    "one bit": lambda old: old[:-9] + bytes([old[-9] ^ 1]) + old[-8:],
}


@pytest.fixture
def damaged(finished: FinishedRun, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    shutil.copytree(finished.root, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_an_altered_artefact(
    name: str, damage: str, damaged: Path, finished: FinishedRun, refused: Refused
):
    path = damaged / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    wanted = rf"{re.escape(name)} must have sha256 .*, got .*: it was truncated or alt"
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"null", b"\xff\xff", b'{"sha256": "', b'{"sha257": "0"}\n'],
)
@pytest.mark.parametrize("name", ["checkpoints/epoch-002.safetensors", "pairs.json"])
def test_an_altered_record(
    name: str, content: bytes, damaged: Path, finished: FinishedRun, refused: Refused
):
    (damaged / f"{name}.record.json").write_bytes(content)
    wanted = rf"{re.escape(name)}.record.json must be JSON with two hashes, got a trun"
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


def test_a_lost_artefact(damaged: Path, finished: FinishedRun, refused: Refused):
    (damaged / "curvature/ekfac.safetensors").unlink()
    wanted = "curvature/ekfac.safetensors must have sha256 .*, got no file"
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "one bit"])
def test_an_altered_config(
    damage: str, damaged: Path, finished: FinishedRun, refused: Refused
):
    path = damaged / "config.yaml"
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    wanted = r"run folder must keep the inputs .* got .* where .*config.yaml says"
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


def test_altered_times(damaged: Path, finished: FinishedRun, refused: Refused):
    """Read only when a stage has work to do, so the curvature is taken away."""
    (damaged / "times.json").write_text('{"train": 1.')
    for lost in damaged.glob("curvature/*"):
        lost.unlink()
    wanted = r"times.json must hold a JSON object of seconds, got a truncated"
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "times.json",
            "times.json must be at most 16,777,216 bytes, as what it is",
        ),
        ("config.yaml", "config.yaml must be at most 16,777,216 bytes"),
        ("environment.json", "environment.json must be at most 16,777,216 bytes"),
        (
            "curvature/ekfac.safetensors.record.json",
            "record.json must be at most 16,777,216 bytes",
        ),
        (
            "curvature/ekfac.safetensors",
            "ekfac.safetensors must have sha256 .*, got 1,099,511,627,776",
        ),
    ],
)
def test_a_file_that_would_not_fit_is_not_read(
    name: str, wanted: str, damaged: Path, finished: FinishedRun, refused: Refused
):
    """A hole of a terabyte takes no room on the disk."""
    if name == "times.json":
        for lost in damaged.glob("curvature/*"):
            lost.unlink()
    os.truncate(damaged / name, 1 << 40)
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged)


def test_want_of_memory_is_said_in_one_line(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    def hungry() -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setitem(COMMANDS, "claims", hungry)
    wanted = "memory must hold what a stage needs, got .*allocate memory.*to go on$"
    refused(wanted, "claims")


def test_other_faults_of_torch_are_not_taken_for_want_of_memory(
    monkeypatch: pytest.MonkeyPatch,
):
    def wrong() -> None:
        torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setitem(COMMANDS, "claims", wrong)
    monkeypatch.setattr("sys.argv", ["infusion", "claims"])
    with pytest.raises(RuntimeError, match="size"):
        main()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "environment.json must be a JSON object, got a truncated or altered"),
        (b"\xff", "environment.json must be a JSON object, got a truncated or altered"),
        (b"{}", "must be continued where it was started, got .* says None; choose"),
    ],
)
def test_an_altered_environment(
    content: bytes,
    wanted: str,
    damaged: Path,
    finished: FinishedRun,
    refused: Refused,
):
    (damaged / "environment.json").write_bytes(content)
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


def test_another_machine(damaged: Path, finished: FinishedRun, refused: Refused):
    path = damaged / "environment.json"
    there = path.read_text(encoding="utf-8")
    machine = finished.results["environment"]["machine"]
    path.write_text(there.replace(machine, "pdp11"), encoding="utf-8")
    wanted = rf"got machine {machine} where .*environment.json says pdp11; choose"
    config = finished.root / "config.yaml"
    refused(wanted, "run", "--config", config, "--out", damaged, keeps=damaged)


@pytest.mark.parametrize("name", ["results.json", "edits/pair-000.safetensors"])
def test_a_page_of_altered_artefacts(name: str, damaged: Path, refused: Refused):
    path = damaged / name
    path.write_bytes(path.read_bytes()[:-100])
    refused("truncated or altered", "report", damaged, keeps=damaged)


# What the pictures are


def png(size: int = 6, value: int = 7) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, 2 * value, 3)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


PICTURES = [png(value=v) for v in range(12)]
LABELS = [v % 10 for v in range(12)]
FLOATS = np.full((12, 3, 6, 6), 0.5, dtype=np.float32)


def write_parquet(folder: Path, split: str, **columns: Any):
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


def good_parquet(folder: Path):
    for split in ("train", "test"):
        write_parquet(folder, split, img=PICTURES, label=LABELS)


def with_labels(labels: list[Any], split: str = "train"):
    def write(folder: Path):
        good_parquet(folder)
        write_parquet(folder, split, img=PICTURES, label=labels)

    return write


def with_pictures(pictures: list[Any], split: str = "train"):
    def write(folder: Path):
        good_parquet(folder)
        write_parquet(folder, split, img=pictures, label=LABELS)

    return write


def with_array(pixels: np.ndarray):
    def write(folder: Path):
        for split in ("train", "test"):
            write_parquet(folder, split, img=pixels.tolist(), label=LABELS)

    return write


def with_float(value: float):
    pixels = FLOATS.copy()
    pixels[3, 1, 2, 2] = value
    return with_array(pixels)


def ragged(folder: Path):
    pixels = [*FLOATS[1:].tolist(), FLOATS[0, :, :3].tolist()]
    for split in ("train", "test"):
        write_parquet(folder, split, img=pixels, label=LABELS)


def columns(**names: Any):
    def write(folder: Path):
        for split in ("train", "test"):
            write_parquet(folder, split, **names)

    return write


def empty_split(folder: Path):
    good_parquet(folder)
    whole = pq.read_table(folder / "test.parquet")
    pq.write_table(whole.slice(0, 0), folder / "test.parquet")


def no_test_split(folder: Path):
    write_parquet(folder, "train", img=PICTURES, label=LABELS)


def other_names(folder: Path):
    write_parquet(folder, "everything", img=PICTURES, label=LABELS)


def damaged_parquet(damage: str):
    def write(folder: Path):
        good_parquet(folder)
        path = folder / "train.parquet"
        path.write_bytes(DAMAGE[damage](path.read_bytes()))

    return write


def image_folder(
    classes: Sequence[str] = CLASS_NAMES, splits: tuple[str, ...] = ("train", "test")
):
    def write(folder: Path):
        for split in splits:
            for name in classes:
                path = folder / split / name / "0.png"
                path.parent.mkdir(parents=True)
                path.write_bytes(png(value=len(name))["bytes"])

    return write


def image_folder_with_text(folder: Path):
    image_folder()(folder)
    (folder / "train/cat/0.png").write_text("not a picture")


def named_labels(train: Sequence[str], test: Sequence[str] = CLASS_NAMES):
    """Parquet whose label column carries the names of its classes."""

    def write(folder: Path):
        for split, names in {"train": train, "test": test}.items():
            features = datasets.Features(
                img=datasets.Image(), label=datasets.ClassLabel(names=list(names))
            )
            rows = {"img": PICTURES, "label": LABELS}
            part = datasets.Dataset.from_dict(rows, features=features)
            part.to_parquet(folder / f"{split}.parquet")

    return write


OTHER_CLASSES = [name.replace("automobile", "car") for name in CLASS_NAMES]
OTHER_ORDER = [*CLASS_NAMES[:3], "deer", "cat", *CLASS_NAMES[5:]]


SHORT = {"bytes": png()["bytes"][:50], "path": None}
TEXT = {"bytes": b"not a picture", "path": None}
BAD_DATA: dict[str, tuple[Callable[[Path], None], str]] = {
    "too few, named": (named_labels(CLASS_NAMES), "trains on 10000 documents, got 12"),
    "too few, in folders": (image_folder(), "trains on 10000 documents, got 10 in"),
    "too few": (good_parquet, "trains on 10000 documents, got 12 in .*; use"),
    "label 10": (with_labels([*LABELS[1:], 10]), "lie in 0…9, got 1…10|got 0…10; give"),
    "label -1": (with_labels([*LABELS[1:], -1]), "labels must lie in 0…9, got -1…9"),
    "test label": (with_labels([99] * 12, "test"), "labels must lie in 0…9, got 99…99"),
    "no label": (with_labels([*LABELS[1:], None]), "labels must be integers, got None"),
    "text label": (with_labels(["cat"] * 12), "Couldn't cast|labels must be integers"),
    "float label": (
        lambda f: columns(img=PICTURES, label=[0.5] * 12)(f),
        r"labels must be integers, got 0\.5 in column label",
    ),
    "empty split": (empty_split, "must hold at least one document, got 0 in"),
    "no test split": (no_test_split, r"split named test or .*, got \['train'\]"),
    "other names": (other_names, r"must hold train\*.parquet .* got \['everything"),
    "no pictures": (columns(x=LABELS, label=LABELS), r"a picture column .* got \['x'"),
    "no labels": (columns(img=PICTURES, y=LABELS), r"a label column, got \['img', 'y'"),
    "sizes": (with_pictures([*PICTURES[1:], png(8)]), "one size, got .*; resize"),
    "test size": (
        with_pictures([png(8)] * 12, "test"),
        "one size and one storage, got",
    ),
    "no picture": (with_pictures([*PICTURES[1:], None]), "got none in row 11 of"),
    "text bytes": (with_pictures([TEXT, *PICTURES[1:]]), "got none in row 0 of .*drop"),
    "short bytes": (with_pictures([SHORT, *PICTURES[1:]]), "got none in row 0 of"),
    "numbers": (
        columns(img=LABELS, label=LABELS),
        "got none in row 0 of .*struct; drop",
    ),
    "nan": (with_float(float("nan")), "must be finite, got NaN .* first in row 3"),
    "inf": (with_float(float("inf")), "must be finite, got NaN .* first in row 3"),
    "-inf": (with_float(-float("inf")), "must be finite, got NaN .* first in row 3"),
    "above 1": (with_float(1.01), r"must lie in \[0, 1\], got \[0.5, 1.01\]; rescale"),
    "below 0": (with_float(-0.01), r"must lie in \[0, 1\], got \[-0.01, 0.5\]; resc"),
    "0…255 floats": (with_array(FLOATS * 200), r"must lie in \[0, 1\], got \[100, 100"),
    "level 256": (with_array(np.full((12, 6, 6, 3), 256)), "integers in 0…255 or fl"),
    "level -1": (with_array(np.full((12, 6, 6, 3), -1)), "integers in 0…255 or fl"),
    "channels": (with_array(FLOATS[:, :2]), r"one or three channels.*got \(6, 6, 2\)|"),
    "ragged": (ragged, "one size, got|picture must be readable"),
    "truncated": (
        damaged_parquet("truncated"),
        "must be a parquet file, got a truncated",
    ),
    "emptied": (damaged_parquet("emptied"), "must be a parquet file, got a truncated"),
    "empty folder": (lambda folder: None, "an image folder or .* got .*; check"),
    "no test folder": (image_folder(splits=("train",)), "split named test or"),
    "two classes": (image_folder(["a", "b"]), "must have 10 classes, got 2 .*: a, b;"),
    "other classes": (
        image_folder(OTHER_CLASSES),
        "class 1 of the data must be 'automobile', got 'bird' in .*; name and order",
    ),
    "other names of labels": (
        named_labels(OTHER_CLASSES),
        r"class 1 of the data must be 'automobile', got 'car' in .*\(train\); name",
    ),
    "other order": (
        named_labels(OTHER_ORDER),
        r"class 3 of the data must be 'cat', got 'deer' in .*\(train\); name and ord",
    ),
    "other order in test": (
        named_labels(CLASS_NAMES, OTHER_ORDER),
        r"class 3 of the data must be 'cat', got 'deer' in .*\(test\); name and order",
    ),
    "text file": (image_folder_with_text, "every picture must be readable, got none"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(case: str, tmp_path: Path, refused: Refused):
    write, wanted = BAD_DATA[case]
    folder, out = tmp_path / "data", tmp_path / "run"
    folder.mkdir()
    write(folder)
    refused(wanted, "run", "cifar10", "--data", folder, "--out", out, keeps=folder)
    assert not out.exists()


@pytest.mark.parametrize("source", ["/no/such", "./no/such", "~/no/such", "README.md"])
def test_no_such_folder(source: str, refused: Refused):
    wanted = rf"must name a folder or a hub dataset, got {re.escape(source)}, which is"
    refused(wanted, "run", "cifar10", "--data", source)


def test_no_such_hub_dataset(refused: Refused, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    wanted = r"or a hub dataset, got no/such: .*; check the path, the files or the net"
    refused(wanted, "run", "cifar10", "--data", "no/such")


def test_data_that_changed_under_a_run(tmp_path: Path, refused: Refused):
    folder, out = tmp_path / "data", tmp_path / "run"
    folder.mkdir()
    good_parquet(folder)
    config = replace(
        SMALL,
        data=replace(SMALL.data, train=8),
        train=replace(SMALL.train, epochs=2),
        edit=replace(SMALL.edit, k=2),
        pairs=0,
        threads=1,
    )
    path = write_config(tmp_path / "asked", config)
    words = ["run", "--config", path, "--data", folder, "--out", out]
    run_command(*words)
    for split, name in [("train", "checkpoints/epoch-001"), ("test", "accuracy.json")]:
        with_pictures([png(value=v + 1) for v in range(12)], split)(folder)
        wanted = rf"stored {name}.* must have been made from the inputs of this run"
        refused(wanted, *words, keeps=out)


def run_command(*words: str | Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["infusion", *map(str, words)])
        main()


# What a dataset may be, from Python

PIXELS = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(0))
CLASS = torch.arange(5)


def spoilt(value: float) -> torch.Tensor:
    pixels = PIXELS.clone()
    pixels[2, 0, 1, 1] = value
    return pixels


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"inputs": PIXELS[:0], "labels": CLASS[:0]}, "at least one document, got 0"),
        ({"labels": CLASS[:4]}, "equally many, got 5 and 4; give one label each"),
        (
            {"inputs": spoilt(float("nan"))},
            "finite, got NaN .* 1 entries.* row 2; drop",
        ),
        ({"inputs": spoilt(float("inf"))}, "finite, got NaN or infinity .* row 2"),
        ({"inputs": spoilt(-float("inf"))}, "finite, got NaN or infinity .* row 2"),
        ({"inputs": spoilt(1.5)}, r"lie in \[0, 1\], got \[.*, 1.5\]; rescale"),
        ({"inputs": spoilt(-1.0)}, r"lie in \[0, 1\], got \[-1, .*\]; rescale"),
        ({"labels": CLASS + 6}, "labels must lie in 0…9, got 6…10; give the right"),
        ({"labels": CLASS - 1}, r"labels must lie in 0…9, got -1…3; give the right"),
        ({"labels": CLASS.double()}, "must be integers, got torch.float64; cast"),
        (
            {"labels": CLASS.int()},
            r"be int64, .* got torch.int32; pass labels.long\(\)",
        ),
        ({"labels": CLASS.byte()}, r"be int64, .* torch.uint8; pass labels.long\(\)"),
        ({"labels": CLASS.bool()}, r"be int64, .* torch.bool; pass labels.long\(\)"),
        ({"labels": CLASS / 0, "num_classes": None}, "labels must be finite, got NaN"),
        ({"levels": 16}, "grid needs uint8 levels .* got torch.float32 and levels=16"),
        (
            {"inputs": (PIXELS * 99).byte(), "levels": 16},
            r"stored levels must be ≤ 16, got \d+; pass the grid",
        ),
        ({"inputs": PIXELS.byte(), "levels": 0}, "1 ≤ levels ≤ 255, got .*levels=0"),
    ],
)
def test_datasets_refuse(arguments: dict[str, Any], wanted: str):
    good = {"inputs": PIXELS, "labels": CLASS, "valid": (0.0, 1.0), "num_classes": 10}
    assert len(Dataset(**good)) == 5
    with pytest.raises(InputError, match=wanted):
        Dataset(**{**good, **arguments})


@pytest.mark.parametrize("budget", [LInf, L2])
@pytest.mark.parametrize("epsilon", [0.0, -0.1, float("nan"), float("inf")])
def test_budgets_refuse(budget: type[LInf], epsilon: float):
    with pytest.raises(InputError, match=rf"> 0 and finite, got epsilon={epsilon}"):
        budget(epsilon)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_must_fit(k: int):
    with pytest.raises(
        InputError, match=rf"k must be a whole number in 1…5, .* got {k}; choose"
    ):
        select(torch.zeros(5), k=k)


def test_errors_can_be_caught_as_what_they_are():
    with pytest.raises(ValueError, match="k must be a whole number in"):
        select(torch.zeros(5), k=9)
