"""What the doctor says a run will take, beside what it then takes.

    python benchmarks/predictions.py --cifar10 FOLDER

Each run is predicted from rehearsals that never saw its size, then made, in a process
of its own: wall time, and what the largest process held. Nothing else should run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.configs import RunConfig
from infusion.presets import find_preset
from infusion.presets.cost import predict
from infusion.runs.config_files import to_yaml
from infusion.runs.store import environment

OUT = Path(__file__).parent.parent / "results" / "predictions.json"


def made(config: RunConfig, suite: str | None, folder: Path) -> tuple[float, int]:
    """Seconds and bytes of the run itself."""
    settings = folder / "asked.yaml"
    settings.write_text(to_yaml(config))
    words = ["run", "--config", str(settings), "--pairs", str(config.pairs)]
    words += ["--out", str(folder / "run")]
    words += [] if suite is None else ["--suite", suite]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "infusion", *words])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.monotonic() - began, used.ru_maxrss * 1024


def row(name: str, config: RunConfig, suite: str | None = None) -> dict[str, Any]:
    began = time.monotonic()
    cost = predict(config, suite)
    rehearsed = time.monotonic() - began
    with tempfile.TemporaryDirectory() as folder:
        seconds, held = made(config, suite, Path(folder))
    return {
        "run": name,
        "predicted_s": cost.total,
        "seconds": seconds,
        "predicted_bytes": cost.peak,
        "bytes": held,
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
