"""Wall time and peak memory of a command with all its processes.

    python benchmarks/peak.py results/demo.json "`make demo` after installation" \\
        infusion run digits --out runs/demo

The second argument is what tables call the command. Memory is the sum of proportional
set sizes, sampled twice a second.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

from infusion.runs.store import environment

INTERVAL = 0.5


def memory(process: psutil.Process) -> int:
    """Return bytes held by a process and its children, shared pages counted once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    out, name, *command = sys.argv[1:]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(INTERVAL)
    row = {
        "command": name,
        "seconds": time.perf_counter() - start,
        "peak_gib": peak / 2**30,
        "status": running.returncode,
        "environment": environment(),
    }
    Path(out).write_text(json.dumps(row, indent=1) + "\n")
    sys.exit(running.returncode)
