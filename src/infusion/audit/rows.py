"""Read a dataset as files hold it: pictures, tables, lines of text, and what is left.

Nothing is executed, and nothing outside of the dataset is read.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Final

from infusion.audit.contents import Row, hash_file, hash_picture_file, hash_rows
from infusion.errors import InputError

PICTURES: Final = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
"""Files that are a document each."""
TABLES: Final = {".parquet", ".jsonl", ".txt"}
"""Files of many documents."""
_AT_ONCE = 512


def read_rows(
    source: str | Path, *, on_rows: Callable[[int], None] = lambda _: None
) -> list[Row]:
    """Read and hash every row of a dataset.

    Args:
        source: A folder, or one file: ``.parquet`` and ``.jsonl`` hold rows with
            columns, of which ``label`` or ``labels`` is the label; ``.txt`` a document
            per line; pictures are a document each, labelled by their folder; any other
            file is a document without a label.
        on_rows: Called with the number of rows read since.

    Returns:
        Rows, file by file in the order of their names.

    Raises:
        InputError: There is no such dataset, it holds nothing, a file cannot be read or
            decoded, or a link leads out of it.
    """
    root = Path(source)
    if not root.exists():
        raise InputError(
            f"a dataset must be a folder or a file, got {source}, which does not "
            "exist; check the path"
        )
    if not root.is_dir() and not root.is_file():
        raise InputError(
            f"a dataset must be a folder or a file, got something else at {source}; "
            "copy it into a file"
        )
    home = root if root.is_dir() else root.parent
    files = sorted(_files(root)) if root.is_dir() else [root]
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    others = [file for file in files if file.suffix.lower() not in PICTURES]
    found: list[Row] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        hashed = pool.map(lambda file: hash_picture_file(file, home), pictures)
        rows = chain(hashed, *(_rows(file, home) for file in others))
        while some := list(islice(rows, _AT_ONCE)):
            found += some
            on_rows(len(some))
    if not found:
        raise InputError(
            f"a dataset must hold at least one row, got none in {source}; check it"
        )
    return sorted(found, key=lambda row: (row.file, row.row or 0))


def _rows(file: Path, home: Path) -> Iterable[Row]:
    many = file.suffix.lower() in TABLES
    return hash_rows(file, home) if many else [hash_file(file, home)]


def _files(root: Path) -> Iterator[Path]:
    """List all files; refuse what is none, or lies elsewhere."""
    whole = root.resolve()
    for folder, folders, names in os.walk(root):
        for path in (Path(folder, name) for name in (*folders, *names)):
            _check_path(path, whole)
        yield from (Path(folder, name) for name in names)


def _check_path(path: Path, whole: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"names of files must be UTF-8, got {path.name!r} in {path.parent}; "
            "rename it"
        ) from error
    if not path.resolve().is_relative_to(whole):
        raise InputError(
            f"paths must stay inside the dataset, got a link at {path} that leads out "
            "of it; copy the file in, or remove the link"
        )
    if not path.is_file() and (path.is_symlink() or not path.is_dir()):
        raise InputError(
            f"a dataset must hold files and folders, got something else at {path}; "
            "remove it"
        )
