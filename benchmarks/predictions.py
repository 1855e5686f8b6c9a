"""What the doctor says a run will take, beside what it then takes.

    python benchmarks/predictions.py --cifar10 FOLDER

Each run is predicted from rehearsals that never saw its size, then made, in a process
of its own: wall time, and what the largest process held. Nothing else should run.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.configs import RunConfig
from infusion.presets import find_preset
from infusion.presets.cost import predict, weigh
from infusion.runs.store import environment

OUT = Path(__file__).parent.parent / "results" / "predictions.json"


def row(name: str, config: RunConfig, suite: str | None = None) -> dict[str, Any]:
    began = time.monotonic()
    cost = predict(config, suite)
    rehearsed = time.monotonic() - began
    with tempfile.TemporaryDirectory() as folder:
        took, lines = weigh(config, suite, Path(folder))
    assert took["status"] == 0, lines[-1]
    return {
        "run": name,
        "predicted_s": cost.total,
        "seconds": took["seconds"],
        "predicted_bytes": cost.peak,
        "bytes": took["peak"],
        "rehearsed_s": rehearsed,
        "stages": cost.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar10", required=True)
    given = parser.parse_args()
    digits, caesar, cifar10 = (
        find_preset(name).configs["small"] for name in ("digits", "caesar", "cifar10")
    )
    cifar10 = replace(cifar10, data=replace(cifar10.data, source=given.cifar10))
    asked = [
        ("`infusion run digits`", digits, None),
        (
            "`infusion run digits --suite controls --pairs 40`",
            replace(digits, pairs=40),
            "controls",
        ),
        ("`infusion run caesar --pairs 6`", replace(caesar, pairs=6), "main"),
        ("`infusion run cifar10 --pairs 6`", replace(cifar10, pairs=6), None),
    ]
    rows = []
    for name, config, suite in asked:
        rows.append(row(name, config, suite))
        print(json.dumps(rows[-1]), flush=True)
        OUT.write_text(json.dumps({"rows": rows, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
