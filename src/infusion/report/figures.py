"""Figures as inline SVG whose colours and fonts are those of the page.

Matplotlib writes plain colours; each of ours is a token that stands for a CSS variable,
so that one drawing serves light and dark pages. Text stays text.
"""

import io
import re
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from infusion.report.numbers import fixed, significant

INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent"}
_ALONE = {
    "--ink": "#222",
    "--muted": "#666",
    "--line": "#ddd",
    "--accent": "#b8401f",
    "--sans": "sans-serif",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "infusion",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}
_POINTS_PER_INCH = 72
_MOST_NUMBERED = 12
_DARKEST = 0.6


def _axes(width: int, height: int) -> tuple[Figure, Axes]:
    size = (width / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def standing_alone(element: str) -> str:
    """Make an SVG file of a figure: a name space, and colours where a page has none.

    Args:
        element: An ``svg`` element for a page.

    Returns:
        The content of a file, on white.
    """
    for name, colour in _ALONE.items():
        element = element.replace(f"var({name})", colour)
    head = '<svg xmlns="http://www.w3.org/2000/svg" style="background:#fff" '
    return element.replace("<svg ", head, 1) + "\n"


def _svg(figure: Figure, label: str) -> str:
    """Write a figure as an element of an HTML page."""
    # The document type, metadata and namespaces of a file of its own go; so do names of
    # groups, which would repeat from figure to figure.
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", text)
    text = re.sub(r'^<svg[^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
    kept = {name for pair in used for name in pair if name}
    text = re.sub(
        r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in kept else "", text
    )
    for token, variable in _VARIABLES.items():
        text = text.replace(token, f"var({variable})")
    text = re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 var(--sans)", text)
    text = re.sub(r">\s+<", "><", text).strip()
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _tick(value: float, _: int | None = None) -> str:
    plain = value == 0 or 1e-4 <= abs(value) < 1e6
    text = f"{value:,.8g}" if plain else significant(value, 2)
    return text.replace("-", "−")


def effects(
    names: list[str],
    intervals: list[dict[str, Any]],
    accented: list[bool],
    *,
    measured: str = "change of log p(target), nats",
) -> str:
    """Draw one dot and its interval per arm, on a common axis.

    Args:
        names: Arms, from top to bottom.
        intervals: ``mean``, ``low`` and ``high`` of each, in the unit of ``measured``;
            a dot alone where there are no ends.
        accented: Which arms are the edit rather than something it is compared with.
        measured: What is on the axis, with its unit.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(330, 34 + 22 * len(names))
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for row, (value, accent) in enumerate(zip(intervals, accented, strict=True)):
            colour = ACCENT if accent else INK
            if value["low"] is not None:
                ends = [value["low"], value["high"]]
                axes.plot(ends, [row, row], color=colour, lw=1.6)
            axes.plot(value["mean"], row, "o", color=colour, markersize=5.5)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(measured)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    has_ends = any(value["low"] is not None for value in intervals)
    label = "Mean effect of every arm" + " with its 95 % interval" * has_ends
    return _svg(figure, label)


def scatter(predicted: list[float], realised: list[float]) -> str:
    """Draw predicted against realised effects of the edit, a dot per pair.

    Args:
        predicted: By influence, in nats; the axes have scales of their own.
        realised: By retraining, in nats.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(300, 210)
        axes.grid(color=LINE, linewidth=0.6)
        axes.plot(predicted, realised, "o", color=ACCENT, markersize=5, alpha=0.85)
        if len(predicted) <= _MOST_NUMBERED:
            for pair, at in enumerate(zip(predicted, realised, strict=True)):
                axes.annotate(
                    str(pair), at, (5, 3), textcoords="offset points", color=MUTED
                )
        axes.margins(0.12)
        axes.set_xlabel("predicted by influence, nats (own scale)")
        axes.set_ylabel("realised by retraining, nats")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    return _svg(figure, "Predicted against realised effect of the edit, by pair")


def growth(
    stages: dict[str, tuple[list[float], list[float], tuple[float, float]]],
    *,
    along: str,
    measured: str,
) -> str:
    """Draw what stages take along a size, with a power through the points of each.

    Args:
        stages: By name: sizes, what was measured there, and the power ``b`` and factor
            ``a`` of ``a·sizeᵇ``.
        along: What the size is of.
        measured: What was measured, its unit.

    Returns:
        An ``svg`` element; both axes are logarithmic.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(330, 220)
        axes.grid(color=LINE, linewidth=0.6)
        named: list[tuple[float, float, str]] = []
        for mark, (name, (sizes, values, (power, factor))) in zip(
            cycle("os^D"), stages.items(), strict=False
        ):
            ends = np.array([min(sizes), max(sizes)], dtype=float)
            axes.plot(sizes, values, mark, color=INK, markersize=4)
            axes.plot(ends, factor * ends**power, color=ACCENT, linewidth=1)
            named.append((factor * ends[1] ** power, ends[1], f"{name}, {power:.2f}"))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(x=0.1, y=0.1)
        low, high = axes.get_xlim()
        axes.set_xlim(low, high * (high / low) ** 0.45)  # room for names
        bottom, top = np.log(axes.get_ylim())
        above = -np.inf
        for last, at, text in sorted(named):
            y = max(np.log(last), above + (top - bottom) / 15)  # no name over another
            above = y
            axes.annotate(
                text,
                (at, np.exp(y)),
                (6, -3),
                textcoords="offset points",
                color=MUTED,
            )
        for axis in (axes.xaxis, axes.yaxis):
            least, most = axis.get_view_interval()
            few = most > 300 * least
            axis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(_tick))
        axes.set_xlabel(along)
        axes.set_ylabel(measured)
    return _svg(figure, f"{measured} against {along}, by stage, with fitted powers")


def curve(drawn: dict[str, Any], *, measured: str = "change of p(target)") -> str:
    """Draw an effect along a number, each point with its interval.

    Args:
        drawn: From :func:`infusion.suites.curves.curves`; points that have a name carry
            it and are not joined.
        measured: What the effect is.

    Returns:
        An ``svg`` element; what the points are compared with is a band.
    """
    points, beside = drawn["points"], drawn["beside"]
    places = [point["at"] for point in points]
    named = [point for point in points if "name" in point]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(330, 220)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for point in points:
            if point["low"] is not None:
                ends = [point["low"], point["high"]]
                axes.plot([point["at"]] * 2, ends, color=INK, lw=1.2)
        joined = "o" if named else "-o"
        axes.plot(places, [p["mean"] for p in points], joined, color=INK, markersize=4)
        width, height = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
        taken: list[tuple[float, float]] = []
        for point in sorted(named, key=lambda point: point["mean"]):
            x, y = point["at"], point["mean"]
            while any(
                abs(x - a) < width / 3 and abs(y - b) < height / 17 for a, b in taken
            ):
                y += height / 16  # no label over another
            taken.append((x, y))
            text = point["name"]
            axes.annotate(text, (x, y), (5, 3), textcoords="offset points", color=MUTED)
        if beside is not None:
            if beside["low"] is not None:
                axes.axhspan(
                    beside["low"], beside["high"], color=ACCENT, alpha=0.18, lw=0
                )
            axes.axhline(beside["mean"], color=ACCENT, linewidth=1.4)
            axes.annotate(
                beside["trial"],
                (0.02, beside["mean"]),
                (0, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=ACCENT,
            )
        if drawn["logarithmic"]:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
        if named:
            axes.margins(x=0.25)
        else:
            axes.set_xticks(places, [_tick(round(place, 3)) for place in places])
        axes.set_xlabel(drawn["along"])
        axes.set_ylabel(measured)
    return _svg(figure, f"{measured[0].upper()}{measured[1:]} against {drawn['along']}")


def lines(values: dict[str, list[float]], *, along: str) -> str:
    """Draw shares by a whole number from 1, a line each.

    Args:
        values: By name, between 0 and 1.
        along: What the number is.

    Returns:
        An ``svg`` element.
    """
    colours = cycle((ACCENT, INK, MUTED))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(330, 220)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        for (name, shares), colour in zip(values.items(), colours, strict=False):
            places = range(1, len(shares) + 1)
            axes.plot(places, shares, "-o", color=colour, markersize=3, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(along)
        axes.set_ylabel("share")
        axes.legend(frameon=False)
    return _svg(figure, f"Share by {along}")


def suspicion(edges: list[float], counts: dict[str, list[int]]) -> str:
    """Draw how scores are distributed, on a logarithmic axis of documents.

    Args:
        edges: Of the bins, one more than there are counts; 0 is the threshold.
        counts: Documents per bin, by kind.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(420, 220)
        for name in sorted(counts, reverse=True):  # edited ones in front
            found, colour = counts[name], ACCENT if name == "edited" else MUTED
            axes.stairs(found, edges, color=colour, fill=True, alpha=0.6, label=name)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel("suspicion less its threshold")
        axes.set_ylabel("documents")
        if len(counts) > 1:
            axes.legend(frameon=False)
    return _svg(figure, "distribution of suspicion over documents")


def precision_recall(points: list[list[float]]) -> str:
    """Draw precision against recall.

    Args:
        points: Recall and precision, in order.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(300, 220)
        axes.grid(color=LINE, linewidth=0.6)
        axes.plot(*zip(*points, strict=True), color=ACCENT, drawstyle="steps-post")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_xlabel("edited documents found, share")
        axes.set_ylabel("edited among inspected, share")
    return _svg(figure, "precision against recall")


def boxes(values: dict[str, list[float]], *, measured: str) -> str:
    """Draw how values spread, a box each.

    Args:
        values: By name.
        measured: What they are.

    Returns:
        An ``svg`` element.
    """
    line = {"color": INK, "linewidth": 1.2}
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(330, 40 + 34 * len(values))
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.boxplot(
            list(values.values()),
            orientation="horizontal",
            widths=0.5,
            tick_labels=list(values),
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops={"color": ACCENT, "linewidth": 2},
            flierprops={"marker": "o", "markersize": 3, "markeredgecolor": MUTED},
        )
        axes.set_ylim(len(values) + 0.6, 0.4)
        axes.set_xlabel(measured)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
    return _svg(figure, f"Spread of {measured} over pairs")


def cells(
    names: list[str],
    values: dict[tuple[int, int], float],
    *,
    measured: str,
    axes: tuple[str, str],
) -> str:
    """Draw a value per ordered pair of classes: stronger colour, larger value.

    Args:
        names: Of the classes; values are written into the cells of a few.
        values: By row and column; other cells stay empty.
        measured: What is shown.
        axes: What rows and columns are.

    Returns:
        An ``svg`` element.
    """
    largest = max((abs(value) for value in values.values()), default=0.0) or 1.0
    few = len(names) <= _MOST_NUMBERED
    with matplotlib.rc_context(_STYLE):
        figure, plot = _axes(380, 320)
        for (row, column), value in values.items():
            place, size = (column - 0.48, row - 0.48), 0.96
            colour = ACCENT if value > 0 else INK
            share = _DARKEST * abs(value) / largest  # so that its text can be read
            plot.add_patch(
                Rectangle(place, size, size, color=colour, alpha=share, linewidth=0)
            )
            if few:
                text = fixed(value, 2)
                plot.text(column, row, text, ha="center", va="center", fontsize=7)
        plot.set_xlim(-0.5, len(names) - 0.5)
        plot.set_ylim(len(names) - 0.5, -0.5)
        plot.set_xticks(range(len(names)), names, rotation=45, ha="right")
        plot.set_yticks(range(len(names)), names)
        plot.set_xlabel(f"{axes[1]} ({measured})")
        plot.set_ylabel(axes[0])
        plot.spines[["left", "bottom"]].set_visible(False)
        plot.tick_params(length=0, labelcolor=INK, labelsize=8 if few else 5)
    return _svg(figure, f"{measured} by {axes[0]} and {axes[1]}")


def accuracy(by_epoch: dict[int, float]) -> str:
    """Draw the clean accuracy of the base model by epoch.

    Args:
        by_epoch: Between 0 and 1, in order of epochs.

    Returns:
        An ``svg`` element.
    """
    epochs, shares = list(by_epoch), [100 * share for share in by_epoch.values()]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(300, 210)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.plot(epochs, shares, "-o", color=INK, linewidth=1.4, markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.06, y=0.12)
        axes.set_xlabel("epoch")
        axes.set_ylabel("clean test accuracy, %")
    return _svg(figure, "Clean test accuracy of the base model by epoch")


def histogram(
    influence: NDArray[np.floating],
    chosen: NDArray[np.integer],
    opposed: NDArray[np.integer] | None = None,
    *,
    measured: str = "log p(target), nats",
) -> str:
    """Draw how many documents have which influence, the chosen ones apart.

    Args:
        influence: Of every training document.
        chosen: Positions of those in colour: the edited or most supporting ones.
        opposed: Positions of those in dark: the most opposing ones.
        measured: What the influence is on, with its unit.

    Returns:
        An ``svg`` element; the counts are on a logarithmic axis.
    """
    edges = np.histogram_bin_edges(influence.astype(np.float64), bins=48)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(320, 160)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.hist(influence, bins=edges.tolist(), color=MUTED, alpha=0.45)
        axes.hist(influence[chosen], bins=edges.tolist(), color=ACCENT)
        if opposed is not None:
            axes.hist(influence[opposed], bins=edges.tolist(), color=INK)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=0.6)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.set_xlabel(f"influence on {measured} per unit of weight")
        axes.set_ylabel("documents")
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_minor_locator(NullLocator())
    return _svg(figure, "Histogram of the influence of all training documents")
