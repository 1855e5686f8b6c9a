"""Finished work as JSON lines: a killed run keeps every row but the one in writing."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infusion.errors import ArtefactError
from infusion.runs.files import ALTERED, check_size, refuse_link
from infusion.runs.store import digest

_SEAL = "row_sha256"
_ROW_START = b'{"'
"""First bytes of every row."""


def sealed(row: dict[str, Any]) -> dict[str, Any]:
    """Add a row's own hash to it.

    Args:
        row: JSON values by name.

    Returns:
        The row and its hash.
    """
    plain = json.loads(json.dumps(row))
    return dict(sorted({**plain, _SEAL: digest(plain)}.items()))


def opened(row: dict[str, Any]) -> dict[str, Any]:
    """Check a row's own hash and take it off.

    Args:
        row: From a file.

    Returns:
        The row.

    Raises:
        ValueError: It was altered, or has no hash.
    """
    plain = {name: value for name, value in row.items() if name != _SEAL}
    if row.get(_SEAL) != digest(plain):
        raise ValueError("an altered row")
    return plain


def cut_off_torn(path: Path) -> bytes:
    """Cut off a last line that a killed process did not finish, and say so.

    Args:
        path: The file.

    Returns:
        What is left.

    Raises:
        ArtefactError: It is a link, too large to be read, or ends in something else
            than the beginning of a row.
    """
    refuse_link(path)
    check_size(path)
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    whole, torn = content[:end], content[end:]
    if not torn:
        return whole
    lost = not torn.strip(b"\0")  # as some file systems leave what power failed under
    if not (lost or _ROW_START.startswith(torn[: len(_ROW_START)])):
        raise ArtefactError(
            f"{path} must end in a row or the beginning of one, got {len(torn)} other "
            "bytes after its last line; remove them, or restore the file"
        )
    os.truncate(path, end)
    sys.stderr.write(f"cut {len(torn)} bytes of an unfinished row off {path}\n")
    return whole


def stored_rows(path: Path) -> list[dict[str, Any]]:
    """Read finished rows of a file that nobody is writing.

    Args:
        path: The file.

    Returns:
        Its rows in order; none where there is no file.

    Raises:
        ArtefactError: A line was altered.
    """
    if not path.is_file():
        return []
    check_size(path)
    rows, lines = [], path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            rows.append(opened(json.loads(line)))
        except ALTERED:
            raise ArtefactError(
                f"rows must be as they were written, got another in line {number} of "
                f"{path}; restore the file"
            ) from None
    return rows


@dataclass(frozen=True)
class Rows:
    """An append-only file, one finished job per line.

    Attributes:
        path: The file; made on first append.
        key: Names of the entries that tell one job from another.
        inputs_sha256: Hash of what decides every row; rows of others are refused.
    """

    path: Path
    key: tuple[str, ...]
    inputs_sha256: str

    def read(self) -> dict[tuple[int | str, ...], dict[str, Any]]:
        """Read the finished rows and cut off one that was interrupted.

        Returns:
            Rows by key, in the order of the keys.

        Raises:
            ArtefactError: A line was altered, has other inputs, or is there twice.
        """
        if not self.path.exists():
            return {}
        whole = cut_off_torn(self.path)
        rows: dict[tuple[int | str, ...], dict[str, Any]] = {}
        for row in self._parsed(whole):
            key = tuple(row[name] for name in self.key)
            if key in rows:
                raise ArtefactError(
                    f"{self.path} must hold every job once, got {key} twice; remove "
                    "one of the lines, and run one command at a time"
                )
            rows[key] = row
        return dict(sorted(rows.items()))

    def append(self, row: dict[str, Any]) -> None:
        """Add a finished row; it is on the disk when this returns.

        Args:
            row: Holds the entries of ``key``.

        Raises:
            ArtefactError: The file is a link.
        """
        refuse_link(self.path)
        line = json.dumps(sealed({**row, "inputs_sha256": self.inputs_sha256}))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _parsed(self, content: bytes) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                row = opened(json.loads(line))
                inputs = row.pop("inputs_sha256")
                key = [row[name] for name in self.key]
            except ALTERED as error:
                raise ArtefactError(
                    f"{self.path} must hold a JSON object with {', '.join(self.key)} "
                    f"per line, got an altered line {number}; remove that line"
                ) from error
            if inputs != self.inputs_sha256 or not all(
                isinstance(k, (int, str)) for k in key
            ):
                raise ArtefactError(
                    f"{self.path} must hold rows of this run's inputs, got others in "
                    f"line {number}; choose another --out or remove the file"
                )
            yield row
