"""What a sweep found, without its rows: a file of ``results/``.

    python benchmarks/summary.py RUN [--out sweep.json] [--seconds 181 144]

RUN is the folder of a finished ``infusion sweep``, the seconds what a clock beside each
call of the command showed.
"""

import argparse
import hashlib
import json
from pathlib import Path

from infusion.suites.collected import effects_of
from infusion.suites.sweep import FAILURES, RESULTS

RESULTS_FOLDER = Path(__file__).parent.parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", default="sweep.json")
    parser.add_argument("--seconds", type=float, nargs="*", default=[])
    given = parser.parse_args()
    content = (given.folder / RESULTS).read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    # effects_of reads times too, which are apart in a sweep's results
    effects = effects_of(rows[0]["preset"], [{**row, "seconds": 0.0} for row in rows])
    environment = next(given.folder.glob("seed-*/environment.json")).read_text()
    said = {
        "preset": rows[0]["preset"],
        "scale": rows[0]["scale"],
        "suite": rows[0]["suite"],
        "rows": len(rows),
        "pairs": len({(row["seed"], row["pair"]) for row in rows}),
        "seeds": sorted({row["seed"] for row in rows}),
        "given_up": (given.folder / FAILURES).read_bytes().count(b"\n"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "seconds": given.seconds,
        "effects": effects,
        **json.loads(environment),
    }
    (RESULTS_FOLDER / given.out).write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
