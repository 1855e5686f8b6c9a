"""Files of a run folder for workers elsewhere, and back.

A job gets its folder as its first argument, an object with a ``root``. A worker that
sees that folder works in it. Any other gets the files that concern the pairs among the
arguments or no pair at all, and what it makes comes back with its result.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from infusion.runs.files import small_text
from infusion.runs.parallel import LostPlaceError
from infusion.runs.store import environment, write_whole

TOKEN = ".seen-by"
"""File that tells whether a worker sees the folder."""
_PAIR = re.compile(r"pair-(\d+)")
_TOKEN = re.compile("[0-9a-f]{32}")
_UNREAD = ("rows",)
"""Folders that no job reads."""
_SAME = ("infusion", "torch", "processor")
"""What machines must have in common."""


@dataclass(frozen=True)
class Reads:
    """What a job reads.

    Attributes:
        root: Folder of the driver.
        token: Content of its token.
        here: What the driver computes on and with: bits differ between others.
        files: References to the content of files, by path inside the folder.
    """

    root: Path
    token: str
    here: dict[str, Any]
    files: dict[str, Any]


@dataclass
class Shipped:
    """What was sent so far, of every folder.

    Attributes:
        gpu: Whether jobs compute on one, which must be of the driver's kind.
    """

    gpu: bool = False
    _sent: dict[tuple[Path, str], tuple[int, Any]] = field(default_factory=dict)
    _tokens: dict[Path, str] = field(default_factory=dict)
    _before: list[str] = field(default_factory=list)

    def reads(self, given: tuple[Any, ...], put: Callable[[bytes], Any]) -> Reads:
        """List what a job reads, and put what is new.

        Args:
            given: Its arguments.
            put: Stores bytes and returns a reference.

        Returns:
            References.
        """
        root = Path(given[0].root)
        if root not in self._tokens:
            self._before += _left_behind(root)
            self._tokens[root] = uuid4().hex
            write_whole(root / TOKEN, self._tokens[root].encode())
        pairs, files = set(_pairs(given[1:])), {}
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and _concerns(name, pairs):
                changed = path.stat().st_mtime_ns
                known = self._sent.get((root, name))
                if known is None or known[0] != changed:
                    known = changed, put(path.read_bytes())
                    self._sent[root, name] = known
                files[name] = known[1]
        names = (*_SAME, "gpu") if self.gpu else _SAME
        return Reads(root, self._tokens[root], _kind(names), files)

    def forget(self) -> list[str]:
        """Remove the tokens.

        Returns:
            Names of what workers elsewhere hold in their folder for temporary files.
        """
        for root in self._tokens:
            (root / TOKEN).unlink(missing_ok=True)
        tokens = [*self._before, *self._tokens.values()]
        return [_copy(token).name for token in tokens]

    def keep(self, made: dict[Path, bytes]) -> None:
        """Write what a worker made elsewhere, unless it is there.

        Args:
            made: Content by path.
        """
        for path, content in made.items():
            if not path.exists():
                write_whole(path, content)


def run_there(job: Callable[..., Any], given: tuple[Any, ...], reads: Reads) -> Any:
    """Run a job on a worker.

    Args:
        job: The function.
        given: Its arguments, the folder first.
        reads: What it reads.

    Returns:
        What it returned, and the content of the files it made by path at the driver.

    Raises:
        LostPlaceError: This machine computes other bits than the driver's.
    """
    if (there := _kind(reads.here)) != reads.here:
        raise LostPlaceError(
            f"all machines of a cluster must have the driver's {', '.join(there)}, got "
            f"{there} for {reads.here}; use machines of one kind"
        )
    token = reads.root / TOKEN
    if token.is_file() and token.read_text() == reads.token:
        return job(*given), {}
    import ray

    root = _copy(reads.token)
    missing = [name for name in reads.files if not (root / name).is_file()]
    contents = ray.get([reads.files[name] for name in missing])
    for name, content in zip(missing, contents, strict=True):
        write_whole(root / name, content)
    found = job(replace(given[0], root=root), *given[1:])
    pairs = set(_pairs(given[1:]))  # not only what is new: an earlier try may have died
    made = sorted(
        n for n in set(_files(root)) - set(reads.files) if _concerns(n, pairs)
    )
    return found, {reads.root / name: (root / name).read_bytes() for name in made}


def _kind(names: Iterable[str]) -> dict[str, Any]:
    whole = environment()
    return {name: whole[name] for name in names}


def _left_behind(root: Path) -> list[str]:
    """Read the token of a driver that was killed before it removed anything."""
    token = root / TOKEN
    text = small_text(token) if token.is_file() else ""
    return [text] if _TOKEN.fullmatch(text) else []


def remove(names: list[str]) -> None:
    """Remove copies of folders on a worker's machine.

    Args:
        names: As :meth:`Shipped.forget` lists them.
    """
    for name in names:
        shutil.rmtree(Path(tempfile.gettempdir()) / name, ignore_errors=True)


def _copy(token: str) -> Path:
    return Path(tempfile.gettempdir()) / f"infusion-{token}"


def _files(root: Path) -> Iterator[str]:
    return (
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )


def _concerns(name: str, pairs: set[int]) -> bool:
    if name.split("/")[0] in _UNREAD or Path(name).name.startswith("."):
        return False
    found = _PAIR.search(name)
    return found is None or int(found[1]) in pairs


def _pairs(value: Any) -> Iterator[int]:
    """List the numbers of the pairs among arguments."""
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _pairs(each)
    elif hasattr(value, "index") and hasattr(value, "probe"):
        yield value.index
