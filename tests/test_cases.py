"""A case from export to certificate, and what is refused on the way."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from infusion.audit.judge import curve
from infusion.audit.rows import read_rows
from infusion.audit.seal import root_of
from infusion.cases.case import DOCUMENTS, read_case
from infusion.cases.certificate import Reading
from infusion.cases.certify import certify
from infusion.cases.export import export
from infusion.cases.inspect import audit_case, audit_question
from infusion.cases.pictures import (
    Stored,
    decoded,
    read_stored,
    to_stored,
    write_stored,
)
from infusion.cases.truth import Truth, check_truth, read_truth, write_truth
from infusion.cases.undo import read_flags, undo, undone
from infusion.command.cli import main
from infusion.errors import ArtefactError, InfusionError, InputError
from infusion.presets import find_preset
from infusion.presets.digits import PRESET
from infusion.records import Dataset


@dataclass(frozen=True)
class Handed:
    """An exported case, what is known of it, and an audit that was told both."""

    given: Path
    truth: Path
    affected: Path
    target: str
    audit: Path


@pytest.fixture(scope="session")
def handed(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Handed:
    out = tmp_path_factory.mktemp("cases") / "case"
    found = export(small_run, pair=0, arm="edit", out=out)
    assert found["as_measured"], "the model is the one that the run measured"
    assert (found["edited"], found["documents"]) == (10, 400)
    case = Handed(
        out / "given",
        out / "truth",
        out / "affected.png",
        found["target"],
        out / "audit",
    )
    audit_case(
        case.given,
        affected=case.affected,
        unwanted=case.target,
        truth=case.truth,
        out=case.audit,
    )
    return case


@pytest.fixture
def copied(handed: Handed, tmp_path: Path) -> Handed:
    """The same in a folder of its own, to be spoilt."""
    shutil.copytree(handed.given.parent, tmp_path / "case")
    root = tmp_path / "case"
    return Handed(
        root / "given",
        root / "truth",
        root / "affected.png",
        handed.target,
        root / "audit",
    )


def test_an_undo_brings_every_byte_back(handed: Handed, tmp_path: Path):
    found = undo(handed.given, handed.truth, None, tmp_path / "back", drop=False)
    assert (found["restored"], found["missed"], found["untouched"]) == (10, 0, 0)
    config = read_case(handed.given).config
    clean, _ = PRESET.load(config.data)
    write_stored(tmp_path / "clean.parquet", to_stored(clean))
    restored = (tmp_path / "back" / DOCUMENTS).read_bytes()
    assert restored == (tmp_path / "clean.parquet").read_bytes()
    assert restored != (handed.given / DOCUMENTS).read_bytes()
    assert read_case(tmp_path / "back").train == clean


def test_seals_of_a_case_name_what_its_manifest_names(handed: Handed, tmp_path: Path):
    undo(handed.given, handed.truth, None, tmp_path / "back", drop=False)
    before = read_rows(str(tmp_path / "back" / DOCUMENTS))
    after = read_rows(str(handed.given / DOCUMENTS))
    changed = [a.row for a, b in zip(after, before, strict=True) if a.hash != b.hash]
    assert changed == sorted(read_truth(handed.truth).documents)
    assert root_of(before) != root_of(after)


def test_flagged_rows_alone_are_restored(handed: Handed, tmp_path: Path):
    case, truth = read_case(handed.given), read_truth(handed.truth)
    edited = sorted(truth.documents)
    clean = next(i for i in range(400) if i not in edited)
    found = undone(case, truth, [*edited[:4], clean], drop=False)
    assert (found.restored, found.untouched, found.missed) == (
        edited[:4],
        [clean],
        edited[4:],
    )
    assert found.rows[clean] == case.rows[clean]
    place = truth.documents.index(edited[0])
    assert found.rows[edited[0]] == truth.originals[place]
    dropped = undone(case, None, edited, drop=True)
    assert len(dropped.rows) == 390
    assert dropped.dropped == edited
    with pytest.raises(InputError, match="neither --truth nor --drop"):
        undone(case, None, None, drop=True)
    with pytest.raises(InputError, match="all of them flagged"):
        undone(case, None, list(range(400)), drop=True)


def test_an_audit_ranks_every_document(handed: Handed):
    results = json.loads((handed.audit / "audit.json").read_text())
    with (handed.audit / "issues.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(400))
    scores = [float(row["score"]) for row in rows]
    assert all(0 <= score <= 1 for score in scores)
    flags = {int(row["index"]) for row in rows if row["is_flagged"] == "True"}
    assert flags == {i for i, score in enumerate(scores) if score < 0.5}
    assert len(flags) == results["flagged"]
    edited = set(read_truth(handed.truth).documents)
    judged = results["judged"]
    assert judged["found"] == len(flags & edited)
    assert judged["falsely"] == len(flags - edited)
    truth = [i in edited for i in range(400)]
    worse = [-score for score in scores]  # 6 digits: scores may tie that did not
    assert judged["auroc"] == pytest.approx(roc_auc_score(truth, worse), abs=1e-4)
    worst = sorted(range(400), key=lambda i: scores[i])[:3]
    assert {row["index"] for row in results["ranked"][:3]} == set(worst)
    outcomes = {each["title"]: each["outcome"] for each in results["findings"]}
    assert outcomes["unlikely tokens"] == "not applicable"
    assert outcomes["changed pixels"] == "not applicable", "of too few pictures"
    assert outcomes["wrong labels"] != "not applicable"
    assert sum(results["distribution"]["counts"]["edited"]) == 10


def test_nothing_reported_needs_no_behaviour(handed: Handed, tmp_path: Path):
    results = audit_case(
        handed.given, affected=None, unwanted=None, truth=None, out=tmp_path / "audit"
    )
    assert not results["told"]
    assert results["judged"] is None
    titles = [each["title"] for each in results["findings"]]
    assert "drives the behaviour" not in titles
    assert "influence on the behaviour" in titles, "as not applicable"


def certified(handed: Handed, out: Path, **flags: object) -> dict:
    asked = {"truth": handed.truth, "flagged": None, "drop": False, **flags}
    return certify(
        handed.given,
        affected=handed.affected,
        unwanted=handed.target,
        seeds=3,
        data=None,
        out=out,
        **asked,  # pyright: ignore[reportArgumentType]
    )


def test_a_whole_undo_is_certified(handed: Handed, small_run: Path, tmp_path: Path):
    found = certified(handed, tmp_path / "certificate")
    outcomes = {each["code"]: each["outcome"] for each in found["findings"]}
    assert outcomes["C001"] == outcomes["C002"] == outcomes["C003"] == "pass"
    clean = json.loads((small_run / "retrain" / "clean_replay.json").read_text())
    assert found["after"]["log_p"] == pytest.approx(
        clean["behaviours"][0]["log_p"], abs=1e-5
    ), "its own order on the same bytes is the clean replay"
    assert found["after"]["accuracy"] == clean["accuracy"]
    low, high = found["band"]
    assert low < Reading(**found["after"]).log_odds < high


def test_edits_that_stay_are_no_pass(handed: Handed, tmp_path: Path):
    flags = tmp_path / "issues.csv"
    lines = [f"{i},0.9,False" for i in range(400)]
    flags.write_text("\n".join(["index,score,is_flagged", *lines]) + "\n")
    found = certified(handed, tmp_path / "certificate", flagged=flags)
    outcomes = {each["code"]: each["outcome"] for each in found["findings"]}
    assert outcomes["C002"] == "fail"
    assert found["missed"] == 10
    assert found["verdict"] == "fail"


def test_what_cannot_be_checked_is_no_pass(handed: Handed, tmp_path: Path):
    flags = handed.audit / "issues.csv"
    found = certified(
        handed, tmp_path / "certificate", truth=None, flagged=flags, drop=True
    )
    outcomes = {each["code"]: each["outcome"] for each in found["findings"]}
    assert {outcomes[f"C00{n}"] for n in (1, 2, 3, 5)} == {"not applicable"}
    assert found["clean"] == []
    assert found["band"] is None


def line_of(copied: Handed, number: int = 0) -> dict:
    return json.loads(
        (copied.truth / "manifest.jsonl").read_text().splitlines()[number]
    )


def rewrite(copied: Handed, change: Callable[[dict], dict], number: int = 0) -> None:
    path = copied.truth / "manifest.jsonl"
    lines = path.read_text().splitlines()
    lines[number] = json.dumps(change(json.loads(lines[number])))
    path.write_text("\n".join(lines) + "\n")


LIES: dict[str, tuple[Callable[[dict], dict], str]] = {
    "another hash": (lambda x: {**x, "hash_after": "0" * 64}, "hash_after of document"),
    "another original": (lambda x: {**x, "hash_before": "0" * 64}, "hash_before of"),
    "another label": (lambda x: {**x, "label": 1 + x["label"]}, "label of document"),
    "other bytes": (lambda x: {**x, "stored_before": "0" * 64}, "must have the bytes"),
    "a smaller distance": (
        lambda x: {**x, "reached": {**x["reached"], "linf": 0.01}},
        "linf that document",
    ),
    "a smaller budget": (
        lambda x: {**x, "asked": {**x["asked"], "epsilon": 0.01}},
        "within the linf asked for",
    ),
    "no distance": (
        lambda x: {**x, "reached": {**x["reached"], "linf": math.nan}},
        "linf that document .* got nan",
    ),
    "an unknown norm": (
        lambda x: {**x, "asked": {**x["asked"], "norm": "l3"}},
        r"a distance of linf, l2, got 'l3' 0",
    ),
    "a budget in words": (
        lambda x: {**x, "asked": {**x["asked"], "epsilon": "much"}},
        r"a distance of linf, l2, got 'linf' much",
    ),
    "a negative document": (
        lambda x: {**x, "index": -3},
        r"documents in 0…399, got -3",
    ),
    "another dataset": (lambda x: {**x, "index": 400}, r"documents in 0…399, got 400"),
    "a missing key": (lambda x: {"index": x["index"]}, "an altered line 1"),
    "a wrong kind": (lambda x: {**x, "index": "3"}, "an altered line 1"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_is_checked_never_believed(copied: Handed, lie: str, tmp_path: Path):
    change, wanted = LIES[lie]
    assert line_of(copied)["asked"]["norm"] == "linf"
    rewrite(copied, change)
    with pytest.raises(ArtefactError, match=wanted):
        undo(copied.given, copied.truth, None, tmp_path / "back", drop=False)
    assert not (tmp_path / "back").exists()


def test_a_document_is_named_once(copied: Handed):
    first = line_of(copied)["index"]
    rewrite(copied, lambda x: {**x, "index": first}, number=1)
    with pytest.raises(ArtefactError, match=f"once, got {first} again"):
        read_truth(copied.truth)


def test_a_missing_row_is_named(copied: Handed):
    path = copied.truth / "manifest.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ArtefactError, match="got 10 for 9"):
        read_truth(copied.truth)


SPOILT: dict[str, tuple[Callable[[Handed], None], str]] = {
    "a truncated parquet": (
        lambda h: (h.given / DOCUMENTS).write_bytes(
            (h.given / DOCUMENTS).read_bytes()[:900]
        ),
        r"must be parquet with the columns img and label",
    ),
    "no picture": (
        lambda h: write_stored(h.given / DOCUMENTS, [Stored(b"GIF89a", 0)] * 400),
        r"must be an RGB or grey PNG, got none in row 0",
    ),
    "a label out of range": (
        lambda h: relabel(h, 10),
        r"labels must lie in 0…9, got 10 in row 0",
    ),
    "another column": (
        lambda h: pq.write_table(pa.table({"x": [1]}), h.given / DOCUMENTS),
        "columns img and label",
    ),
    "a label that is no number": (
        lambda h: pq.write_table(
            pa.table({"img": [{"bytes": b"x"}], "label": ["cat"]}), h.given / DOCUMENTS
        ),
        "a whole number as label",
    ),
    "no case.json": (lambda h: (h.given / "case.json").unlink(), "must hold case.json"),
    "an altered case.json": (
        lambda h: (h.given / "case.json").write_text('{"levels": 0}'),
        "must hold levels, valid, 10 classes and documents",
    ),
    "an altered model": (
        lambda h: (h.given / "model.safetensors").write_bytes(b"x"),
        "model.safetensors must have sha256",
    ),
    "no affected picture": (lambda h: h.affected.unlink(), "No such file"),
    "another size": (
        lambda h: shutil.copy(picture(h.affected.parent / "big.png"), h.affected),
        r"must be a picture of \(1, 8, 8\)",
    ),
}


def relabel(handed: Handed, label: int) -> None:
    rows = read_stored(handed.given / DOCUMENTS)
    rows[0] = Stored(rows[0].png, label)
    write_stored(handed.given / DOCUMENTS, rows)


def picture(path: Path) -> Path:
    data = Dataset(
        torch.zeros(1, 1, 9, 9, dtype=torch.uint8),
        torch.tensor([0]),
        levels=16,
        valid=(0.0, 1.0),
        num_classes=2,
    )
    path.write_bytes(to_stored(data)[0].png)
    return path


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_case_costs_one_line(
    copied: Handed,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    spoil, wanted = SPOILT[kind]
    spoil(copied)
    out = copied.given.parent / "new"
    words = ["audit", copied.given, "--affected", copied.affected]
    words += ["--unwanted", copied.target, "--out", out]
    monkeypatch.setattr("sys.argv", ["infusion", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(said) == 1
    with pytest.raises(AssertionError, match=wanted):
        raise AssertionError(said[0])
    assert not out.exists()


def test_flags_must_be_of_this_case(tmp_path: Path):
    path = tmp_path / "issues.csv"
    path.write_text("index,is_flagged\n0,True\n1,False\n")
    assert read_flags(path, 2) == [0]
    for size, text in (
        (3, "index,is_flagged\n0,True\n1,False\n"),
        (2, "index,is_flagged\n0,True\n0,True\n"),
        (2, "index,is_flagged\n0,yes\n1,no\n"),
        (2, "index,is_edited\n0,True\n1,False\n"),
        (2, "index,is_flagged\n7,True\n1,False\n"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match="--flagged must"):
            read_flags(path, size)


def test_a_run_without_that_pair_or_arm_is_refused(small_run: Path, tmp_path: Path):
    for wanted, flags in (
        (r"--pair must lie in 0…1", {"pair": 2, "arm": "edit"}),
        ("--arm must be one of edit, noise_linf", {"pair": 0, "arm": "clean_replay"}),
    ):
        with pytest.raises(InputError, match=wanted):
            export(small_run, **flags, out=tmp_path / "out")  # pyright: ignore
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out, what in (
        (tmp_path / "full", "holds files"),
        (tmp_path / "full/x", "is a"),
    ):
        with pytest.raises(InputError, match=f"must be a new folder, .* which {what}"):
            export(small_run, pair=0, arm="edit", out=out)
    with pytest.raises(InputError, match=r"must hold config.yaml"):
        export(tmp_path, pair=0, arm="edit", out=tmp_path / "out")


def test_an_audit_of_a_task_reads_one_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "asked.py").write_text(ASKED)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = audit_question("asked:one", skip=(), batch_size=64, out=tmp_path / "audit")
    assert found["told"]
    assert found["rows"] == 120
    with pytest.raises(InputError, match="takes one reported behaviour, got 2"):
        audit_question("asked:two", skip=(), batch_size=64, out=tmp_path / "audit")
    untold = audit_question("asked:none", skip=(), batch_size=64, out=tmp_path / "b")
    assert not untold["told"]


ASKED = """
import torch
from torch import nn
import infusion as inf

draw = torch.Generator().manual_seed(0)
x = torch.randn(120, 5, generator=draw)
data = inf.Dataset(x, (x[:, 0] > 0).long(), num_classes=2)
task = inf.classification(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)))
measure = inf.log_prob(x[0], 1)


def none():
    return inf.Question(task, data, {})


def one():
    return inf.Question(task, data, {"wrong": measure})


def two():
    return inf.Question(task, data, {"wrong": measure, "other": measure})
"""


def test_precision_and_recall_are_traced_by_hand():
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    edited = torch.tensor([True, False, True, False, False])
    assert curve(scores, edited) == [(0.5, 1.0), (1.0, 2 / 3)]


@pytest.fixture(scope="module")
def pieces(handed: Handed) -> dict[str, bytes]:
    """Every file of a case and its truth."""
    root = handed.given.parent
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in (handed.given, handed.truth)
        for path in folder.iterdir()
        if path.name != "start.safetensors"
    }


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_altered_byte_breaks_a_reader(
    pieces: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
):
    """Fuzzed files are read, or refused in one line; nothing else is raised."""
    root = tmp_path_factory.mktemp("fuzz")
    name = data.draw(st.sampled_from(sorted(pieces)))
    spoilt = bytearray(pieces[name])
    kind = data.draw(st.sampled_from(["byte", "cut", "insert"]))
    place = data.draw(st.integers(0, len(spoilt) - 1))
    if kind == "byte":
        spoilt[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del spoilt[place:]
    else:
        spoilt[place:place] = data.draw(st.binary(min_size=1, max_size=40))
    for each, content in pieces.items():
        path = root / each
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(spoilt) if each == name else content)
    said: list[str] = []
    try:
        case = read_case(root / "given")
        truth = read_truth(root / "truth")
        check_truth(case, truth)
        case.trained()
    except InfusionError as error:
        said.append(str(error))
    assert not any("\n" in line for line in said)
    shutil.rmtree(root)


def test_what_is_written_is_read_back(handed: Handed, tmp_path: Path):
    truth = read_truth(handed.truth)
    plain = [
        {k: v for k, v in x.items() if k != "stored_before"} for x in truth.manifest
    ]
    again = Truth(plain, truth.originals, truth.label, truth.target)
    write_truth(tmp_path / "truth", again)
    assert read_truth(tmp_path / "truth") == truth
    assert find_preset("digits").class_names[truth.target] == handed.target
    rows = decoded(truth.originals, read_case(handed.given).about, tmp_path)
    assert to_stored(rows) == truth.originals


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("case.json", '"classes": 10', '"classes": 1000000000000', "10 classes"),
        ("case.json", '"documents": 400', '"documents": 401', "must hold 401 doc"),
        ("config.yaml", "architecture: resnet", "architecture: os.system", "a network"),
        ("config.yaml", "  epochs: ", "  epochs: -", "epochs of the training recipe"),
    ],
)
def test_a_case_that_says_something_else_is_refused_by_all(
    copied: Handed, tmp_path: Path, file: str, old: str, new: str, said: str
):
    path = copied.given / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InfusionError, match=said):
        undo(copied.given, copied.truth, None, tmp_path / "out", drop=False)
    with pytest.raises(InfusionError, match=said):
        audit_case(
            copied.given, affected=None, unwanted=None, truth=None, out=tmp_path / "out"
        )
    with pytest.raises(InfusionError, match=said):
        certified(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_undo_looks_at_every_row(copied: Handed, tmp_path: Path):
    rows = read_stored(copied.given / DOCUMENTS)
    left = next(k for k in range(400) if k not in read_truth(copied.truth).documents)
    rows[left] = replace(rows[left], png=b"junk")
    write_stored(copied.given / DOCUMENTS, rows)
    with pytest.raises(InputError, match=r"must be an RGB or grey PNG, got none in"):
        undo(copied.given, copied.truth, None, tmp_path / "out", drop=False)
    assert not (tmp_path / "out").exists()


def test_test_documents_are_not_fetched_for_a_case(copied: Handed, tmp_path: Path):
    path = copied.given / "config.yaml"
    path.write_text(path.read_text().replace("source: bundled", "source: some/where"))
    with pytest.raises(InputError, match="must be on this machine, got 'some/where'"):
        certified(copied, tmp_path / "out")


def test_results_lie_outside_of_what_is_read(handed: Handed, tmp_path: Path):
    with pytest.raises(InputError, match="must lie outside of what is read"):
        undo(handed.given, handed.truth, None, handed.given / "x", drop=False)
    with pytest.raises(InputError, match="must lie outside of what is read"):
        certified(handed, handed.truth / "x")
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="must be a folder, got"):
        certified(handed, file / "below")
    assert file.read_text() == "mine"


def test_flags_say_true_or_false(handed: Handed, tmp_path: Path):
    flags = tmp_path / "issues.csv"
    lines = [f"{i},0.9,{'nan' if i == 7 else False}" for i in range(400)]
    flags.write_text("\n".join(["index,score,is_flagged", *lines]) + "\n")
    with pytest.raises(InputError, match="must say True or False under is_flagged"):
        undo(handed.given, handed.truth, flags, tmp_path / "out", drop=False)
