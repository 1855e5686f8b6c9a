"""The benchmark: processes one after another, contenders in turn, and their rows.

What a process returned is kept beside the rows, in ``{out}.runs/``, in a folder named
after the flags, this package's source and the environment: the same command goes on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import infusion
from infusion.bench.child import Job
from infusion.bench.problem import prepare
from infusion.bench.rows import Results, rows
from infusion.bench.table import print_table
from infusion.bench.works import OURS, Bench, Work, missing
from infusion.runs.progress import progress
from infusion.runs.store import (
    digest,
    environment,
    file_sha256,
    json_bytes,
    write_whole,
)

CHILD = "infusion.bench.child"
IDLE = 0.5


def bench(settings: Bench, *, as_json: bool) -> list[dict[str, Any]]:
    """Run the benchmark, write its rows, print their table.

    Args:
        settings: Flags.
        as_json: Print one JSON object as the last line of standard output, and the
            table on standard error.

    Returns:
        The rows.

    Raises:
        InputError: A flag cannot be used, or the data cannot be read.
    """
    works, threads = settings.chosen_works(), settings.thread_counts()
    absent = {name: missing(name) for name in settings.chosen_contenders()}
    names = sorted({work.setting for work in works})
    folder = _folder(settings)
    load = _once(folder / "load.json", lambda: os.getloadavg()[0])
    jobs = list(_jobs(settings, works, threads, absent, folder))
    with progress("benchmark", len(names) + len(jobs)) as done:
        origins = {}
        for name in names:
            make = partial(
                prepare, name, small=settings.small, data=settings.data, folder=folder
            )
            origins[name] = _once(folder / f"{name}.json", make)
            done(1)
        results: Results = {}
        for round_, job in jobs:
            key = job.work, job.threads, job.contender
            results.setdefault(key, []).append(_run(job, folder, round_))
            done(1)
    found = rows(works, threads, absent, results, small=settings.small)
    here = environment()
    for row in found:
        row |= {"data": origins[row["setting"]], "environment": here}
    content = {"flags": _flags(settings), "load_before": load, "rows": found}
    write_whole(settings.out, json_bytes(content))
    print_table(found, stderr=as_json)
    if load > IDLE:
        screen = sys.stderr if as_json else sys.stdout
        screen.write(
            f"the machine must be idle before the start, got a load of {load:.1f}; "
            f"remove {folder} and run again\n"
        )
    if as_json:
        sys.stdout.write(json.dumps({"rows": found, "out": str(settings.out)}) + "\n")
    return found


def _folder(settings: Bench) -> Path:
    """Name the folder of finished processes; new data at the same path is not seen."""
    home = Path(infusion.__file__).parent
    decides = {
        "data": settings.data,
        "small": settings.small,
        "channels_last": settings.channels_last,
        "source": [file_sha256(path) for path in sorted(home.rglob("*.py"))],
        "environment": environment(),
    }
    return settings.out.with_suffix(".runs") / digest(decides)[:8]


def _once(path: Path, make: Callable[[], Any]) -> Any:
    """Return a JSON value that is kept in a file, and make it if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json_bytes(make()))
    return json.loads(path.read_text())


def _flags(settings: Bench) -> dict[str, Any]:
    """Return the flags without paths of this machine."""
    given = asdict(settings)
    return {k: v for k, v in given.items() if k not in ("data", "out")}


def _jobs(
    settings: Bench,
    works: list[Work],
    threads: list[int],
    absent: dict[str, str | None],
    folder: Path,
) -> Iterator[tuple[int, Job]]:
    """List the processes by round: contenders in turn, who starts changes by round."""
    common = {
        "small": settings.small,
        "channels_last": settings.channels_last,
        "folder": str(folder),
    }
    present = [name for name, why in absent.items() if why is None]
    for count in threads:
        for number in range(settings.rounds):
            for work in works:
                able = [name for name in present if name in work.contenders]
                start = number % len(able)
                for name in able[start:] + able[:start]:
                    yield (
                        number,
                        Job(
                            work=work.name,
                            contender=name,
                            threads=count,
                            scratch=str(folder / f"{name}-{work.setting}-{count}"),
                            profile=name == OURS and number == 0,
                            **common,
                        ),
                    )


def _run(job: Job, folder: Path, number: int) -> dict[str, Any]:
    """Run one job in a process of its own; a failure becomes its last line."""
    stem = folder / f"{job.work}-{job.threads}-{job.contender}-{number}"
    asked, result = stem.with_suffix(".json"), stem.with_suffix(".result")
    if not result.exists():
        asked.write_text(json.dumps(asdict(job)))
        count = str(job.threads)
        own = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
        # The command lets waiting threads sleep; here all get torch's default.
        around = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
        command = [sys.executable, "-W", "ignore", "-m", CHILD, str(asked)]
        done = subprocess.run(
            command, env=around | own, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            return {"failed": last[-1]}
    return json.loads(result.read_text()) | {"stem": str(stem)}
