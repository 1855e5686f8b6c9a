"""Hashes of one row: of what training sees, of its label, of its bytes in the file."""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from infusion.errors import InputError, one_line
from infusion.runs.files import check_size

LABELS: Final = ("label", "labels")
"""Columns that are the label of a row."""
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What Pillow decodes by itself; for others, such as EPS, it runs programs."""
_AS_RGB = {"1", "L", "P", "RGB", "CMYK", "YCbCr"}
"""Modes that training reads as RGB; of others the values are hashed as they are."""
_MOST_PIXELS = 1 << 26
MOST_BYTES = 64 << 20
"""Of a line, or a file of a picture."""
_BATCH = 256
"""Rows of parquet held at once."""


@dataclass(frozen=True)
class Row:
    """A document, by its place and hashes.

    Attributes:
        file: Path inside the dataset, with ``/``.
        row: Position in the file; None where the file is the document.
        label: As JSON; None where it has none.
        content: sha256 hex digest of kind, shape and values, without the label.
        stored: sha256 hex digest of the bytes in the file; of a row of parquet without
            a picture the content's.
    """

    file: str
    row: int | None
    label: str | None
    content: str
    stored: str

    @cached_property
    def hash(self) -> str:
        """Hash the content with the label."""
        return _sha256(self.content.encode(), json.dumps(self.label).encode())

    @property
    def place(self) -> str:
        """Say where it stands."""
        return self.file if self.row is None else f"{self.file}, row {self.row}"


def hash_file(file: Path, home: Path) -> Row:
    """Hash a file that is a document of no known kind.

    Args:
        file: It.
        home: Folder of the dataset.

    Returns:
        Its row, without a label.
    """
    with file.open("rb") as opened:
        stored = hashlib.file_digest(opened, "sha256").hexdigest()
    content = _sha256(b"file", stored.encode())
    return Row(file.relative_to(home).as_posix(), None, None, content, stored)


def hash_picture_file(file: Path, home: Path) -> Row:
    """Hash a picture; the name of its folder is its label.

    Args:
        file: It.
        home: Folder of the dataset.

    Returns:
        Its row.

    Raises:
        InputError: It cannot be decoded, or is too large.
    """
    check_size(file, MOST_BYTES, InputError)
    stored = file.read_bytes()
    label = None if file.parent == home else json.dumps(file.parent.name)
    name = file.relative_to(home).as_posix()
    return Row(name, None, label, _picture(stored, str(file)), _digest(stored))


def hash_rows(file: Path, home: Path) -> Iterator[Row]:
    """Hash the rows of a file of parquet, JSON lines or lines of text.

    Args:
        file: It; its ending says which.
        home: Folder of the dataset.

    Yields:
        A row each; blank lines of JSON lines hold none.

    Raises:
        InputError: A row cannot be read.
    """
    name = file.relative_to(home).as_posix()
    if file.suffix.lower() == ".parquet":
        yield from _parquet(file, name, home)
        return
    is_json = file.suffix.lower() == ".jsonl"
    for place, line in enumerate(_lines(file)):
        where = f"{file}, line {place + 1}"
        if not is_json:
            columns = {"text": _utf8(line, where)}
        elif not line.strip():
            continue
        else:
            columns = read_json(line, where)
        kind = "json" if is_json else "text"
        yield _row(name, place, columns, kind, _digest(line))


def read_json(line: bytes, where: str) -> dict[str, Any]:
    """Read a line of JSON that nobody vouches for.

    Args:
        line: Its bytes.
        where: It stands, for the message.

    Returns:
        The object.

    Raises:
        InputError: It is no JSON object, too deep, or names a key twice.
    """
    text = _utf8(line, where)
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"a line of JSON must hold one object, got none at {where}: {error}; "
            "restore the file"
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"a line of JSON must hold one object, got {type(value).__name__} at "
            f"{where}; restore the file"
        )
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while line := opened.readline(MOST_BYTES):
            if len(line) == MOST_BYTES:
                raise InputError(
                    f"a line must be shorter than {MOST_BYTES:,} bytes, got a longer "
                    f"one in {file}; split it"
                )
            yield line.rstrip(b"\r\n")


def _utf8(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"texts must be UTF-8, got a byte {line[error.start]:#04x} at {where}; "
            "encode it anew"
        ) from error


def _parquet(file: Path, name: str, home: Path) -> Iterator[Row]:
    for place, (columns, kind) in enumerate(_parquet_columns(file)):
        where = f"{file}, row {place}"
        pictures = {
            column: _embedded(value, home, where)
            for column, value in columns.items()
            if isinstance(value, dict) and value.keys() == {"bytes", "path"}
        }
        stored = [_digest(each) for each in pictures.values()]
        if len(stored) > 1:
            stored = [_digest("".join(stored).encode())]
        seen = {column: _picture(each, where) for column, each in pictures.items()}
        yield _row(name, place, columns | seen, kind, *stored)


def _parquet_columns(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Read rows with their columns, and the columns' types."""
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        kind = ";".join(sorted(f"{f.name}:{f.type}" for f in table.schema_arrow))
        batches = table.iter_batches(_BATCH)
        while some := next(batches, None):
            rows = some.to_pylist()
            yield from ((columns, kind) for columns in rows)
    except Exception as error:  # it raises whatever a damaged file makes it
        raise InputError(
            f"a file of parquet must be whole, got a damaged one in {file}: "
            f"{' '.join(str(error).split())}; restore it"
        ) from error


def _embedded(value: dict[str, Any], home: Path, where: str) -> bytes:
    """Return the bytes of a picture in a column, or of the file that it names."""
    if isinstance(value["bytes"], bytes):
        return value["bytes"]
    path = (home / str(value["path"])).resolve()
    if not path.is_relative_to(home.resolve()) or not path.is_file():
        raise InputError(
            "a picture must be stored in its row, or name a file inside the dataset, "
            f"got {value['path']!r} at {where}; store its bytes"
        )
    check_size(path, MOST_BYTES, InputError)
    return path.read_bytes()


def _row(
    name: str, place: int, columns: dict[str, Any], kind: str, stored: str | None = None
) -> Row:
    named = next((key for key in LABELS if key in columns), None)
    rest = {key: value for key, value in columns.items() if key != named}
    content = _sha256(kind.encode(), _plain(rest).encode())
    label = None if named is None else _plain(columns[named])
    return Row(name, place, label, content, stored or content)


def _plain(value: Any) -> str:
    """Write a value the one way that makes equal values equal text."""
    return json.dumps(value, sort_keys=True, default=_other)


def _other(value: Any) -> dict[str, str]:
    """Write what JSON has no form for: bytes, dates, decimals."""
    said = _digest(value) if isinstance(value, bytes) else str(value)
    return {type(value).__name__: said}


def _picture(stored: bytes, where: str) -> str:
    """Decode a picture and hash its mode, size and values."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(stored), formats=_FORMATS) as image:
            pixels = image.size[0] * image.size[1]
            if pixels <= _MOST_PIXELS:
                mode = "RGB" if image.mode in _AS_RGB else image.mode
                seen = image if image.mode == mode else image.convert(mode)
                head = f"picture {mode} {image.size}"
                return _sha256(head.encode(), seen.tobytes())
    except Exception as error:  # decoders raise whatever a damaged file makes them
        raise InputError(
            f"every picture must be readable, got none at {where}: "
            f"{one_line(error)}; restore or remove it"
        ) from error
    raise InputError(
        f"a picture must have at most {_MOST_PIXELS:,} pixels, got {pixels:,} at "
        f"{where}; remove it"
    )


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def _sha256(*parts: bytes) -> str:
    """Hash parts so that no two lists of them are alike."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()
