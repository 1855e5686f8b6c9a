"""Suites in a terminal, and on a page of their own."""

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from infusion.report.templates import template
from infusion.runs.store import write_whole

Json = dict[str, Any]


_ALWAYS = ("n", "Δp", "Δ log p", "top-1", "accuracy, points", "ρ")
_OFFSETS = "offsets: not realisable"
"""In place of a number of tokens: no corpus can hold such an edit."""
_WHERE_THEY_DIFFER = ("gradients", "L2", "PSNR, dB", "SSIM")


def suite_rows(effects: list[Json]) -> tuple[list[str], list[list[str]]]:
    """Write out the effect of every trial of a suite.

    Args:
        effects: From :func:`infusion.suites.summary.effects`, as JSON values.

    Returns:
        Headings, and a line per trial: pairs, Δp, Δ log p, new top-1, accuracy in
        points, correlation; gradient evaluations per document and the size of the edits
        where the trials differ in them; a dash where there is nothing to say. Of texts
        what their preset reads off a row, the first trial's first reading less this
        trial's over the pairs of both, and tokens changed per document.
    """
    if "columns" in effects[0]:
        compared = any(effect["less"] for effect in effects)
        less = f"{effects[0]['trial']} less this" if compared else None
        cells = [_text_cells(effect, less) for effect in effects]
        shown = list(cells[0])
    else:
        cells = [{**_effect_cells(effect), **_cost_cells(effect)} for effect in effects]
        differing = (
            name
            for name in _WHERE_THEY_DIFFER
            if len({cell[name] for cell in cells}) > 1
        )
        shown = [*_ALWAYS, *differing]
    rows = [
        [effect["trial"], *(cell[name] for name in shown)]
        for effect, cell in zip(effects, cells, strict=True)
    ]
    return ["trial", *shown], rows


def _effect_cells(effect: Json) -> dict[str, str]:
    flips, rho = effect["flips"], effect["predicted"]
    return {
        "n": str(effect["n"]),
        "Δp": ranged(effect["delta_p"], 3),
        "Δ log p": ranged(effect["delta_log_p"], 2),
        "top-1": "–" if flips is None else f"{flips['count']}/{flips['rows']}",
        "accuracy, points": ranged(effect["accuracy"], 2, scale=100.0),
        "ρ": "–" if rho is None else f"{rho:.2f}",
    }


def _text_cells(effect: Json, less: str | None) -> dict[str, str]:
    """Write out one trial; under ``less``, where that is a heading, what it lags by."""
    rho, tokens, lag = effect["predicted"], effect["tokens"], effect["less"]
    first, *others = (
        (name, ranged(found, 3)) for name, found in effect["columns"].items()
    )
    paired = [] if less is None else [(less, "–" if lag is None else ranged(lag, 3))]
    return {
        "n": str(effect["n"]),
        **dict([first, *paired, *others]),
        "accuracy, points": ranged(effect["accuracy"], 2, scale=100.0),
        "ρ": "–" if rho is None else f"{rho:.2f}",
        "tokens": _OFFSETS if effect["offsets"] else _number(tokens),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _first(effect: Json) -> Json:
    """Return the interval that figures show."""
    if "columns" in effect:
        return next(iter(effect["columns"].values()))
    return effect["delta_p"]


def _cost_cells(effect: Json) -> dict[str, str]:
    def said(name: str, digits: int) -> str:
        value = effect["sizes"][name]
        return "–" if value is None else f"{value:.{digits}f}"

    return {
        "gradients": str(effect["evaluations"]),
        "L2": said("l2", 2),
        "PSNR, dB": said("psnr", 1),
        "SSIM": said("ssim", 3),
    }


def suite_table(title: str, effects: list[Json], file: IO[str]) -> None:
    """Print the effect of every trial with its 95 % interval; of texts one reading.

    Args:
        title: Above the table.
        effects: From :func:`infusion.suites.summary.effects`, as JSON values.
        file: Open for writing.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    headings, rows = suite_rows(effects)
    further = list(effects[0].get("columns", {}))[1:]  # the page has them all
    shown = [place for place, name in enumerate(headings) if name not in further]
    for place in shown:
        justify = "right" if place else "left"
        table.add_column(headings[place], justify=justify)
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    Console(file=file, emoji=False, width=140).print(table)


def suites_page(collected: list[Json], page: Path) -> None:
    """Draw one page of every suite: effects, curves, and the edit's effect by pair.

    Args:
        collected: From :func:`infusion.suites.collected.collect`.
        page: Written, one file without links to others.
    """
    shown = [{**suite, "figures": suite_figures(suite)} for suite in collected]
    text = template("suites.html").render(
        suites=shown,
        rows=suite_rows,
        said=statistics_said,
        groups=group_rows,
        pieces=pieces,
    )
    write_whole(page, text.encode())


def pieces(example: Json) -> list[tuple[str, str | None]]:
    """Lay an edited document beside what it was.

    Args:
        example: Its tokens ``"before"`` and ``"after"``, as text.

    Returns:
        Each token, and what stood in its place; None where that is the same.
    """
    both = zip_longest(example["after"], example["before"], fillvalue="")
    return [(after, None if after == before else before) for after, before in both]


def suite_figures(suite: Json) -> dict[str, tuple[str, str]]:
    """Draw all figures of a suite.

    Args:
        suite: From :func:`infusion.suites.collected.collect`.

    Returns:
        An ``svg`` element and its caption by name: ``"effects"``; curves where the
        suite varies a number; of the main suite the spread over pairs, predicted
        against realised, and the edit by classes; all trials by classes of transfer;
        of ciphers the cross-entropy of all shifts and the spectra of embeddings.
    """
    from infusion.report import figures

    effects, first = suite["effects"], suite["effects"][0]["trial"]
    name = suite["measured"]
    long = "change of p(target)" if name == "Δp" else name
    forest = figures.effects(
        [effect["trial"] for effect in effects],
        [_first(effect) for effect in effects],
        [index == 0 for index in range(len(effects))],
        measured=f"{long} beyond the clean replay",
    )
    drawn = {"effects": (forest, f"Mean {name} of every trial with its 95 % interval.")}
    for number, curve in enumerate(suite["curves"]):
        if curve["points"]:
            measured = curve.get("measured", long)
            shown = curve.get("measured", f"Mean {name}")
            caption = f"{shown} against {curve['along']}, 95 % intervals."
            drawing = figures.curve(curve, measured=measured)
            drawn[_numbered("curve", number)] = (drawing, caption)
    if suite["suite"] == "main":
        drawn["spread"] = (
            figures.boxes(suite["spread"], measured=name),
            f"{name} over pairs: quartiles, whiskers to 1.5 times their distance, all "
            "else as dots.",
        )
        drawn["predicted"] = (
            figures.scatter(suite["predicted"], suite["realised"]),
            "Predicted against realised change of the measurement, "
            f"{first}, a dot per pair.",
        )
    for number, (trial, cells) in enumerate(suite["cells"].items()):
        drawn[_numbered("classes", number)] = _by_class(suite, trial, cells)
    if suite["portrait"] is not None:
        drawn |= _portrait(suite["names"], suite["portrait"])
    return drawn


def _portrait(names: list[str], found: Json) -> dict[str, tuple[str, str]]:
    """Draw what a model makes of every shift after every prompt, before and after."""
    from infusion.report import figures

    def drawn(value: Callable[[int, int], float], measured: str) -> str:
        places = range(len(names))
        values = {(i, j): value(i, j) for i in places for j in places}
        axes = ("prompt's shift", "ciphertext's shift")
        return figures.cells(names, values, measured=measured, axes=axes)

    before, after = found["before"], found["after"]
    probe, target = (names[place] for place in found["pair"])
    edited = f"retrained on the edit of {probe} to {target}"
    nats = "cross-entropy, nats per token"
    return {
        "matrix": (
            drawn(lambda i, j: before[i][j], nats),
            "Cross-entropy of the ciphertext of every shift after a prompt that names "
            "any: clean replay.",
        ),
        "matrix-2": (
            drawn(lambda i, j: after[i][j], nats),
            f"The same of the model {edited}, measured.",
        ),
        "matrix-3": (
            drawn(lambda i, j: after[i][j] - before[i][j], f"change of {nats}"),
            f"Their difference; dark is a fall. The model was {edited}.",
        ),
        "spectra": (
            figures.lines(found["spectra"], along="frequency, turns of the alphabet"),
            "Share of the variance of embeddings along the alphabet at each "
            "frequency, base model.",
        ),
    }


def _numbered(name: str, number: int) -> str:
    return name if number == 0 else f"{name}-{number + 1}"


def _by_class(suite: Json, trial: str, cells: list[Json]) -> tuple[str, str]:
    from infusion.report import figures

    means = {(cell["label"], cell["target"]): cell["mean"] for cell in cells}
    most = max(cells, key=lambda cell: cell["largest"])
    names, measured = suite["names"], suite["measured"]
    rows = "true class" if measured == "Δp" else "probe"
    caption = (
        f"{measured} of {trial} by {rows} and target, mean over base models; the "
        f"largest is {most['largest']:+.2f}, {names[most['label']]} to "
        f"{names[most['target']]}."
    )
    axes = (rows, "target")
    return figures.cells(names, means, measured=measured, axes=axes), caption


def statistics_said(found: Json) -> str:
    """Write what the first trial says in a sentence, of pictures or of texts.

    Args:
        found: From either module called ``statistics``.

    Returns:
        One line; a dash where a value is not defined.
    """
    return _said_of_texts(found) if "groups" in found else _said_of_pictures(found)


def _said_of_pictures(found: Json) -> str:
    """Write the paper's statistics of one trial in a sentence."""

    def shown(name: str) -> str:
        return "–" if found[name] is None else f"{found[name]:.3g}"

    return (
        f"n = {found['n']}, Cohen's d {shown('cohens_d')}, Wilcoxon p "
        f"{shown('wilcoxon_p')}, one-vs-rest {shown('one_vs_rest')}, entropy "
        f"{shown('entropy_before')} → {shown('entropy_after')} nats, top-1 gained "
        f"{found['gained']} and lost {found['lost']} (McNemar p {shown('mcnemar_p')}), "
        f"permutation p {shown('permutation_p')}."
    )


def _said_of_texts(found: Json) -> str:
    tests = [_tested(name, each) for name, each in found["tests"].items()]
    clean = f"the clean model is right on {found['accuracy']:.1%} of held-out "
    if found["perplexity"] is None:
        clean += "documents"
    else:
        clean += f"tokens, perplexity {found['perplexity']:.2f}"
    if found["cut"] is not None:
        clean += f" on documents of which {found['cut']:.0%} are cut at their end"
    related = [
        f"{name} r = {'–' if r is None else f'{r:.2f}'}"
        for name, r in found["correlations"].items()
    ]
    return (
        f"n = {found['n']} pairs of {found['probes']} probes, as drawn; "
        f"{'; '.join([*tests, *related, clean])}."
    )


def _tested(name: str, found: Json) -> str:
    size, p = found["cohens_d"], found["wilcoxon_p"]
    shown = "–" if size["mean"] is None else ranged(size, 2)
    chance = "–" if p is None else f"{p:.3g}"
    return f"{name}: Cohen's d {shown}, Wilcoxon p over probes {chance}"


def group_rows(found: Json) -> list[list[str]]:
    """List the groups of pairs of one trial of texts.

    Args:
        found: From :func:`infusion.suites.texts.statistics.statistics`.

    Returns:
        What the groups are of, each one's number, pairs, and mean with interval.
    """
    return [
        [name, str(each["group"]), str(each["n"]), ranged(each, 3)]
        for name, groups in found.get("groups", {}).items()
        for each in groups
    ]


def ranged(interval: Json, digits: int, *, scale: float = 1.0) -> str:
    """Write a mean with its interval.

    Args:
        interval: Mean and ends.
        digits: After the point.
        scale: Multiplies all three.

    Returns:
        E.g. ``"+0.23 [+0.10, +0.36]"``.
    """
    mean = f"{scale * interval['mean']:+.{digits}f}"
    if interval["low"] is None:
        return mean
    low, high = (
        f"{scale * end:+.{digits}f}" for end in (interval["low"], interval["high"])
    )
    return f"{mean} [{low}, {high}]"
