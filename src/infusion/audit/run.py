"""Audit a dataset that anybody wrote, into a folder."""

import csv
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

from infusion.audit.changes import EDITS, Comparison, compare
from infusion.audit.contents import Row
from infusion.audit.findings import verdict
from infusion.audit.provenance import listed, provenance
from infusion.audit.rows import read_rows
from infusion.audit.seal import read_seal, root_of, seal_bytes
from infusion.errors import ArtefactError, InputError
from infusion.runs.progress import progress
from infusion.runs.store import Store, json_bytes, write_whole

HEADINGS = ("index", "file", "row", "score", "is_edited", "change")
"""Columns of ``issues.csv``; the score is 1 for rows as sealed: lower is worse."""


def seal(source: str, out: Path) -> dict[str, Any]:
    """Write down what every row of a dataset is.

    Args:
        source: Folder or file.
        out: File to write, outside of the dataset.

    Returns:
        ``rows``, ``root`` and ``seal``, its path.

    Raises:
        InputError: The dataset cannot be read, or the file would lie in it or replace
            another one.
    """
    if Path(source).is_dir() and out.resolve().is_relative_to(Path(source).resolve()):
        raise InputError(
            f"a seal must lie outside of its dataset, got {out} in {source}; choose "
            "another --out"
        )
    if out.exists() and not out.is_file():
        raise InputError(f"a seal must be a file, got another kind at {out}; name one")
    rows = _read(source)
    content = seal_bytes(rows)
    if out.exists() and out.read_bytes() != content:
        raise InputError(
            f"a seal must not replace another file, got {out}, which exists and holds "
            "something else; choose another --out, or remove it"
        )
    write_whole(out, content)
    return {"rows": len(rows), "root": root_of(rows), "seal": str(out)}


def audit(source: str, trusted: Path, root: str | None, out: Path) -> dict[str, Any]:
    """Hold a dataset against its seal.

    Args:
        source: Folder or file.
        trusted: The seal.
        root: What the seal's root must be, where it was kept elsewhere.
        out: Folder for ``audit.json`` and ``issues.csv``.

    Returns:
        What ``audit.json`` holds.

    Raises:
        InputError: Dataset or seal cannot be read, or do not belong together.
        ArtefactError: The seal was altered, or has another root.
    """
    if root is not None and re.fullmatch("[0-9a-f]{64}", root) is None:
        raise InputError(
            f"--root must be the 64 hexadecimal digits that `infusion seal` printed, "
            f"got {len(root)} characters, {root[:64]!r}; give all of them"
        )
    sealed = read_seal(trusted)
    its_root = root_of(sealed)
    if root is not None and root != its_root:
        raise ArtefactError(
            f"the seal must have the root {root[:16]}…, got {its_root[:16]}… in "
            f"{trusted}; find the seal that was made then"
        )
    found = _read(source)
    compared = compare(sealed, found)
    findings = provenance(sealed, found, compared)
    results = {
        "kind": "audit",
        "dataset": Path(source).name,
        "rows": len(found),
        "root": root_of(found),
        "sealed": {"rows": len(sealed), "root": its_root},
        "verdict": verdict(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "changes": listed(compared),
    }
    store = Store(out)
    store.derive("issues.csv", _issues(found, compared))
    store.derive("audit.json", json_bytes(results))
    return results


def _read(source: str) -> list[Row]:
    with progress("read rows", None) as advance:
        return read_rows(source, on_rows=advance)


def _issues(found: list[Row], compared: Comparison) -> bytes:
    kinds = {id(c.after): c.kind for c in compared.changes if c.after is not None}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADINGS)
    for index, row in enumerate(found):
        kind = kinds.get(id(row), "")
        is_edited = kind in EDITS
        table.writerow([index, row.file, row.row, int(not is_edited), is_edited, kind])
    for change in compared.changes:
        if change.after is None and change.before is not None:
            before = change.before
            table.writerow(["", before.file, before.row, 0, True, change.kind])
    return text.getvalue().encode()
