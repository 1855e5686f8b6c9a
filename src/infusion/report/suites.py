"""Suites in a terminal, and on a page of their own."""

from pathlib import Path
from typing import IO, Any

from infusion.report.templates import template
from infusion.store import write_whole

Json = dict[str, Any]


def suite_table(title: str, effects: list[Json], file: IO[str]) -> None:
    """Print the effect of every trial with its 95 % interval.

    Args:
        title: Above the table.
        effects: From :func:`infusion.suites.summary.effects`, as JSON values.
        file: Open for writing.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title))
    for heading in ("trial", "n", "Δp", "Δ log p", "top-1", "accuracy, points", "ρ"):
        table.add_column(heading, justify="left" if heading == "trial" else "right")
    for effect in effects:
        table.add_row(effect["trial"], str(effect["n"]), *suite_cells(effect))
    Console(file=file, emoji=False, width=120).print(table)


def suites_page(collected: list[Json], page: Path) -> None:
    """Draw one page of every suite: effects, and the edit's effect by pair.

    Args:
        collected: From :func:`infusion.suites.collected.collect`.
        page: Written, one file without links to others.
    """
    shown = [{**suite, **_figures(suite)} for suite in collected]
    text = template("suites.html").render(
        suites=shown, cells=suite_cells, said=statistics_said
    )
    write_whole(page, text.encode())


def _figures(suite: Json) -> dict[str, str | None]:
    from infusion.report import figures

    effects = suite["effects"]
    forest = figures.effects(
        [effect["trial"] for effect in effects],
        [effect["delta_p"] for effect in effects],
        [index == 0 for index in range(len(effects))],
        measured="change of p(target) beyond the clean replay",
    )
    by_class = {(label, target): p for label, target, p in suite["cells"]}
    main = suite["suite"] == "main"
    return {
        "forest": forest,
        "scatter": figures.scatter(suite["predicted"], suite["realised"])
        if main
        else None,
        "by_class": figures.cells(suite["names"], by_class, measured="Δ p")
        if main
        else None,
    }


def suite_cells(effect: Json) -> list[str]:
    """Write out one effect: Δp, Δ log p, new top-1, accuracy in points, correlation.

    Args:
        effect: Of one trial.

    Returns:
        Texts; a dash where there is nothing to say.
    """
    flips, rho = effect["flips"], effect["predicted"]
    return [
        ranged(effect["delta_p"], 3),
        ranged(effect["delta_log_p"], 2),
        "–" if flips is None else f"{flips['count']}/{flips['n']}",
        ranged(effect["accuracy"], 2, scale=100.0),
        "–" if rho is None else f"{rho:.2f}",
    ]


def statistics_said(found: Json) -> str:
    """Write the paper's statistics of one trial in a sentence.

    Args:
        found: From :func:`infusion.suites.statistics.statistics`.

    Returns:
        One line; a dash where a value is not defined.
    """

    def shown(name: str) -> str:
        return "–" if found[name] is None else f"{found[name]:.3g}"

    return (
        f"n = {found['n']}, Cohen's d {shown('cohens_d')}, Wilcoxon p "
        f"{shown('wilcoxon_p')}, one-vs-rest {shown('one_vs_rest')}, entropy "
        f"{shown('entropy_before')} → {shown('entropy_after')} nats, top-1 gained "
        f"{found['gained']} and lost {found['lost']} (McNemar p {shown('mcnemar_p')}), "
        f"permutation p {shown('permutation_p')}."
    )


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
