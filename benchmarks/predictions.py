"""What the doctor says a run will take, beside what it then takes.

    python benchmarks/predictions.py --cifar10 FOLDER [--runs 0 1 2 3]

Each run is predicted from rehearsals that never saw its size, then made, in a process
of its own: wall time, and what the largest process held. Nothing else should run.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
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
        "rehearsals": [asdict(each) for each in cost.rehearsals],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar10", required=True)
    parser.add_argument("--runs", type=int, nargs="*", default=[0, 1, 2, 3])
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
    known = json.loads(OUT.read_text())["rows"] if OUT.exists() else []
    rows = {each["run"]: each for each in known}
    for number in given.runs:
        name, config, suite = asked[number]
        rows[name] = row(name, config, suite)
        print(json.dumps(rows[name]), flush=True)
        said = {"rows": list(rows.values()), **environment()}
        OUT.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
