"""What a run folder was started with, and must keep: configuration and environment."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infusion.errors import ArtefactError, InputError
from infusion.runs.files import (
    LOCK,
    clear_unfinished,
    refuse_link,
    small_file,
    small_text,
)
from infusion.runs.store import environment, json_bytes, write_whole


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Keep a run folder to one process while a block runs, cleared of half files.

    Args:
        root: Run folder, which exists. The lock goes with the process, however it ends.

    Yields:
        Nothing.

    Raises:
        InputError: Another process works in it.
        ArtefactError: Its lock is a link.
    """
    refuse_link(root / LOCK)
    with (root / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"one process at a time may work in a run folder, got another one in "
                f"{root}; wait for it, or choose another --out"
            ) from error
        clear_unfinished(root)
        yield
        clear_unfinished(root)  # of workers that were killed meanwhile


def check_out(out: Path, *inputs: Path) -> None:
    """Refuse a folder for results before anything is done.

    Args:
        out: The folder, there or not.
        inputs: Folders that are only read: it must not lie in them.

    Raises:
        InputError: It is a file or lies below one, or lies in an input.
    """
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise InputError(
                f"--out must be a folder, got {out}, where {place} is a file; name "
                "another"
            )
    for given in inputs:
        if out.resolve().is_relative_to(given.resolve()):
            raise InputError(
                f"--out must lie outside of what is read, got {out} in {given}; choose "
                "another"
            )


def refuse_other_config(root: Path, text: str) -> None:
    """Keep a run folder to the configuration it was started with.

    Args:
        root: Run folder, existing or not.
        text: Content of ``config.yaml`` for this run; written if there is none.

    Raises:
        InputError: The folder holds another configuration, whose first difference is
            named, or cannot be written to.
    """
    path = root / "config.yaml"
    if not path.exists():
        try:
            write_whole(path, text.encode())
        except OSError as error:
            raise InputError(
                f"--out must name a folder that can be written to, got {root}: "
                f"{error.strerror}; choose another --out"
            ) from error
        return
    old = small_text(path).splitlines()
    new = text.splitlines()
    if old != new:
        differ = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
        have, want = differ[0] if differ else (f"{len(old)} lines", f"{len(new)} lines")
        raise InputError(
            f"a run folder must keep the inputs it was started with, got "
            f"{want.strip()!r} where {path} says {have.strip()!r}; choose another --out"
        )


def refuse_other_environment(root: Path) -> None:
    """Keep a run folder to the processor and libraries it was started with.

    Args:
        root: Run folder; ``environment.json`` is written if there is none.

    Raises:
        ArtefactError: The folder was started elsewhere: its bits would be mixed.
    """
    path, here = root / "environment.json", environment()
    if not path.exists():
        write_whole(path, json_bytes(here))
        return
    try:
        there = dict(json.loads(small_file(path)))
    except (ValueError, TypeError) as error:
        raise ArtefactError(
            f"{path} must be a JSON object, got a truncated or altered file; restore "
            "it or choose another --out"
        ) from error
    for name, value in here.items():
        if there.get(name) != value:
            raise ArtefactError(
                f"a run must be continued where it was started, got {name} {value} "
                f"where {path} says {there.get(name)}; choose another --out, and "
                "--base for its base model"
            )
