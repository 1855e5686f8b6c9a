"""Kill a sweep at random, over and over, and compare what it wrote in the end.

    python benchmarks/faults.py --reference RUN [--kills 100]
        [--bases 4] [--pairs 84] [--seed 0]

RUN is the folder of the same sweep, never interrupted, of as many base models and
pairs or more. A local Ray of two workers does the work. At random times SIGKILL goes to
the driver, to a worker, to an agent or a daemon of Ray, which take their Ray along, or
to every process of the cluster; whatever ended is started again. A sweep that ends
before its last kill is followed by another, in a folder of its own.

Writes a row per kill to ``results/faults.jsonl``, and one per finished sweep: rows
lost, doubled and different from the reference, and what was left behind. ``gone_s`` is
how long after the kill of a driver or a cluster, or after the end of a driver by
itself, nothing of either was there any more: no process and no file.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

from infusion.runs import reaper
from infusion.runs.store import environment

OUT = Path(__file__).parent.parent / "results" / "faults.jsonl"
KINDS = ("driver", "worker", "agent", "daemon", "cluster")
SUITE, PRESET = "all-controls", "digits"
LONGEST = 30.0
"""Seconds from a start, or from the last kill, to the next."""
PATIENCE = 120.0
"""Seconds for a driver without its cluster, and for leftovers, to go."""


@dataclass(frozen=True)
class Asked:
    """How much is swept: pairs of each base model."""

    bases: int
    pairs: int

    def holds(self, row: dict[str, Any]) -> bool:
        return row["pair"] < self.pairs and row["seed"] < self.bases


def start(folder: Path, asked: Asked, place: Path) -> subprocess.Popen[bytes]:
    words = ["sweep", PRESET, "--suite", SUITE, "--pairs", str(asked.pairs)]
    words += ["--seeds", *map(str, range(asked.bases))]
    words += ["--workers", "2", "--on", "local", "--out", str(folder)]
    with (place / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "infusion", *words],
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(place)},
        )


def parts(place: Path) -> dict[str, list[int]]:
    """Processes of the cluster whose files lie in ``place``, by what they are."""
    folders = str(place / "infusion-ray-")  # those that are gone, too
    daemons = reaper.daemons_of(folders)
    found = {"daemon": daemons, "worker": [], "agent": [], "other": []}
    for number in set(reaper.processes_of(folders)) - set(daemons):
        try:
            words = psutil.Process(number).cmdline()
        except psutil.Error:
            continue
        found[_kind(" ".join(words[:3]))].append(number)
    return found


def _kind(command: str) -> str:
    """Tell agents from workers, which have a title or are about to."""
    if "agent" in command.lower():
        return "agent"
    titled = command.startswith("ray::")
    return "worker" if titled or "default_worker.py" in command else "other"


def everything(place: Path) -> list[str]:
    """Name what has its temporary files in ``place``, and those files."""
    numbers = reaper.processes_of(str(place), "TMPDIR")
    return [f"process {n}" for n in numbers] + [*map(str, place.glob("infusion*"))]


def kill(kind: str, driver: subprocess.Popen[bytes], place: Path) -> int:
    """Return how many processes were sent the signal."""
    there = parts(place)
    victims = {"driver": [driver.pid], "cluster": [*chain(*there.values())]}.get(kind)
    if victims is None:
        victims = random.sample(there[kind], min(1, len(there[kind])))
    struck = 0
    for number in victims:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
        struck += 1
    return struck


def wait_for_nothing(place: Path, began: float) -> float:
    """Seconds since then until nothing of a driver and its cluster is there."""
    while left := everything(place):
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"left behind: {left}")
        time.sleep(0.05)
    return round(time.monotonic() - began, 2)


def count(folder: Path) -> int:
    found = folder.glob("seed-*/rows/*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in found)


def append(row: dict[str, Any]) -> None:
    with OUT.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def key(line: bytes) -> tuple[int, int, int]:
    row = json.loads(line)
    return row["seed"], row["pair"], row["place"]


def compared(folder: Path, reference: list[bytes], asked: Asked) -> dict[str, Any]:
    """What a finished sweep wrote, beside the first pairs of the reference."""
    lines = (folder / "results.jsonl").read_bytes().splitlines(keepends=True)
    wanted = [line for line in reference if asked.holds(json.loads(line))]
    written = [
        line
        for path in folder.glob("seed-*/rows/*.jsonl")
        for line in path.read_bytes().splitlines()
    ]
    keys = [key(line) for line in written]
    return {
        "rows": len(lines),
        "lost": len(set(map(key, wanted)) - set(map(key, lines))),
        "doubled": len(keys) - len(set(keys)),
        "given_up": (folder / "failures.jsonl").read_bytes().count(b"\n"),
        "sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
        "reference_sha256": hashlib.sha256(b"".join(wanted)).hexdigest(),
        "identical": lines == wanted,
    }


def campaign(place: Path, reference: list[bytes], kills: int, asked: Asked) -> None:
    done = sweeps = starts = 0
    while done < kills:
        folder, began = place / f"sweep-{sweeps}", time.monotonic()
        driver = start(folder, asked, place)
        starts += 1
        while driver.returncode != 0:
            kind, wait = random.choice(KINDS), random.uniform(0, LONGEST)
            if done == kills:
                driver.wait()
            else:
                try:
                    driver.wait(wait)
                except subprocess.TimeoutExpired:
                    before, at = count(folder), time.monotonic()
                    struck = kill(kind, driver, place)
                    if struck:
                        done += 1
                    row: dict[str, Any] = {
                        "kill": done if struck else None,
                        "kind": kind,
                        "after_s": round(wait, 2),
                        "processes": struck,
                        "rows": before,
                    }
                    if struck and kind in ("driver", "cluster"):
                        row["status"] = driver.wait(PATIENCE)
                        row["gone_s"] = wait_for_nothing(place, at)
                    append({"sweep": sweeps, **row})
                else:
                    if driver.returncode != 0:  # as what lost its Ray may
                        gone = wait_for_nothing(place, time.monotonic())
                        last = (place / "log").read_text().splitlines()[-1]
                        ended = {"itself": driver.returncode, "said": last}
                        append({"sweep": sweeps, **ended, "gone_s": gone})
            if driver.poll() is not None and driver.returncode != 0:
                driver = start(folder, asked, place)
                starts += 1
        found: dict[str, Any] = {"gone_s": wait_for_nothing(place, time.monotonic())}
        found |= compared(folder, reference, asked)
        halves = [path.name for path in folder.rglob(".*.part")]
        found["left"] = everything(place) + halves
        seconds = round(time.monotonic() - began)
        append({"sweep": sweeps, **asdict(asked), "seconds": seconds, **found})
        shutil.rmtree(folder)
        sweeps += 1
    append({"kills": done, "sweeps": sweeps, "starts": starts, **environment()})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--bases", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=84)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    asked = Asked(given.bases, given.pairs)
    OUT.unlink(missing_ok=True)
    append({"asked": {"kills": given.kills, "seed": given.seed, **asdict(asked)}})
    lines = (given.reference / "results.jsonl").read_bytes().splitlines(keepends=True)
    with tempfile.TemporaryDirectory(prefix="swp", dir="/tmp") as name:
        try:
            campaign(Path(name), lines, given.kills, asked)
        finally:
            for child in psutil.Process().children(recursive=True):
                child.kill()


if __name__ == "__main__":
    main()
