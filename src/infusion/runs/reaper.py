"""Clears up after a driver of a local Ray, however that ends.

    python reaper.py FOLDER

Runs as a process of its own and imports nothing of this package. It waits until its
standard input closes, which the driver's death does; then it kills what still names the
folder, the daemons of that Ray, and removes the folder.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 20.0
"""Seconds for processes to go."""
DAEMONS = ("raylet", "gcs_server")
MARK = "INFUSION_RAY"
"""Environment variable that names the folder; daemons and workers inherit it."""


def processes_of(folder: str, variable: str = MARK) -> list[int]:
    """List the daemons of a local Ray and what they started.

    Args:
        folder: Of one local Ray, or what the names of several begin with.
        variable: Of the environment, by which they are known.

    Returns:
        Their numbers.
    """
    found, entry = daemons_of(folder), f"{variable}={folder}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        if int(place.name) == os.getpid():
            continue
        try:
            inherited = entry in (place / "environ").read_bytes()
            theirs = inherited or _is_titled_and_writes_to(place, folder)
        except OSError:  # gone, or somebody else's
            continue
        if theirs:
            found.append(int(place.name))
    return list(dict.fromkeys(found))


def _is_titled_and_writes_to(place: Path, folder: str) -> bool:
    """Know what gave itself a title of Ray's, which may lie over its environment.

    Such are the agents, which outlive their Ray for a minute or two. Others that have a
    file of the folder open, such as whoever reads a log, are not meant.

    Args:
        place: Of the process in ``/proc``.
        folder: See :func:`processes_of`.

    Returns:
        True for one of that Ray.

    Raises:
        OSError: It is gone, or somebody else's.
    """
    if not (place / "cmdline").read_bytes().startswith(b"ray::"):
        return False
    for file in (place / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if str(file.readlink()).startswith(folder):
                return True
    return False


def daemons_of(folder: str) -> list[int]:
    """List what keeps a local Ray going.

    Args:
        folder: Of one local Ray.

    Returns:
        Numbers of its node manager and its store of what is where.
    """
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        named = Path(words[0].decode(errors="replace")).name in DAEMONS
        if named and state != "Z" and folder.encode() in b" ".join(words):
            found.append(int(place.name))
    return found


def main() -> None:
    """Wait for the driver's end, then clear up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's own business
    folder = sys.argv[1]
    sys.stdin.buffer.read()
    deadline = time.monotonic() + PATIENCE
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        for number in left:
            try:
                os.kill(number, signal.SIGKILL)
            except OSError:  # gone meanwhile
                continue
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
