"""What an attribution shows: its page's context, and the table it ends with."""

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from infusion.report.numbers import Numbers, significant
from infusion.report.pictures import png_uri, values
from infusion.runs.store import Store

IN_DETAIL = 16
"""Measurements with pictures: more would outgrow 5 MB."""

KINDS = {
    "identity": "identity (gradient dot product)",
    "diagonal": "diagonal",
    "kfac": "KFAC",
    "ekfac": "EK-FAC",
}
SIDES = {"supporting": "Most supporting", "opposing": "Most opposing"}
_IN_TABLE = 5
_TABLES = 3
_WIDEST_TEXT = 44


def attribution_context(store: Store, n: Numbers) -> dict[str, Any]:
    """Collect what the page of an attribution shows.

    Args:
        store: Run folder.
        n: Its results.

    Returns:
        Variables of ``attribution.html``.

    Raises:
        ArtefactError: A file was truncated, altered or written by another version.
    """
    from infusion.report import figures

    influence = store.read_tensors("scores/influence.safetensors")["influence"].numpy()
    pictures = _pictures(store, n)
    rows = []
    for index, row in enumerate(n.at("measurements")):
        shown: dict[str, Any] = {**row, "index": index, "histogram": None}
        if index < IN_DETAIL:
            marked = [
                np.array([d["document"] for d in row[side]], dtype=np.int64)
                for side in SIDES
            ]
            measured = "log p(target), nats" if "target" in row else "the measurement,"
            shown["histogram"] = figures.histogram(
                influence[index], *marked, measured=measured
            )
        rows.append(shown)
    return {
        "rows": rows,
        "in_detail": IN_DETAIL,
        "names": n.at("class_names"),
        "kind": KINDS[n.at("curvature.kind")],
        "sides": SIDES,
        "pictures": pictures,
        "fitted": None,
        "hashes": {
            name
            if name.endswith("checkpoint") or name == "model"
            else f"{name} data": sha
            for name, sha in n.at("hashes").items()
        },
    }


def _pictures(store: Store, n: Numbers) -> dict[str, dict[int, str]]:
    """Draw shown documents and probes as data URIs, by position."""
    if n.at("form") != "picture":
        return {"documents": {}, "probes": {}}
    stored = {k: v.numpy() for k, v in store.read_tensors("shown.safetensors").items()}
    detailed = n.at("measurements")[:IN_DETAIL]
    wanted = {d["document"] for row in detailed for side in SIDES for d in row[side]}
    inputs = values(stored["inputs"], n.at("levels"))
    valid = _range(n, inputs)
    return {
        "documents": {
            int(document): png_uri(_channels_first(picture), valid)
            for document, picture in zip(stored["documents"], inputs, strict=True)
            if int(document) in wanted
        },
        "probes": {
            index: png_uri(values(probe, n.at("levels")), valid)
            for index, probe in enumerate(stored.get("probes", ()))
        },
    }


def _channels_first(picture: NDArray[np.floating]) -> NDArray[np.floating]:
    return picture[None] if picture.ndim == 2 else picture


def _range(n: Numbers, inputs: NDArray[np.floating]) -> tuple[float, float]:
    """Values drawn black and white: the valid ones, or the extremes of those shown."""
    if n.at("valid") is not None:
        low, high = n.at("valid")
    elif n.at("levels") is not None:
        low, high = 0.0, 1.0
    else:
        low, high = float(inputs.min(initial=0)), float(inputs.max(initial=0))
    return low, high if high > low else low + 1


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Shorten the results to what a program asks for first.

    Args:
        results: What ``results.json`` holds.

    Returns:
        Measurements with their documents, what was covered, and hashes.
    """
    names = ("subject", "n", "measurements", "curvature", "clean_accuracy", "hashes")
    parameters = results["coverage"]["parameters"]
    return {name: results[name] for name in names} | {"parameters": parameters}


def attribution_table(results: dict[str, Any], file: IO[str]) -> None:
    """Print the most supporting and most opposing documents of the measurements.

    Args:
        results: What ``results.json`` holds.
        file: Where to print.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, width=100, emoji=False)
    parameters = results["coverage"]["parameters"]
    fisher = results["curvature"]["fisher"]
    console.print(
        f"{results['subject']}: {KINDS[results['curvature']['kind']]}"
        f"{f' of the {fisher} Fisher' if fisher else ''}, n = {results['n']:,} "
        f"documents; {parameters['covered']:,} parameters covered, "
        f"{parameters['skipped']:,} skipped",
        markup=False,
        highlight=False,
    )
    measurements = results["measurements"]
    for row in measurements[:_TABLES]:
        cells = _rows(row)
        headings = ("", "rank", "document", "influence", *cells[0][4:])
        table = Table(title=Text(f"{row['name']} = {significant(row['value'])}"))
        for heading in headings:
            table.add_column(heading)
        for line in cells[1:]:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table)
    if len(measurements) > _TABLES:
        console.print(
            f"… and {len(measurements) - _TABLES} more measurements on the page"
        )


def _rows(row: dict[str, Any]) -> list[list[str]]:
    """Format headings, then a document per line; no column without an entry."""
    optional = {"label": "label", "self_influence": "self-influence", "text": "text"}
    shown = [(side, d) for side in SIDES for d in row[side][:_IN_TABLE]]
    kept = [name for name in optional if any(d[name] is not None for _, d in shown)]
    lines = [["", "", "", "", *(optional[name] for name in kept)]]
    for place, (side, document) in enumerate(shown):
        is_first = place == 0 or shown[place - 1][0] != side
        lines.append(
            [
                side if is_first else "",
                f"{document['rank']:,}",
                str(document["document"]),
                significant(document["influence"]),
                *(_cell(document[name]) for name in kept),
            ]
        )
    return lines


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return significant(value)
    text = " ".join(str(value).split())
    return text if len(text) <= _WIDEST_TEXT else f"{text[:_WIDEST_TEXT]}…"
