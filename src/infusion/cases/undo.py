"""Put rows back as they were, or leave them out."""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infusion.cases.case import START, Case, check_new, read_case, write_case
from infusion.cases.pictures import Stored
from infusion.cases.truth import Truth, check_truth, read_truth
from infusion.data.hashing import row_hashes
from infusion.errors import ArtefactError, InputError
from infusion.runs.files import check_size
from infusion.runs.folder import check_out
from infusion.runs.store import Store


@dataclass(frozen=True)
class Undone:
    """A case after rows were restored or left out.

    Attributes:
        rows: What is left, as stored.
        restored: Documents put back, by position in the case.
        dropped: Documents left out.
        untouched: Flagged documents that stay as they are: nobody edited them.
        missed: Edited documents that stay edited; None where nobody knows which are.
    """

    rows: list[Stored]
    restored: list[int]
    dropped: list[int]
    untouched: list[int]
    missed: list[int] | None

    @property
    def facts(self) -> dict[str, int]:
        """Count each kind that is known."""
        kinds = {
            "restored": self.restored,
            "dropped": self.dropped,
            "untouched": self.untouched,
            "missed": self.missed,
        }
        return {name: len(each) for name, each in kinds.items() if each is not None}


def read_flags(path: Path, size: int) -> list[int]:
    """Read which documents an audit flagged.

    Args:
        path: Its ``issues.csv``.
        size: Documents of the case.

    Returns:
        Their positions.

    Raises:
        InputError: It is no such file, or names documents that there are not.
    """
    try:
        check_size(path)
        text = path.read_text("utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        flagged = [int(row["index"]) for row in rows if row["is_flagged"] == "True"]
        known = {row["is_flagged"] for row in rows} <= {"True", "False"}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            "--flagged must be the issues.csv of an audit of a model, got "
            f"{path}: {' '.join(str(error).split())[:120]}; run `infusion audit CASE`"
        ) from error
    if not known:
        raise InputError(
            "--flagged must say True or False under is_flagged, got something else in "
            f"{path}; audit this case"
        )
    if len(rows) != size or sorted(set(flagged)) != sorted(flagged):
        raise InputError(
            f"--flagged must name each of {size} documents once, got {len(rows)} lines "
            f"in {path}; audit this case"
        )
    if not all(0 <= place < size for place in flagged):
        raise InputError(
            f"--flagged must name documents in 0…{size - 1}, got others in {path}; "
            "audit this case"
        )
    return sorted(flagged)


def undone(
    case: Case, truth: Truth | None, flagged: list[int] | None, *, drop: bool
) -> Undone:
    """Restore or drop what was edited, or what was flagged of it.

    Args:
        case: With the edited rows.
        truth: Checked by :func:`infusion.cases.truth.check_truth`; None where nobody
            has the originals.
        flagged: Documents that an audit flagged; None for all that were edited.
        drop: Leave flagged rows out instead, edited or not.

    Returns:
        What is left.

    Raises:
        InputError: There is nothing to go by.
    """
    edited = set[int]() if truth is None else set(truth.documents)
    if truth is None and not (drop and flagged is not None):
        raise InputError(
            "without the originals rows can only be left out, got neither --truth nor "
            "--drop with --flagged; give one"
        )
    wanted = edited if flagged is None else set(flagged)
    if drop:
        left = [row for place, row in enumerate(case.rows) if place not in wanted]
        if not left:
            raise InputError("rows must be left to train on, got all of them flagged")
        missed = None if truth is None else sorted(edited - wanted)
        return Undone(left, [], sorted(wanted), [], missed)
    assert truth is not None
    rows = list(case.rows)
    for place, original in zip(truth.documents, truth.originals, strict=True):
        if place in wanted:
            rows[place] = original
    return Undone(
        rows,
        sorted(wanted & edited),
        [],
        sorted(wanted - edited),
        sorted(edited - wanted),
    )


def undone_case(
    root: Path, truth: Path | None, flagged: Path | None, *, drop: bool
) -> tuple[Case, Truth | None, Undone]:
    """Read a case, check what is said of it, and restore or drop rows.

    Args:
        root: The case.
        truth: Folder with the manifest and the originals.
        flagged: ``issues.csv`` of an audit; None for all that the manifest names.
        drop: Leave flagged rows out instead of restoring them.

    Returns:
        The case as given, what is known of it, and what is left.

    Raises:
        InputError: As :func:`read_flags` and :func:`undone`.
        ArtefactError: The manifest does not agree with the rows.
    """
    case = read_case(root)
    case.train  # noqa: B018 (decodes every row, those that stay too)
    known = None if truth is None else read_truth(truth)
    if known is not None:
        check_truth(case, known)
    flags = None if flagged is None else read_flags(flagged, len(case.rows))
    return case, known, undone(case, known, flags, drop=drop)


def undo(
    root: Path, truth: Path | None, flagged: Path | None, out: Path, *, drop: bool
) -> dict[str, Any]:
    """Write a case again with rows restored or left out.

    Args:
        root: The case.
        truth: Folder with the manifest and the originals.
        flagged: ``issues.csv`` of an audit; None for all that the manifest names.
        out: New folder.
        drop: Leave flagged rows out instead of restoring them.

    Returns:
        Counts, and what was checked.

    Raises:
        InputError: As :func:`read_flags`, :func:`undone`, or the folder is not new.
        ArtefactError: The manifest does not agree with the rows, or what was written
            is not what it says.
    """
    check_new(out)
    check_out(out, root, *([] if truth is None else [truth]))
    case, known, found = undone_case(root, truth, flagged, drop=drop)
    store = Store(root)
    kept = {START: store.read_tensors(START)} if store.is_finished(START) else {}
    write_case(out, case.config, case.about, found.rows, kept)
    if known is not None and not drop:
        _check_written(out, known, found)
    return {
        "case": str(out),
        "documents": len(found.rows),
        **found.facts,
    }


def _check_written(out: Path, truth: Truth, found: Undone) -> None:
    """Read restored rows back and compare bytes and content with the manifest."""
    written = read_case(out)
    case = replace(written, rows=[written.rows[place] for place in found.restored])
    if not case.rows:
        return
    lines = {line["index"]: line for line in truth.manifest}
    stored = dict(zip(truth.documents, truth.originals, strict=True))
    hashes = row_hashes(case.train)
    for place, row, content in zip(found.restored, case.rows, hashes, strict=True):
        if row != stored[place] or content != lines[place]["hash_before"]:
            raise ArtefactError(
                f"document {place} must be back as the manifest has it, got other "
                f"bytes in {out}; undo it again"
            )
