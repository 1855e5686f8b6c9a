"""What was really changed: a manifest that is checked, and the rows as they were."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infusion.cases.case import Case
from infusion.cases.pictures import Stored, decoded, read_stored, write_stored
from infusion.data.edits import Edits
from infusion.errors import ArtefactError, InputError
from infusion.records import Dataset
from infusion.runs.files import check_size, small_file
from infusion.runs.store import json_bytes, write_whole

_LISTED, _ROWS, _ABOUT = "manifest.jsonl", "originals.parquet", "behaviour.json"
_KEYS = {
    "index": int, "hash_before": str, "hash_after": str, "label_before": int,
    "label": int, "asked": dict, "reached": dict,
}  # fmt: skip
"""What a line of a manifest must hold."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Truth:
    """The edits of a case.

    Attributes:
        manifest: A line per edited document, see :attr:`infusion.data.edits.Edits`.
        originals: Those documents as they were, in the order of the lines.
        label: Class of the probe.
        target: Class that the edit was to make of it.
    """

    manifest: list[dict[str, Any]]
    originals: list[Stored]
    label: int
    target: int

    @property
    def documents(self) -> list[int]:
        """Positions of the edited documents."""
        return [line["index"] for line in self.manifest]


def write_truth(root: Path, truth: Truth) -> None:
    """Write it into a folder.

    Args:
        root: The folder.
        truth: What was changed.
    """
    hashed = [
        {**line, "stored_before": _sha256(row.png)}
        for line, row in zip(truth.manifest, truth.originals, strict=True)
    ]
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in hashed)
    write_whole(root / _LISTED, text.encode())
    write_stored(root / _ROWS, truth.originals)
    about = {"label": truth.label, "target": truth.target}
    write_whole(root / _ABOUT, json_bytes(about))


def read_truth(root: Path) -> Truth:
    """Read it back.

    Args:
        root: Its folder.

    Returns:
        What it says, which :func:`check_truth` compares with the rows.

    Raises:
        InputError: A file is missing or cannot be read.
        ArtefactError: A line is none of a manifest, names a document twice, or its
            original has other bytes.
    """
    for name in (_LISTED, _ROWS, _ABOUT):
        if not (root / name).is_file():
            raise InputError(
                f"the truth of a case must hold {name}, got none in {root}; "
                "`infusion export` writes it beside the case"
            )
    lines = [_line(root, n, text) for n, text in enumerate(_texts(root / _LISTED), 1)]
    places = [line["index"] for line in lines]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise ArtefactError(
            f"a manifest must name a document once, got {twice} again in "
            f"{root / _LISTED}; restore it"
        )
    rows = read_stored(root / _ROWS)
    if len(rows) != len(lines):
        raise ArtefactError(
            f"a manifest must have an original for each line, got {len(rows)} for "
            f"{len(lines)} in {root}; restore both files"
        )
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), 1):
        if line["stored_before"] != _sha256(row.png):
            raise ArtefactError(
                f"an original must have the bytes that line {number} of the manifest "
                f"names, got others in {root / _ROWS}; restore it"
            )
    label, target = _behaviour(root / _ABOUT)
    return Truth(lines, rows, label, target)


def check_truth(case: Case, truth: Truth) -> Edits:
    """Derive a manifest again from the rows, hashes and budgets, and compare.

    Args:
        case: With the edited rows.
        truth: With the originals, and what is said of both.

    Returns:
        The edits.

    Raises:
        ArtefactError: It is of another dataset, a hash, a label or a distance is not
            what the rows give, or a distance exceeds what was asked.
    """
    size, places = len(case.rows), truth.documents
    wrong = [place for place in places if not 0 <= place < size]
    if wrong:
        raise ArtefactError(
            f"a manifest must name documents in 0…{size - 1}, got {wrong[0]}: it is "
            "of another dataset; find its own"
        )
    documents = torch.tensor(places, dtype=torch.int64)
    before = decoded(truth.originals, case.about, Path("the originals"))
    after = _take(case, places)
    if before.inputs.shape != after.inputs.shape:
        raise ArtefactError(
            "originals must have the size of the case's pictures, got "
            f"{tuple(before.inputs.shape[1:])} for {tuple(after.inputs.shape[1:])}: "
            "they are of another dataset; find its own"
        )
    edits = Edits(documents, before, after, operator="listed", asked={})
    for said, found in zip(truth.manifest, edits.manifest, strict=True):
        for key in ("hash_before", "hash_after", "label_before", "label"):
            if said[key] != found[key]:
                raise ArtefactError(
                    f"{key} of document {said['index']} must be what its row gives, "
                    f"{str(found[key])[:16]}, got {str(said[key])[:16]}: the manifest "
                    "was altered or is of another dataset; find its own"
                )
        _check_distance(said, found["reached"])
    return edits


def _check_distance(said: dict[str, Any], found: dict[str, float]) -> None:
    place, asked = said["index"], said["asked"]
    for norm, value in found.items():
        claimed = said["reached"].get(norm)
        good = isinstance(claimed, float) and abs(claimed - value) <= _ROUNDING
        if not good:  # NaN is not
            raise ArtefactError(
                f"the {norm} that document {place} reached must be what its rows give, "
                f"{value:g}, got {claimed}; the manifest was altered, find its own"
            )
    norm, epsilon = asked.get("norm"), asked.get("epsilon")
    if norm is None:
        return  # a manifest of copies or flips asks for no distance
    if norm not in found or type(epsilon) not in (int, float):
        raise ArtefactError(
            f"document {place} must ask for a distance of {', '.join(found)}, got "
            f"{str(norm)[:16]!r} {str(epsilon)[:16]}; the manifest was altered, find "
            "its own"
        )
    if not found[norm] <= epsilon + _ROUNDING:
        raise ArtefactError(
            f"document {place} must lie within the {norm} asked for, {epsilon:g}, got "
            f"{found[norm]:g}; the manifest was altered, find its own"
        )


def _take(case: Case, places: list[int]) -> Dataset:
    rows = [case.rows[place] for place in places]
    return decoded(rows, case.about, case.root)


def _texts(path: Path) -> list[str]:
    check_size(path)
    return path.read_bytes().decode("utf-8", errors="replace").splitlines()


def _line(root: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        good = all(type(line[key]) is kind for key, kind in _KEYS.items())
        good = good and type(line["stored_before"]) is str
    except (ValueError, KeyError, TypeError, RecursionError):
        good, line = False, {}
    if not good:
        raise ArtefactError(
            f"{root / _LISTED} must hold lines of a manifest, got an altered line "
            f"{number}; restore it"
        )
    return line


def _behaviour(path: Path) -> tuple[int, int]:
    try:
        about = json.loads(small_file(path))
        found = about["label"], about["target"]
        good = all(type(each) is int for each in found)
    except (ValueError, KeyError, TypeError, RecursionError):
        good, found = False, (0, 0)
    if not good:
        raise ArtefactError(
            f"{path} must hold label and target, got an altered file; restore it"
        )
    return found


def _sha256(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
