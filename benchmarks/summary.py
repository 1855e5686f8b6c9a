"""What a sweep found, without its rows: ``results/sweep.json``.

    python benchmarks/summary.py RUN

RUN is the folder of a finished ``infusion sweep``.
"""

import hashlib
import json
import sys
from pathlib import Path

from infusion.runs.store import environment
from infusion.suites.collected import effects_of
from infusion.suites.sweep import FAILURES, RESULTS

OUT = Path(__file__).parent.parent / "results" / "sweep.json"


def main(folder: Path) -> None:
    content = (folder / RESULTS).read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    # effects_of reads times too, which are apart in a sweep's results
    effects = effects_of(rows[0]["preset"], [{**row, "seconds": 0.0} for row in rows])
    said = {
        "preset": rows[0]["preset"],
        "suite": rows[0]["suite"],
        "rows": len(rows),
        "pairs": len({(row["seed"], row["pair"]) for row in rows}),
        "seeds": sorted({row["seed"] for row in rows}),
        "given_up": (folder / FAILURES).read_bytes().count(b"\n"),
        "sha256": hashlib.sha256(content).hexdigest(),
        "effects": effects,
        **environment(),
    }
    OUT.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
