"""Sections on size: sweeps, faults, growth, predictions, a model of 1 B parameters."""

import json
import math
from typing import Any

from layout import HERE, markdown, read

from infusion.attribution.doctor import EIGENVECTORS
from infusion.curvature.covariance import gram_operations
from infusion.curvature.plan import Sizes
from infusion.report.growth import growth as draw_growth
from infusion.report.suites import suite_rows

AXES = ("documents", "parameters", "measurements", "pairs")

# A decoder of 1 B parameters, its corpus, and a GPU.
WIDTH, BLOCKS, VOCABULARY = 2_048, 18, 50_257
DOCUMENTS, TOKENS = 10**9, 512
RATE, WIDE_RATE = 4e14, 3e13
"""Operations a second that one GPU does, of the 1e15 it could in bfloat16, and of the
6e13 in float64, in which eigenvectors are found."""
TOGETHER = 8
"""Measurements scored together."""
DAY = 86_400


def sweeps() -> str:
    """Return the throughput of a sweep by place, over all rounds."""
    rows = read("sweeps.json")["rows"]
    by_place: dict[str, list[Any]] = {}
    for row in rows:
        by_place.setdefault(row["place"], []).append(row)
    pace = {
        place: sum(r["seconds"] for r in found) / sum(r["pairs"] for r in found)
        for place, found in by_place.items()
    }
    lines = [
        [
            place,
            str(sum(r["pairs"] for r in found)),
            str(sum(r["rows"] for r in found)),
            f"{pace[place]:.2f}",
            f"{pace['ray, 1'] / pace[place]:.2f}",
            f"{max(r['open_s'] for r in found):.1f}",
        ]
        for place, found in by_place.items()
    ]
    headings = ["workers", "pairs", "rows", "s per pair", "× one worker", "to open, s"]
    cost = pace["ray, 2"] / pace["processes, 2"] - 1
    rounds = len(by_place["ray, 2"])
    same = len({row["sha256"] for row in rows}) == 1
    said = (
        f"{rounds} round{'s' * (rounds > 1)}. "
        f"Ray beside plain processes: {cost:+.1%} a pair. "
        f"Results of all places are {'the same bytes' if same else 'different'}."
    )
    return "\n".join([*markdown(headings, lines), "", said])


def sweep() -> str:
    """Return what the long sweep found."""
    stored = read("sweep.json")
    seeds = stored["seeds"]
    said = (
        f"{stored['preset']}, suite {stored['suite']}: {stored['pairs']:,} pairs, "
        f"{len(seeds)} base models of seeds {seeds[0]} to {seeds[-1]}, "
        f"{stored['rows']:,} rows, {stored['given_up']} given up; `results.jsonl` has "
        f"sha256 {stored['sha256'][:16]}…."
    )
    return _with_effects(said, stored)


def sweep_on_gpu() -> str:
    """Return how many edits a minute a sweep makes on one GPU, all stages."""
    stored = read("sweep-gpu.json")
    edits, seconds = stored["rows"], sum(stored["seconds"])
    said = (
        f"{stored['preset']}, scale {stored['scale']}, suite {stored['suite']}, on one "
        f"{stored['gpu']}: {stored['pairs']} pairs, {edits} edits, each crafted, "
        f"retrained on and measured, in {seconds:.0f} s with the base model, its "
        f"curvature and reading the pictures, **{60 * edits / seconds:.1f} a minute**. "
        f"`results.jsonl` has sha256 {stored['sha256'][:16]}…."
    )
    return _with_effects(said, stored)


def _with_effects(said: str, stored: Any) -> str:
    headings, rows = suite_rows(stored["effects"])
    return "\n".join([said, "", *markdown(headings, rows)])


def faults() -> str:
    """Return what killing sweeps at random did, by what was killed."""
    text = (HERE / "faults.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    asked, *done, end = rows
    kills = [row for row in done if row.get("kill")]
    sweeps = [row for row in done if "identical" in row]
    lines = []
    for kind in dict.fromkeys(sorted(row["kind"] for row in kills)):
        found = [row for row in kills if row["kind"] == kind]
        gone = [row["gone_s"] for row in found if "gone_s" in row]
        lines.append(
            [
                kind,
                str(len(found)),
                str(sum(row["processes"] for row in found)),
                f"{max(gone):.2f}" if gone else "–",
            ]
        )
    headings = ["killed", "times", "processes", "all gone after, s, at most"]
    alone = [row["gone_s"] for row in done if "itself" in row]
    whole = [row["gone_s"] for row in sweeps]
    totals = {
        name: sum(row[name] for row in sweeps)
        for name in ("rows", "lost", "doubled", "given_up")
    }
    same = sum(row["identical"] for row in sweeps)
    hashes = ", ".join(f"{row['sha256'][:16]}…" for row in sweeps)
    said = (
        f"{end['kills']} kills, seed {asked['asked']['seed']}, in {len(sweeps)} "
        f"sweep{'s' * (len(sweeps) != 1)} of "
        f"{asked['asked']['bases'] * asked['asked']['pairs']} pairs, started "
        f"{end['starts']} times; {len(alone)} times a sweep "
        f"ended by itself for want of its Ray, and {max(alone + whole):.2f} s "
        "after such an end, or that of a whole sweep, nothing of it was left. "
        f"Of {totals['rows']:,} rows "
        f"{totals['lost']} were lost and {totals['doubled']} doubled, "
        f"{totals['given_up']} jobs given up; {same} of {len(sweeps)} files have the "
        f"bytes of a sweep that nothing interrupted (sha256 {hashes}). Left behind: "
        f"{sum(len(row['left']) for row in sweeps)} processes and files."
    )
    return "\n".join([*markdown(headings, lines), "", said])


def predictions() -> str:
    """Return what the doctor predicted beside what runs then took."""
    lines = []
    for row in read("predictions.json")["rows"]:
        bytes_off = row["predicted_bytes"] / row["bytes"] - 1
        lines.append(
            [
                row["run"],
                f"{row['predicted_s']:.0f}",
                f"{row['seconds']:.0f}",
                f"{row['predicted_s'] / row['seconds'] - 1:+.0%}",
                f"{row['predicted_bytes'] / 2**30:.2f}",
                f"{row['bytes'] / 2**30:.2f}",
                f"{bytes_off:+.0%}",
                f"{row['rehearsed_s']:.0f}",
            ]
        )
    headings = ["run", "predicted, s", "took, s", "off by"]
    headings += ["predicted, GiB", "held, GiB", "off by", "rehearsals, s"]
    return "\n".join(markdown(headings, lines))


def growth() -> str:
    """Return the fitted powers of every stage along every axis."""
    lines = []
    for axis, stages in fitted().items():
        for stage, found in stages.items():
            power = {name: f"{found[name][0]:.2f}" for name in ("seconds", "bytes")}
            most = max(found["points"])
            span = f"{min(found['points']):,} to {most:,}"
            lines.append([stage, axis, span, power["seconds"], power["bytes"]])
    headings = ["stage", "against", "from … to", "time grows as", "memory grows as"]
    return "\n".join(markdown(headings, lines))


def fitted() -> dict[str, dict[str, Any]]:
    """Fit a power to each stage along each axis, by least squares of logarithms."""
    found: dict[str, dict[str, Any]] = {}
    for row in read("growth.json")["rows"]:
        axis = "parameters" if row["axis"] == "width" else row["axis"]
        stage = found.setdefault(axis, {}).setdefault(row["stage"], {})
        stage.setdefault("points", []).append(row[axis])
        for name in ("seconds", "bytes"):
            unit = {"seconds": 1, "bytes": 2**20}[name]
            stage.setdefault(f"{name} at", []).append(row[name] / unit)
    for stages in found.values():
        for stage in stages.values():
            for name in ("seconds", "bytes"):
                stage[name] = power(stage["points"], stage[f"{name} at"])
    return dict(sorted(found.items(), key=lambda item: AXES.index(item[0])))


def power(x: list[float], y: list[float]) -> tuple[float, float]:
    """Fit ``y = a xᵇ``: returns ``b`` and ``a``."""
    u, v = [math.log(each) for each in x], [math.log(each) for each in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    slope = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    slope /= sum((a - mean_u) ** 2 for a in u)
    return slope, math.exp(mean_v - slope * mean_u)


def growth_figures() -> dict[str, str]:
    """Draw time and memory along every axis, with the fitted powers."""
    return {
        f"growth-{axis}-{name}.svg": draw_growth(
            {
                stage: (found["points"], found[f"{name} at"], found[name])
                for stage, found in stages.items()
            },
            along=axis,
            measured={"seconds": "seconds", "bytes": "MiB"}[name],
        )
        for axis, stages in fitted().items()
        for name in ("seconds", "bytes")
    }


def layer(rows: int, columns: int) -> Sizes:
    """A linear layer on the tokens of a document."""
    moment, turned = gram_operations(TOKENS, columns), 2.0 * TOKENS * columns**2
    return Sizes(
        rows=rows,
        columns=columns,
        positions=TOKENS,
        row_factor=rows,
        column_factor=columns,
        column_moment=moment,
        turned=turned,
        tiled=False,
        looked_up=0,
        outputs=rows * TOKENS,
    )


def decoder() -> list[Sizes]:
    """Layers of the blocks, each with a bias; embeddings are diagonal and aside."""
    d = WIDTH
    block = [
        layer(3 * d, d + 1),
        layer(d, d + 1),
        layer(4 * d, d + 1),
        layer(d, 4 * d + 1),
    ]
    return block * BLOCKS


def scale() -> str:
    """Return what each stage would take of a model of 1 B parameters."""
    layers = decoder()
    own = sum(each.rows * each.columns for each in layers)
    count = own + WIDTH * VOCABULARY
    passes = 4.0 * count * TOKENS  # forward, and backward to the layers' outputs
    numbers = sum(each.factor_numbers() for each in layers)
    cubes = sum(each.row_factor**3 + each.column_factor**3 for each in layers)
    moments = passes + sum(each.moments() for each in layers)
    corrected = passes + sum(each.eigenvalues() for each in layers)
    formed = sum(each.matrix() for each in layers)
    dots = sum(each.dot() for each in layers)
    stages = [
        ("training, an epoch", 6.0 * count * TOKENS, True, 16 * count),
        ("factors", moments, True, 8 * numbers + 4 * count),
        ("eigenvectors", EIGENVECTORS * float(cubes), False, 12 * numbers),
        ("eigenvalues", corrected, True, 4 * numbers + 8 * own + 4 * count),
        ("influence of one", 1.5 * passes, True, 8 * count),
        (
            f"influence of {TOGETHER}, together",
            passes + formed + TOGETHER * dots,
            True,
            4 * count + TOGETHER * 4 * own,
        ),
        ("crafting, 100 documents in 30 steps", 3e3 * 5 * passes, False, 12 * count),
    ]
    lines = [
        [
            name,
            f"{operations:.1e}",
            f"{operations * (DOCUMENTS if all_documents else 1):.1e}",
            _time(
                operations
                * (DOCUMENTS if all_documents else 1)
                / (WIDE_RATE if name == "eigenvectors" else RATE)
            ),
            f"{memory / 2**30:,.0f}",
        ]
        for name, operations, all_documents, memory in stages
    ]
    headings = ["stage", "operations, a document or all", "in all", "one GPU", "GiB"]
    said = (
        f"{BLOCKS} blocks of width {WIDTH:,}, {count / 1e9:.2f} B parameters, "
        f"{DOCUMENTS:.0e} documents of {TOKENS} tokens; {RATE:.0e} operations a "
        f"second, eigenvectors {WIDE_RATE:.0e}."
    )
    return "\n".join([said, "", *markdown(headings, lines)])


def _time(seconds: float) -> str:
    if seconds < DAY:
        return f"{seconds:,.0f} s"
    return f"{seconds / DAY:,.0f} days"
