"""Files of others: measured before they are read, and halves of files cleared away."""

import re
from pathlib import Path

from infusion.errors import ArtefactError, InfusionError
from infusion.memory import available_memory

SMALL = 16 << 20
"""Most bytes of a file of settings, hashes or times."""
LOCK = ".lock"
"""File that is locked by the process that works in its folder."""
ALTERED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading JSON raises that is cut, not of the shape, or nested without end."""
PART = ".part"
"""Ending of a file that is being written."""
_HALF = re.compile(rf"\..+\.\d+{re.escape(PART)}")


def check_size(
    path: Path, most: int | None = None, error: type[InfusionError] = ArtefactError
) -> None:
    """Refuse a file that is too large to be read whole, before any of it is.

    Args:
        path: An existing file.
        most: Bytes; what memory is free where None.
        error: What to raise.

    Raises:
        InfusionError: It is larger.
    """
    size, limit = path.stat().st_size, available_memory() if most is None else most
    if limit is None or size <= limit:
        return
    if most is None:
        raise error(
            f"{path} must fit into the {limit:,} bytes of memory that are free, got "
            f"{size:,}; close other programs, or restore it"
        )
    raise error(
        f"{path} must be at most {limit:,} bytes, as what it is to be, got {size:,}; "
        "restore it"
    )


def refuse_link(path: Path) -> None:
    """Refuse to write through a link, which may lead out of a folder.

    Args:
        path: A file, there or not.

    Raises:
        ArtefactError: It is a symbolic link.
    """
    if path.is_symlink():
        raise ArtefactError(
            f"{path} must be a file of its own, got a link to {path.readlink()}; "
            "replace it by what it names"
        )


def small_file(path: Path) -> bytes:
    """Read a file of settings, hashes or times.

    Args:
        path: An existing file.

    Returns:
        Its content.

    Raises:
        ArtefactError: It is larger than any such file.
    """
    check_size(path, SMALL)
    return path.read_bytes()


def small_text(path: Path) -> str:
    """Read a file of settings as text.

    Args:
        path: An existing file.

    Returns:
        Its text; what is no UTF-8 is replaced.

    Raises:
        ArtefactError: It is larger than any such file.
    """
    return small_file(path).decode("utf-8", errors="replace")


def clear_unfinished(root: Path) -> None:
    """Remove what killed processes had begun to write.

    Args:
        root: A folder that nobody else works in; folders below it that have a lock of
            their own are left alone.
    """
    for path in root.rglob(f".*{PART}"):
        between = path.relative_to(root).parents
        locked = any((root / each / LOCK).exists() for each in between if each.name)
        if _HALF.fullmatch(path.name) and not locked:
            path.unlink(missing_ok=True)
