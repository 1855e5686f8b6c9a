"""Draw README's tables and figure from the files in this folder.

    python results/tables.py          rewrite README.md and docs/digits.png
    python results/tables.py --check  exit 1 where README.md differs

``digits.json`` and ``cifar10*.json`` are the ``results.json`` of finished runs,
``ratios.json`` is what ``benchmarks/ratios.py`` wrote.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from infusion.report.tables import NAMES, interval

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAPER_ACCURACY = 0.7391
"""Clean test accuracy of the paper's TinyResNet, arXiv 2602.09987."""


def read(name: str) -> Any:
    """Read one file of this folder."""
    return json.loads((HERE / name).read_text())


def effects(name: str) -> str:
    """Return a table of effects with controls of one run."""
    run = read(name)
    n = run["n_pairs"]
    lines = [
        f"n = {n} pairs, base seed {run['seeds'][0]}, {run['num_documents']['train']:,} "
        f"documents, {run['config']['edit']['k']} edited, "
        f"{run['threads']} threads, {run['environment']['processor']}.",
        "",
        "| | Δ log p(target), nats [95 %] | edit − this [95 %] | Δp | top-1 | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for arm, effect in run["effects"].items():
        paired = run["paired"].get(arm)
        lines.append(
            f"| {NAMES[arm]} | {interval(effect)} | "
            f"{interval(paired) if paired else ''} | "
            f"{run['effects_p'][arm]['mean']:+.3f} | {run['top1'][arm]['count']}/{n} | "
            f"{run['accuracy_after'][arm]['mean']:.2%} |"
        )
    correlation = run["predicted_vs_realised"]["rank_correlation"]
    if correlation is not None:
        lines += [
            "",
            f"Predicted against realised: rank correlation {correlation:.2f}.",
        ]
    return "\n".join(lines)


def accuracies() -> str:
    """Clean accuracy of the CIFAR-10 base models beside the paper's."""
    runs = [read(file.name) for file in sorted(HERE.glob("cifar10-seed*.json"))]
    epochs = sorted({int(e) for run in runs for e in run["accuracy_by_epoch"]})[-4:]
    lines = [
        "| base seed | " + " | ".join(f"epoch {e}" for e in epochs) + " |",
        "|---" * (len(epochs) + 1) + "|",
    ]
    for run in runs:
        values = [f"{run['accuracy_by_epoch'][str(e)]:.2%}" for e in epochs]
        lines.append(f"| {run['seeds'][0]} | " + " | ".join(values) + " |")
    last = " | " * (len(epochs) - 1)
    lines.append(f"| paper | {last}{PAPER_ACCURACY:.2%} |")
    return "\n".join(lines)


def ratios() -> str:
    """Table of time ratios."""
    stored = read("ratios.json")
    names = list(next(iter(stored.values()))["rows"])
    lines = [
        "| | " + " | ".join(stored) + " |",
        "|---" * (len(stored) + 1) + "|",
    ]
    for name in names:
        values = [f"{side['rows'][name]['ratio']:.2f}" for side in stored.values()]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


SECTIONS = {
    "digits": lambda: effects("digits.json"),
    "cifar10": lambda: effects("cifar10-seed0.json"),
    "accuracies": accuracies,
    "ratios": ratios,
}


def drawn(text: str) -> str:
    """Return README's text with every marked section drawn anew."""
    for name, draw in SECTIONS.items():
        mark = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        body = draw()
        text = re.sub(
            mark, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL
        )
    return text


if __name__ == "__main__":
    old = README.read_text()
    new = drawn(old)
    if "--check" in sys.argv:
        sys.exit(0 if new == old else 1)
    README.write_text(new)
