"""Draw the tables and figures of README and docs from the files in this folder.

    python results/tables.py          rewrite README.md, docs/suites.md, docs/figures/
    python results/tables.py --check  exit 1 where one differs

``digits.json`` and ``cifar10-seed*.json`` are the ``results.json`` of finished runs,
``fidelity-*.json`` and ``flips-*.json`` those of ``infusion fidelity``,
``PRESET-SCALE/SUITE.jsonl`` are rows of ``infusion run --suite``,
``bench.json`` is that of ``infusion bench``; ``ratios.json``, ``pairs.json``,
``replay.json`` and ``demo.json`` are what ``benchmarks/`` wrote.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from infusion.bench.rows import RIVAL
from infusion.bench.works import OURS, PEERS
from infusion.report.claims import claim_cells
from infusion.report.fidelity import (
    KINDS,
    flips_facts,
    flips_rows,
    lds_facts,
    lds_rows,
)
from infusion.report.figures import effects as draw_effects
from infusion.report.figures import standing_alone
from infusion.report.suites import statistics_said, suite_figures, suite_rows
from infusion.report.tables import HEADINGS, NAMES, effects_rows
from infusion.suites.claims.judged import claims
from infusion.suites.collected import collect
from infusion.suites.read import read_rows

HERE = Path(__file__).parent
ROOT = HERE.parent
PAPER_ACCURACY = 0.7391
"""Clean test accuracy of the paper's TinyResNet, arXiv 2602.09987."""
BESIDE = (
    "kronfluence, × ours",
    "memory, ours / its",
    "agreement",
    "curvlinops, × ours",
    "memory",
    "agreement",
)
FIGURES = ROOT / "docs" / "figures"
IN_TABLES = ("effects",)
"""Figures of suites that docs leave out, because their tables say the same."""


def read(name: str) -> Any:
    """Read one file of this folder."""
    return json.loads((HERE / name).read_text())


def markdown(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Lay out a table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


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
    runs = [read(file.name) for file in sorted(HERE.glob("cifar10-seed*.json"))]
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


def ratios() -> str:
    """Return a table of time ratios."""
    stored = read("ratios.json")
    names = next(iter(stored.values()))["rows"]
    rows = [
        [name, *(f"{side['rows'][name]['ratio']:.2f}" for side in stored.values())]
        for name in names
    ]
    return "\n".join(markdown(["", *stored], rows))


def bench() -> str:
    """Return a row per work and thread count, both peers beside this package."""
    stored = read("bench.json")
    found = {(r["work"], r["threads"], r["contender"]): r for r in stored["rows"]}
    ours = {key[:2]: row for key, row in found.items() if key[2] == OURS}
    lines = [
        [
            row["title"] + (f": 1/{round(1 / row['share'])}" if row["share"] else ""),
            str(threads),
            _said(row) or f"{row['seconds']:.2f}",
            *_beside(found, work, threads, row),
            _rounded(row["forward_passes"], ".1f"),
            _rounded(row["floor_seconds"], ".2f"),
        ]
        for (work, threads), row in ours.items()
    ]
    low = [
        f"{row['title'].split(', ', 1)[1]} {row['agreement']:.0e} ({row['contender']})"
        for row in found.values()
        if row["work"].endswith("-low-damping") and row["agreement"] is not None
        if row["threads"] == min(threads for _, threads in ours)
    ]
    spent = [
        f"- {row['title']}: {_largest(row['where'])}"
        for (_, threads), row in ours.items()
        if threads == 1 and row["where"]
    ]
    here = stored["rows"][0]["environment"]
    return "\n".join(
        [
            f"Medians of {stored['flags']['rounds']} rounds; load before the start "
            f"{stored['load_before']:.1f}; {here['processor']}, {here['cores']} cores, "
            f"torch {here['torch']}.",
            "",
            *markdown(
                ["", "threads", "s", *BESIDE, "forward passes", "floor, s"], lines
            ),
            "",
            f"Agreement at damping 1e-8: {'; '.join(low)}.",
            "",
            "Where our time goes on one thread:",
            "",
            *spent,
        ]
    )


def _beside(
    found: dict[tuple[str, int, str], Any], work: str, threads: int, own: Any
) -> list[str]:
    """Compare with each peer: its time over ours, our memory over its, agreement."""
    cells = []
    for peer in PEERS:
        row = found.get((work, threads, peer))
        if row is None:  # a fit on a share is beside the peer's fit on all
            alone = peer == RIVAL and own["time_ratio"] is not None
            cells += [_ratio(own) if alone else "", "", ""]
        elif _said(row):
            cells += [_said(row), "", ""]
        else:
            memory, same = _rounded(row["memory_ratio"], ".2f"), row["agreement"]
            cells += [_ratio(row), memory, _rounded(same, ".0e")]
    return cells


def _said(row: Any) -> str:
    """Say why a row holds no numbers."""
    return "failed" if row["failed"] else "missing" if row["missing"] else ""


def _ratio(row: Any) -> str:
    goal = f" (goal {row['goal']:g})" if row["goal"] else ""
    return f"{row['time_ratio']:.2f}{goal}"


def _rounded(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _largest(shares: dict[str, float]) -> str:
    named = sorted(shares.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{name.removeprefix('aten.')} {v:.0%}" for name, v in named)


def demo() -> str:
    """Say what one run of the demo took."""
    run = read("demo.json")
    return (
        f"`make demo` after installation: {run['seconds']:.0f} s and at most "
        f"{run['peak_gib']:.2f} GiB on {run['environment']['cores']} cores."
    )


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
    runs = [read(file.name) for file in sorted(HERE.glob(pattern))]
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


def claimed() -> str:
    """Return the paper's claims and our goals, as judged by the rows of suites."""
    found = claims(HERE)
    headings = ["", "claim", "paper or goal", "ours [95 %]", "n", "setting", "verdict"]
    return "\n".join(markdown(headings, [claim_cells(row) for row in found]))


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


def replay() -> str:
    """Return how the exact derivative compares with EK-FAC, and what it holds."""
    run = read("replay.json")
    rows = run["pairs"]
    said = [
        ["own order", _mean_of([row["cosine_own"] for row in rows])],
        ["fresh orders", _mean_of([c for r in rows for c in r["cosine_fresh"]])],
        ["their mean", _mean_of([row["cosine_mean"] for row in rows])],
        [
            "two orders, exact against exact",
            _mean_of([c for r in rows for c in r["cosine_between_orders"]]),
        ],
    ]
    memory = [
        [
            f"{row['steps']:,}",
            str(row["states"]),
            f"{row['bytes'] / 2**20:.1f}",
            f"{row['bytes_of_every_step'] / 2**20:.1f}",
        ]
        for row in run["memory"]
    ]
    epochs = sum(row["epochs_of_time"] for row in rows) / len(rows)
    return "\n".join(
        [
            f"n = {len(rows)} pairs on base models of 3 seeds; one gradient takes as "
            f"long as {epochs:.1f} training epochs.",
            "",
            *markdown(["exact derivative through", "cosine with EK-FAC"], said),
            "",
            *markdown(["steps", "states held", "MiB", "MiB if all were kept"], memory),
        ]
    )


def _mean_of(values: list[float]) -> str:
    return (
        f"{sum(values) / len(values):+.3f} ({min(values):+.3f} to {max(values):+.3f})"
    )


def pairs() -> str:
    """Return what one pair costs, one at a time and several together."""
    lines, said, modes = [], [], ("one at a time", "together")
    for row in read("pairs.json").values():
        gpu = row["environment"]["gpu"] if row["device"] == "cuda" else None
        said.append(
            f"{row['scale']}: {row['edited']} of {row['documents']:,} documents edited "
            f"in {row['steps']} steps, a plain training epoch "
            f"{row['epoch_seconds']:.1f} s, {gpu or 'CPU time of one thread'}, "
            f"{row['together']} pairs together."
        )
        for stage in ("solve", "score", "craft", "retrain", "pair"):
            names = [f"{stage}, {mode}" for mode in modes]
            cells = [
                f"{row['seconds'][n]:.2f} s = {row['epochs'][n]:.2f}" for n in names
            ]
            lines.append([f"{row['scale']}: {stage}", *cells])
        fastest = sum(
            min(row["epochs"][f"{stage}, {mode}"] for mode in modes)
            for stage in ("solve", "score", "craft", "retrain")
        )
        lines.append(
            [f"{row['scale']}: pair, the faster way each", f"{fastest:.2f}", ""]
        )
    headings = ["per pair", "one at a time, epochs", "together, epochs"]
    return "\n".join([*said, "", *markdown(headings, lines)])


TEXTS = (ROOT / "README.md", ROOT / "docs" / "suites.md")
SECTIONS = {
    "digits": lambda: effects("digits.json"),
    "cifar10": lambda: effects("cifar10-seed0.json"),
    "accuracies": accuracies,
    "ratios": ratios,
    "bench": bench,
    "demo": demo,
    "lds": lds,
    "flips": flips,
    "claims": claimed,
    "suites": suites,
    "replay": replay,
    "pairs": pairs,
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
        for name, element in {"digits.svg": digits, **drawn}.items()
    }


if __name__ == "__main__":
    files = {
        **{path: drawn(path.read_text()) for path in TEXTS},
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
