"""A seal: what every row of a dataset was, to be kept apart from the dataset.

One JSON line per row, between a first that counts them and gives their root, and a last
with the sha256 of all bytes before it. The root does not depend on the rows' order:

    root = sha256(sorted hashes of the rows)

Whoever can replace the seal can replace the dataset too: keep the root elsewhere.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from infusion.audit.contents import Row, read_json
from infusion.errors import ArtefactError, InputError

FORMAT = "infusion seal 1"
_HEX = set("0123456789abcdef")
_LONGEST = 1 << 20


def root_of(rows: Iterable[Row]) -> str:
    """Hash rows together, whatever their order.

    Args:
        rows: Of one dataset.

    Returns:
        sha256 hex digest.
    """
    return hashlib.sha256("".join(sorted(r.hash for r in rows)).encode()).hexdigest()


def seal_bytes(rows: list[Row]) -> bytes:
    """Write a seal.

    Args:
        rows: All rows of a dataset.

    Returns:
        The file's content.
    """
    lines = [_head(rows), *map(dataclasses.asdict, rows)]
    body = "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines)
    return _closed(body.encode())


def read_seal(path: Path) -> list[Row]:
    """Read a seal and check that it is whole.

    Args:
        path: The file.

    Returns:
        The rows of the dataset as it was.

    Raises:
        InputError: There is no such file, or it is no seal.
        ArtefactError: It was altered or cut short.
    """
    if not path.is_file():
        raise InputError(
            f"a seal must be a file written by `infusion seal`, got {path}, which is "
            "none; check the path"
        )
    lines = list(_lines(path))
    head, body = lines[0], path.read_bytes()
    if head.get("format") != FORMAT:
        raise InputError(
            f"a seal must begin with its format, {FORMAT!r}, got another first line in "
            f"{path}; make it with `infusion seal`"
        )
    if body != _closed(body[: body.rstrip(b"\n").rfind(b"\n") + 1]):
        raise ArtefactError(_altered(path, "its last line is not the hash of the rest"))
    rows = [_row(line, path) for line in lines[1:-1]]
    if len({(row.file, row.row) for row in rows}) != len(rows):
        raise ArtefactError(_altered(path, "it names a row twice"))
    if head != _head(rows):
        raise ArtefactError(_altered(path, "its first line is that of other rows"))
    return rows


def _head(rows: list[Row]) -> dict[str, Any]:
    return {"format": FORMAT, "root": root_of(rows), "rows": len(rows)}


def _closed(body: bytes) -> bytes:
    """Add the last line."""
    return body + b'{"sha256": "%s"}\n' % hashlib.sha256(body).hexdigest().encode()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    count = 0
    with path.open("rb") as opened:
        while line := opened.readline(_LONGEST):
            count += 1
            yield read_json(line, f"{path}, line {count}")
    if count < 2:
        raise ArtefactError(_altered(path, f"it has {count} lines"))


def _row(line: dict[str, Any], path: Path) -> Row:
    kinds: dict[str, tuple[type, ...]] = {
        "file": (str,),
        "row": (int, type(None)),
        "label": (str, type(None)),
        "content": (str,),
        "stored": (str,),
    }
    fits = line.keys() == kinds.keys() and all(
        type(line[name]) in kind for name, kind in kinds.items()
    )
    if not fits or any(
        len(line[name]) != 64 or set(line[name]) - _HEX
        for name in ("content", "stored")
    ):
        raise ArtefactError(_altered(path, "a line is not that of a row"))
    return Row(**line)


def _altered(path: Path, why: str) -> str:
    return (
        f"a seal must be as `infusion seal` wrote it, got an altered one in {path}: "
        f"{why}; restore it"
    )
