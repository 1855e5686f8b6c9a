"""Runs a command and writes what it took: its status, time, and largest process.

    python weighed.py OUT COMMAND …

Runs as a process of its own and imports nothing of this package: a child starts with
the peak of whoever started it, which would hide its own.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of a unit of the largest resident set."""


def main() -> None:
    """Run it."""
    out, *command = sys.argv[1:]
    began = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    said = {
        "status": status,
        "seconds": time.monotonic() - began,
        "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT,
    }
    Path(out).write_text(json.dumps(said))


if __name__ == "__main__":
    main()
