"""Throughput of a sweep: one worker beside two, Ray beside plain processes.

    python benchmarks/sweeps.py [--pairs 32] [--rounds 1]

Digits with every control. Each place is opened once per round and warmed on the first
block of pairs; timed are the pairs that follow, from a copy of the same base model.
Starting a place is timed apart. Places take turns, so that a slow minute meets all.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.presets import find_preset
from infusion.runs.places import backend_of
from infusion.runs.store import environment
from infusion.suites.sweep import RESULTS, Sweep, sweep

OUT = Path(__file__).parent.parent / "results" / "sweeps.json"
PLACES = {
    "ray, 2": ("local", 2),
    "ray, 1": ("local", 1),
    "processes, 2": ("processes", 2),
}
WARM = 8
"""Pairs of the first block."""
CONFIG = replace(find_preset("digits").configs["small"], threads=2)


def asked(pairs: int) -> Sweep:
    return Sweep(replace(CONFIG, pairs=pairs), "all-controls", (0,))


def timed(place: str, base: Path, folder: Path, pairs: int) -> dict[str, Any]:
    """Seconds to open a place, and to do the pairs after the first block there."""
    on, workers = PLACES[place]
    shutil.copytree(base, folder)
    began = time.monotonic()
    with backend_of(on, workers) as backend:
        opened = time.monotonic() - began
        warm = sweep(asked(WARM), folder, backend)
        began = time.monotonic()
        done = sweep(asked(WARM + pairs), folder, backend)
        seconds = time.monotonic() - began
    written = (folder / RESULTS).read_bytes()
    return {
        "place": place,
        "open_s": round(opened, 2),
        "pairs": pairs,
        "rows": len(done.rows) - len(warm.rows),
        "seconds": round(seconds, 2),
        "sha256": hashlib.sha256(written).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        with backend_of("processes", 1) as backend:
            sweep(asked(1), base, backend)
        for turn in range(given.rounds):
            for place in PLACES:
                row = timed(place, base, Path(name) / f"{turn}-{place}", given.pairs)
                rows.append({"round": turn, **row})
                print(json.dumps(rows[-1]), flush=True)
            found = {"rows": rows, **environment()}
            OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
