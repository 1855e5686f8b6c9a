"""Sections on time and memory, from what the two kinds of benchmarks wrote."""

import math
from typing import Any

from layout import HERE, markdown, read

from infusion.bench.rows import RIVAL
from infusion.bench.works import OURS, PEERS

BESIDE = (
    "kronfluence, × ours",
    "memory, ours / its",
    "agreement",
    "curvlinops, × ours",
    "memory",
    "agreement",
)


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


def commands() -> str:
    """Return what whole commands took, and held at most."""
    lines = []
    for file in (HERE / "demo.json", *sorted(HERE.glob("run-*.json"))):
        run = read(file)
        assert run["status"] == 0, f"{file.name} is of a command that failed"
        lines.append(
            f"- {run['command']}: {run['seconds'] / 60:.1f} min and at most "
            f"{run['peak_gib']:.2f} GiB on {run['environment']['cores']} cores."
        )
    return "\n".join(lines)


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


def tokens() -> str:
    """Return what stages of language models cost, as ratios within one run."""
    run = read("tokens.json")
    about = (
        f"{run['model']}, {run['documents']} documents of {run['length']} tokens, "
        f"vocabulary {run['vocabulary']:,}, {run['threads']} thread."
    )
    lines = [
        [
            name,
            f"{row['ratio']:.2f}"
            if row["ratio"] >= 0.1
            else f"1 / {1 / row['ratio']:,.0f}",
            f"{1_000 * row['seconds']:,.0f}",
        ]
        for name, row in run["rows"].items()
    ]
    table = markdown(["", "ratio", "ms of the first"], lines)
    return "\n".join([about, "", *table, "", vocabulary()])


def vocabulary() -> str:
    """Return what editing documents of a large vocabulary held at most."""
    run = read("vocabulary.json")
    limit, taken = (run[key] / 2**30 for key in ("limit_bytes", "peak_bytes"))
    return (
        f"One step of ascent on {run['documents']} documents of {run['length']} tokens "
        f"of {run['vocabulary']:,}, by the same model with `memory_limit` "
        f"{limit:.0f} GiB: {taken:.2f} GiB beside model and documents, activations "
        f"included, in {run['seconds'] / 60:.1f} min of {run['threads']} thread."
    )


def pairs() -> str:
    """Return what one pair costs, one at a time and several together."""
    lines, said, modes = [], [], ("one at a time", "together")
    for row in read("pairs.json").values():
        place = row["scale"] if row["device"] == "cpu" else f"{row['scale']}, GPU"
        gpu = row["environment"]["gpu"] if row["device"] == "cuda" else None
        said.append(
            f"{place}: {row['edited']} of {row['documents']:,} documents edited "
            f"in {row['steps']} steps, a plain training epoch "
            f"{row['epoch_seconds']:.1f} s, {gpu or 'CPU time of one thread'}, "
            f"{row['together']} pairs together, medians of {row['rounds']}."
        )
        for stage in ("solve", "score", "craft", "retrain", "pair"):
            names = [f"{stage}, {mode}" for mode in modes]
            cells = [
                f"{row['seconds'][n]:.2f} s = {row['epochs'][n]:.2f}"
                if n in row["seconds"]
                else "–"
                for n in names
            ]
            lines.append([f"{place}: {stage}", *cells])
        fastest = sum(
            min(row["epochs"].get(f"{stage}, {mode}", math.inf) for mode in modes)
            for stage in ("solve", "score", "craft", "retrain")
        )
        lines.append([f"{place}: pair, the faster way each", f"{fastest:.2f}", ""])
    headings = ["per pair", "one at a time, epochs", "together, epochs"]
    return "\n".join([*said, "", *markdown(headings, lines)])
