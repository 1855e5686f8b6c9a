"""The benchmark: processes one after another, contenders in turn, and their rows."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infusion.bench.child import Job
from infusion.bench.problem import prepare
from infusion.bench.rows import Results, rows
from infusion.bench.table import print_table
from infusion.bench.works import OURS, Bench, Work, missing
from infusion.progress import progress
from infusion.store import environment, json_bytes, write_whole

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
    load = os.getloadavg()[0]
    absent = {name: missing(name) for name in settings.chosen_contenders()}
    names = sorted({work.setting for work in works})
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        jobs = list(_jobs(settings, works, threads, absent, folder))
        with progress("benchmark", len(names) + len(jobs)) as done:
            origins = {}
            for name in names:
                origins[name] = prepare(
                    name, small=settings.small, data=settings.data, folder=folder
                )
                done(1)
            results: Results = {}
            for number, job in enumerate(jobs):
                key = job.work, job.threads, job.contender
                results.setdefault(key, []).append(_run(job, folder, number))
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
            f"other programs ran before the start, load {load:.1f}: run again\n"
        )
    if as_json:
        sys.stdout.write(json.dumps({"rows": found, "out": str(settings.out)}) + "\n")
    return found


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
) -> Iterator[Job]:
    """List the processes: contenders in turn, who starts changes by round."""
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
                    yield Job(
                        work=work.name,
                        contender=name,
                        threads=count,
                        scratch=str(folder / f"{name}-{work.setting}-{count}"),
                        profile=name == OURS and number == 0,
                        **common,
                    )


def _run(job: Job, folder: Path, number: int) -> dict[str, Any]:
    """Run one job in a process of its own; a failure becomes its last line."""
    asked = folder / f"{number}.json"
    asked.write_text(json.dumps(asdict(job)))
    count = str(job.threads)
    own = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    # The command lets waiting threads sleep; here every contender gets torch's default.
    around = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    command = [sys.executable, "-W", "ignore", "-m", CHILD, str(asked)]
    done = subprocess.run(
        command, env=around | own, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return {"failed": last[-1]}
    result = json.loads(asked.with_suffix(".result").read_text())
    return result | {"stem": str(asked.with_suffix(""))}
