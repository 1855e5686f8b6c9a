"""Draw the tables and figures of README and docs from the files in this folder.

    python results/tables.py          rewrite README.md, docs/*.md, docs/figures/
    python results/tables.py --check  exit 1 where one differs

``digits.json`` and ``cifar10-seed*.json`` are the ``results.json`` of finished runs,
``fidelity-*.json`` and ``flips-*.json`` those of ``infusion fidelity``,
``PRESET-SCALE/SUITE.jsonl`` are rows of ``infusion run --suite``,
``bench.json`` is that of ``infusion bench``; ``defence.jsonl``, ``ratios.json``,
``pairs.json``, ``replay.json``, ``tokens.json``, ``vocabulary.json``, ``demo.json``,
``sweep.json``, ``sweep-gpu.json``, ``sweeps.json``, ``faults.jsonl``, ``growth.json``,
``predictions.json`` and ``run-*.json`` are what ``benchmarks/`` wrote.
"""

import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from typing import Any

from audits import detectors, rules
from costs import bench, commands, pairs, ratios, replay, tokens
from judgements import defence, goals, of_the_paper
from layout import HERE, markdown, read
from scaling import (
    faults,
    growth,
    growth_figures,
    predictions,
    scale,
    sweep,
    sweep_on_gpu,
    sweeps,
)

from infusion.report.drawing import standing_alone
from infusion.report.fidelity import (
    KINDS,
    flips_facts,
    flips_rows,
    lds_facts,
    lds_rows,
)
from infusion.report.figures import effects as draw_effects
from infusion.report.suites import (
    group_rows,
    statistics_said,
    suite_figures,
    suite_rows,
)
from infusion.report.tables import HEADINGS, NAMES, effects_rows
from infusion.suites.collected import collect
from infusion.suites.read import read_rows

ROOT = HERE.parent
PAPER_ACCURACY = 0.7391
"""Clean test accuracy of the paper's TinyResNet, arXiv 2602.09987."""
FIGURES = ROOT / "docs" / "figures"
SHOWN_FIRST = ("main", "controls", "copies")
"""Suites whose effects at the paper's scale are in docs/measured.md."""
TEXTS_SHOWN = {
    "caesar": ("targeting", "Δ CE target", "Δ CE other", "Δ CE correct"),
    "caesar29": ("targeting", "Δ CE target", "Δ CE other", "Δ CE correct"),
    "tinystories": ("Δ log odds", "Δp target", "less untargeted", "less probe"),
}
"""What docs/measured.md says of the main suites of texts, small."""
IN_TABLES = ("effects",)
"""Figures of suites that docs leave out, because their tables say the same."""


def effects(name: str) -> str:
    """Return a table of effects with controls of one run."""
    run = read(name)
    lines = [
        f"n = {run['n_pairs']} pairs, base seed {run['seeds'][0]} (checkpoint sha256 "
        f"{run['base_sha256'][:12]}…), {run['config']['edit']['k']} of "
        f"{run['num_documents']['train']:,} documents edited; one thread per training, "
        f"{run['environment']['processor']}, torch {run['environment']['torch']}.",
        "",
        *markdown(list(HEADINGS), [list(row) for row in effects_rows(run)]),
    ]
    correlation = run["predicted_vs_realised"]["rank_correlation"]
    if correlation is not None:
        lines += [
            "",
            f"Predicted against realised: rank correlation {correlation:.2f}.",
        ]
    return "\n".join(lines)


def accuracies() -> str:
    """Return clean accuracies of the CIFAR-10 base models beside the paper's."""
    runs = [read(file) for file in sorted(HERE.glob("cifar10-seed*.json"))]
    epochs = sorted({int(e) for run in runs for e in run["accuracy_by_epoch"]})[-4:]
    rows = [
        [str(run["seeds"][0])]
        + [_percent(run["accuracy_by_epoch"].get(str(epoch))) for epoch in epochs]
        for run in runs
    ]
    rows.append(["paper", *[""] * (len(epochs) - 1), f"{PAPER_ACCURACY:.2%}"])
    return "\n".join(markdown(["base seed", *(f"epoch {e}" for e in epochs)], rows))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def lds() -> str:
    """Return linear datamodelling scores of every method, suites side by side."""
    return side_by_side("fidelity-*.json", lds_facts, lds_rows, lambda _: KINDS)


def flips() -> str:
    """Return shares of flipped labels found, suites side by side."""
    return side_by_side(
        "flips-*.json",
        flips_facts,
        flips_rows,
        lambda run: [f"{share:.0%} inspected" for share in run["inspected"]],
    )


def side_by_side(
    pattern: str,
    facts: Callable[[Any], list[str]],
    rows: Callable[[Any], dict[str, list[str]]],
    headings: Callable[[Any], Iterable[str]],
) -> str:
    """Lay out runs of one kind as columns of one table, a row per method."""
    runs = [read(file) for file in sorted(HERE.glob(pattern))]
    cells = [rows(run) for run in runs]
    blank = [[""] * len(list(headings(run))) for run in runs]
    names = dict.fromkeys(name for each in cells for name in each)
    lines = [
        [name, *chain(*(c.get(name, b) for c, b in zip(cells, blank, strict=True)))]
        for name in names
    ]
    columns = [f"{run['suite']}, {head}" for run in runs for head in headings(run)]
    said = [line for run in runs for line in facts(run)]
    return "\n".join([*said, "", *markdown(["", *columns], lines)])


def shown_first() -> str:
    """Return the edit beside controls and copies, CIFAR-10 at the paper's settings."""
    rows: dict[tuple[str, ...], None] = {}
    headings: list[str] = []
    for suite in collected():
        name = (suite["preset"], suite["scale"], suite["suite"])
        if name[:2] != ("cifar10", "paper") or name[2] not in SHOWN_FIRST:
            continue
        headings, found = suite_rows(suite["effects"])
        width = headings.index("ρ") + 1
        headings = [headings[0], *headings[2:width]]
        rows.update(
            ((f"{row[0]}, {row[1]} pairs", *row[2:width]), None) for row in found
        )
    return "\n".join(markdown(headings, [list(row) for row in rows]))


def texts_first() -> str:
    """Return the edits of texts beside their controls, preset by preset."""
    parts = []
    for suite in collected():
        name = (suite["scale"], suite["suite"])
        if name != ("small", "main") or suite["preset"] not in TEXTS_SHOWN:
            continue
        headings, found = suite_rows(suite["effects"])
        first, *more = TEXTS_SHOWN[suite["preset"]]
        less = f"{suite['effects'][0]['trial']} less this"
        shown = ["trial", "n", first, less, *more, "accuracy, points", "tokens"]
        places = [headings.index(name) for name in shown if name in headings]
        shown = [headings[place] for place in places]
        lines = [f"{suite['preset']}, small: {statistics_said(suite['statistics'])}"]
        lines += ["", *markdown(shown, [[row[i] for i in places] for row in found])]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "No rows yet."


def suites() -> str:
    """Return the effects of every suite that has rows: a table and figures each."""
    parts = []
    for suite in collected():
        seeds = ", ".join(map(str, suite["seeds"]))
        name = f"{suite['preset']} {suite['scale']}, {suite['suite']}"
        lines = [f"**{name}**, base seeds {seeds}", ""]
        lines += markdown(*suite_rows(suite["effects"]))
        if suite["statistics"] is not None:
            first = suite["effects"][0]["trial"]
            lines += ["", f"{first}: {statistics_said(suite['statistics'])}"]
            if grouped := group_rows(suite["statistics"]):
                headings = ["pairs by", "", "n", suite["measured"]]
                lines += ["", *markdown(headings, grouped)]
        for file, (_, caption) in suite["files"].items():
            lines += ["", f"![{caption}](figures/{file})"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "No rows yet."


@cache
def collected() -> list[Any]:
    """Summarise every suite that has rows, with its figures and captions by file."""
    found = collect(HERE) if read_rows(HERE) else []
    for suite in found:
        name = f"{suite['preset']}-{suite['scale']}-{suite['suite']}"
        suite["files"] = {
            f"{name}-{figure}.svg": drawing
            for figure, drawing in suite_figures(suite).items()
            if figure not in IN_TABLES
        }
    return found


DOCS = ("audit.md", "measured.md", "scale.md", "suites.md")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in DOCS))
SECTIONS = {
    "digits": lambda: effects("digits.json"),
    "cifar10": shown_first,
    "accuracies": accuracies,
    "texts": texts_first,
    "ratios": ratios,
    "bench": bench,
    "commands": commands,
    "lds": lds,
    "flips": flips,
    "claims": of_the_paper,
    "goals": goals,
    "defence": defence,
    "suites": suites,
    "replay": replay,
    "pairs": pairs,
    "tokens": tokens,
    "rules": rules,
    "detectors": detectors,
    "sweeps": sweeps,
    "growth": growth,
    "sweep": sweep,
    "sweep-gpu": sweep_on_gpu,
    "faults": faults,
    "predictions": predictions,
    "scale": scale,
}


def drawn(text: str) -> str:
    """Return a text with every marked section drawn anew."""
    for name, draw in SECTIONS.items():
        if f"<!-- {name} -->" not in text:
            continue
        mark = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        body = draw()
        text, count = re.subn(
            mark, lambda m, b=body: f"{m[1]}{b}\n{m[2]}", text, flags=re.DOTALL
        )
        if count != 1:
            sys.exit(f"a section must be marked once, got {count} times {name}")
    return text


def pictures() -> dict[str, str]:
    """Draw all figures of docs: the digits run beside its controls, and of suites."""
    run = read("digits.json")
    digits = draw_effects(
        list(NAMES.values()),
        [run["effects"][arm] for arm in NAMES],
        [arm == "edit" for arm in NAMES],
    )
    drawn = {
        file: element
        for suite in collected()
        for file, (element, _) in suite["files"].items()
    }
    return {
        name: standing_alone(element)
        for name, element in {
            "digits.svg": digits,
            **drawn,
            **growth_figures(),
        }.items()
    }


if __name__ == "__main__":
    files = {
        **{path: drawn(path.read_text()) for path in PAGES},
        **{FIGURES / name: text for name, text in pictures().items()},
    }
    gone = set(FIGURES.glob("*.svg")) - set(files)
    if "--check" in sys.argv:
        changed = (not f.exists() or f.read_text() != t for f, t in files.items())
        sys.exit(bool(gone) or any(changed))
    FIGURES.mkdir(exist_ok=True)
    for file, text in files.items():
        file.write_text(text)
    for file in gone:
        file.unlink()
