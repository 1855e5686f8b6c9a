"""A seal finds every row that changed, came, went or was relabelled, and no other."""

import csv
import errno
import io
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infusion.audit.changes import compare
from infusion.audit.contents import Row
from infusion.audit.rows import read_rows
from infusion.audit.run import audit, seal
from infusion.audit.seal import read_seal, root_of, seal_bytes
from infusion.command.cli import main
from infusion.errors import ArtefactError, InfusionError, InputError

from .test_bad_input import assert_one_line

Table = list[dict[str, Any]]


def png(pixels: np.ndarray, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **more)
    return out.getvalue()


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed)
    return list(noise.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8))


def write_folder(folder: Path, images: list[np.ndarray], **more: Any) -> Path:
    for i, pixels in enumerate(images):
        path = folder / "train" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(pixels, **more))
    return folder


def write_jsonl(path: Path, rows: Table) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: Table) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_pictures(path: Path, rows: Table) -> None:
    """As CIFAR-10 is stored: PNG bytes in a struct."""
    kinds = pa.schema(
        [
            ("img", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int64()),
        ]
    )
    told = [
        {
            "img": {
                "bytes": png(np.full((2, 2, 3), hash_of(row["text"]))),
                "path": None,
            },
            "label": row["label"],
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(told, schema=kinds), path)


def hash_of(text: str) -> np.uint8:
    return np.uint8(sum(text.encode()) % 251)


WRITERS: dict[str, Callable[[Path, Table], None]] = {
    "rows.jsonl": write_jsonl,
    "rows.parquet": write_parquet,
    "pictures.parquet": write_pictures,
}


def table(count: int) -> Table:
    return [{"text": f"{chr(65 + i)}", "label": i % 3} for i in range(count)]


def said(sealed: list[Row], found: list[Row]) -> list[tuple[str, Any, Any]]:
    return [
        (c.kind, c.before and c.before.row, c.after and c.after.row)
        for c in compare(sealed, found).changes
    ]


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_change_in_a_table_is_named(tmp_path: Path, name: str):
    rows = table(20)
    WRITERS[name](tmp_path / name, rows)
    sealed = read_rows(tmp_path)
    assert said(sealed, read_rows(tmp_path)) == []
    edited = [dict(row) for row in rows]
    edited[7]["text"], edited[8]["text"] = "edited", "edited too"
    edited[15]["label"] = 9
    del edited[3]
    edited.insert(12, {"text": "added", "label": 0})
    WRITERS[name](tmp_path / name, edited)
    assert said(sealed, read_rows(tmp_path)) == [
        ("removed", 3, None),
        ("changed", 7, 6),
        ("changed", 8, 7),
        ("relabelled", 15, 15),
        ("added", None, 12),
    ]


def test_every_kind_of_change_in_a_folder_is_named(tmp_path: Path):
    home = write_folder(tmp_path / "data", pictures(12))
    (home / "README.md").write_text("about")
    sealed = read_rows(home)
    pixels = pictures(12)
    pixels[4][0, 0, 0] ^= 1  # one bit
    cats, dogs = home / "train" / "cat", home / "train" / "dog"
    (cats / "4.png").write_bytes(png(pixels[4]))
    (cats / "6.png").rename(dogs / "6.png")
    (dogs / "3.png").unlink()
    (dogs / "1.png").write_bytes(png(pixels[1], compress_level=0))
    (dogs / "new.png").write_bytes(png(pictures(1, seed=1)[0]))
    (cats / "0.png").rename(cats / "renamed.png")
    (home / "README.md").write_text("About")
    compared = compare(sealed, read_rows(home))
    found = {
        (c.kind, c.before and c.before.file, c.after and c.after.file)
        for c in compared.changes
    }
    assert found == {
        ("changed", "README.md", "README.md"),
        ("changed", "train/cat/4.png", "train/cat/4.png"),
        ("relabelled", "train/cat/6.png", "train/dog/6.png"),
        ("removed", "train/dog/3.png", None),
        ("re-encoded", "train/dog/1.png", "train/dog/1.png"),
        ("added", None, "train/dog/new.png"),
    }
    assert (compared.same, compared.moved) == (9, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_the_hashes_that_differ_are_exact_whatever_the_order_and_the_copies(seed: int):
    """The oracle is the difference of two multisets."""
    draw = random.Random(seed)
    sealed = [
        Row("a", place, str(draw.randrange(2)), str(draw.randrange(6)), "0")
        for place in range(12)
    ]
    kept = [
        replace(
            row, content=str(draw.randrange(9)) if draw.random() < 0.2 else row.content
        )
        for row in sealed
        if draw.random() < 0.9
    ]
    draw.shuffle(kept)
    found = [replace(row, row=place) for place, row in enumerate(kept)]
    compared = compare(sealed, found)
    old, new = Counter(r.hash for r in sealed), Counter(r.hash for r in found)
    gone = Counter(c.before.hash for c in compared.edits if c.before)
    came = Counter(c.after.hash for c in compared.edits if c.after)
    assert gone == old - new
    assert came == new - old
    assert compared.same == (old & new).total()


def test_the_root_depends_on_rows_and_labels_but_not_on_their_order(tmp_path: Path):
    rows = table(9)
    roots = []
    for change in (rows, rows[::-1], [rows[0] | {"label": 7}, *rows[1:]], rows[1:]):
        write_jsonl(tmp_path / "a.jsonl", change)
        roots.append(root_of(read_rows(tmp_path)))
    assert roots[0] == roots[1]
    assert len(set(roots)) == 3


def test_what_training_does_not_see_does_not_count(tmp_path: Path):
    """Grey as RGB, a palette, another compression: the same picture."""
    grey = np.full((3, 3), 7, dtype=np.uint8)
    stored = [
        png(grey),
        png(np.stack([grey] * 3, -1)),
        png(grey, compress_level=0),
    ]
    found = []
    for each in stored:
        (tmp_path / "a.png").write_bytes(each)
        found += read_rows(tmp_path / "a.png")
    assert len({row.content for row in found}) == 1
    assert len({row.stored for row in found}) == 3
    (tmp_path / "a.png").write_bytes(png(np.full((3, 3), 7 << 8, dtype=np.uint16)))
    assert read_rows(tmp_path)[0].content not in {row.content for row in found}


def test_every_column_counts_and_so_does_its_type(tmp_path: Path):
    rows = [
        {"text": "a", "label": 1, "source": "x"},
        {"text": "a", "label": 1, "source": "y"},
        {"text": "a", "label": 1, "source": 1},
        {"text": "a", "label": 1, "source": "1"},
        {"text": "a", "label": 1, "source": True},
        {"text": "a", "label": 1, "source": None},
        {"text": "a", "label": 1},
        {"text": "a", "label": 1, "labels": [2]},
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert len({row.hash for row in read_rows(tmp_path)}) == len(rows)


@pytest.fixture
def sealed_file(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "a.jsonl", table(4))
    path = tmp_path / "seal.jsonl"
    path.write_bytes(seal_bytes(read_rows(tmp_path / "a.jsonl")))
    return path


def test_a_seal_is_read_back(sealed_file: Path, tmp_path: Path):
    assert read_seal(sealed_file) == read_rows(tmp_path / "a.jsonl")


def test_any_byte_altered_is_refused(sealed_file: Path):
    whole = sealed_file.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 4, 32):
            altered = bytearray(whole)
            altered[place] ^= bit
            sealed_file.write_bytes(altered)
            with pytest.raises((ArtefactError, InputError), match=r"seal|JSON|UTF-8"):
                read_seal(sealed_file)
    for cut in range(len(whole)):
        sealed_file.write_bytes(whole[:cut])
        with pytest.raises((ArtefactError, InputError)):
            read_seal(sealed_file)


def assert_read_or_refused(home: Path) -> None:
    said = ""
    try:
        assert read_rows(home)
    except InfusionError as error:
        said = str(error)
    assert "\n" not in said


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["a.jsonl", "a.txt", "a.parquet", "a.png", "a.jpg", "a.gif", "a.x"]
    ),
    st.binary(max_size=300),
)
def test_a_reader_never_crashes(tmp_path_factory: Any, name: str, content: bytes):
    home = tmp_path_factory.mktemp("fuzz")
    (home / name).write_bytes(content)
    assert_read_or_refused(home)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from([0, 1, 2]))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: Any, place: int, value: int, kind: int
):
    home = tmp_path_factory.mktemp("damaged")
    name = list(WRITERS)[kind]
    WRITERS[name](home / name, table(6))
    content = bytearray((home / name).read_bytes())
    content[place % len(content)] = value
    (home / name).write_bytes(content)
    assert_read_or_refused(home)


def deep(count: int) -> str:
    return "[" * count + "]" * count


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "no JSON": ("a.jsonl", b"{", "must hold one object"),
    "no object": ("a.jsonl", b"[1]", "got list"),
    "a key twice": ("a.jsonl", b'{"text": 1, "text": 2}', "stands there twice"),
    "too deep": ("a.jsonl", b'{"a": ' + deep(100_000).encode() + b"}", "recursion"),
    "invalid UTF-8": ("a.txt", b"\xff", "a byte 0xff"),
    "truncated parquet": ("a.parquet", b"PAR1....PAR1", "must be whole"),
    "no picture": ("a.png", b"\x89PNG", "must be readable"),
    "a program as picture": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "must be readable"),
    "nothing": ("a.txt", b"", "at least one row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unreadable_rows_are_refused(tmp_path: Path, case: str):
    name, content, wanted = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=wanted):
        read_rows(tmp_path)


def test_paths_that_leave_the_dataset_are_refused(tmp_path: Path):
    home = write_folder(tmp_path / "data", pictures(2))
    outside = tmp_path / "secret.png"
    outside.write_bytes(png(pictures(1)[0]))
    link = home / "train" / "cat" / "link.png"
    link.symlink_to(outside)
    with pytest.raises(InputError, match="must stay inside"):
        read_rows(home)
    link.unlink()
    (home / "loop").symlink_to(home, target_is_directory=True)
    with pytest.raises(InputError, match="something else at"):
        read_rows(home)
    (home / "loop").unlink()
    for path in ("../secret.png", str(outside), "missing.png"):
        row = [{"img": {"bytes": None, "path": path}, "label": 0}]
        write_parquet(home / "a.parquet", row)
        with pytest.raises(InputError, match="name a file inside the dataset"):
            read_rows(home)
    write_parquet(
        home / "a.parquet", [{"img": {"bytes": None, "path": "train/cat/0.png"}}]
    )
    assert len(read_rows(home)) == 3


def run(*words: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["infusion", *map(str, words)])
    try:
        main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_the_command_seals_and_audits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    home = write_folder(tmp_path / "data", pictures(6))
    assert run("seal", home, "--json", monkeypatch=monkeypatch) == 0
    made = json.loads(capfd.readouterr().out.splitlines()[-1])
    asked = ("audit", home, "--trusted", made["seal"])
    root = ("--root", made["root"])
    assert run(*asked, *root, monkeypatch=monkeypatch) == 0
    assert "pass  rows are as sealed" in capfd.readouterr().out
    (home / "train" / "cat" / "2.png").write_bytes(png(pictures(1, seed=3)[0]))
    (home / "train" / "cat" / "4.png").unlink()
    assert run(*asked, "--out", "found", "--json", monkeypatch=monkeypatch) == 1
    said = capfd.readouterr()
    value = json.loads(said.out.splitlines()[-1])
    assert value["verdict"] == "fail"
    assert "train/cat/2.png" in said.err
    stored = json.loads((tmp_path / "found" / "audit.json").read_text())
    assert [change["kind"] for change in stored["changes"]] == ["changed", "removed"]
    issues = (tmp_path / "found" / "issues.csv").read_text()
    rows = list(csv.DictReader(issues.splitlines()))
    flagged = [row for row in rows if row["is_edited"] == "True"]
    assert [(row["index"], row["file"], row["score"]) for row in flagged] == [
        ("1", "train/cat/2.png", "0"),
        ("", "train/cat/4.png", "0"),
    ]
    assert {row["score"] for row in rows if row not in flagged} == {"1"}
    page = (tmp_path / "found" / "report.html").read_text()
    assert "not the one that was sealed" in page
    assert "train/cat/4.png" in page


def test_the_command_refuses_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    home = write_folder(tmp_path / "data", pictures(4))
    other = write_folder(tmp_path / "other", pictures(4, seed=9))
    assert run("seal", home, monkeypatch=monkeypatch) == 0
    seal = tmp_path / "data.seal.jsonl"
    capfd.readouterr()
    wrong: list[tuple[str, list[str | Path]]] = [
        ("does not exist", ["seal", tmp_path / "nowhere"]),
        ("outside of its dataset", ["seal", home, "--out", home / "seal.jsonl"]),
        ("of the dataset it is held against", ["audit", other, "--trusted", seal]),
        ("written by `infusion seal`", ["audit", home, "--trusted", home]),
        ("begin with its format", ["audit", home, "--trusted", tmp_path / "x.jsonl"]),
        ("the root 0000", ["audit", home, "--trusted", seal, "--root", "0" * 64]),
        (
            "outside of what is read",
            ["audit", home, "--trusted", seal, "--out", home / "found"],
        ),
    ]
    write_jsonl(tmp_path / "x.jsonl", table(3))
    before = sorted(tmp_path.rglob("*"))
    for wanted, words in wrong:
        assert run(*words, monkeypatch=monkeypatch) == 2, wanted
        assert_one_line(capfd.readouterr().err, wanted)
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(home)
    assert run("audit", home, "--trusted", seal, monkeypatch=monkeypatch) == 2


def test_a_seal_replaces_nothing_else(tmp_path: Path):
    home = write_folder(tmp_path / "pics", pictures(4))
    mine = tmp_path / "mine.txt"
    mine.write_text("my data")
    with pytest.raises(InputError, match="must not replace another file, got"):
        seal(str(home), mine)
    assert mine.read_text() == "my data"
    with pytest.raises(InputError, match="a seal must be a file, got another kind"):
        seal(str(home), tmp_path)
    made = seal(str(home), tmp_path / "a.seal.jsonl")
    assert seal(str(home), tmp_path / "a.seal.jsonl") == made
    write_folder(home, pictures(4, seed=1))
    with pytest.raises(InputError, match="must not replace another file"):
        seal(str(home), tmp_path / "a.seal.jsonl")


def test_a_root_is_given_whole(tmp_path: Path):
    home = write_folder(tmp_path / "pics", pictures(4))
    made = seal(str(home), tmp_path / "a.seal.jsonl")
    short = made["root"][:16]
    with pytest.raises(InputError, match=f"64 hexadecimal digits .* got 16 .*{short}"):
        audit(str(home), tmp_path / "a.seal.jsonl", short, tmp_path / "out")
    found = audit(str(home), tmp_path / "a.seal.jsonl", made["root"], tmp_path / "out")
    assert found["verdict"] == "pass"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(InputError, match="got something else at"):
            read_rows(str(place))


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--task", "m:f", "--truth", "x"], "must come with a DATASET, got --task"),
        (["--task", "m:f", "--root", "x"], "must come with a DATASET, got --task"),
        (["case", "--batch-size", "0"], "must come with --task, and --root with"),
        (["case", "--skip", "Foo"], "must come with --task, and --root with"),
        (["case", "--root", "0"], "--root with --trusted, got the case case"),
        (["case", "--out", "file/below"], "--out must be a folder, got file/below"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(
    words: list[str],
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["infusion", "audit", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1
    assert wanted in said
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_refuses_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    home = write_folder(tmp_path / "pics", pictures(4))
    real = os.fsync

    def full(number: int) -> None:
        real(number)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    words = ["infusion", "seal", str(home), "--out", str(tmp_path / "new" / "seal")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    wanted = f"got No space left on device at {tmp_path / 'new' / 'seal'}; mend that"
    assert wanted in capfd.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []
