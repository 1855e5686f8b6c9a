"""Figures of runs and suites, as inline SVG."""

from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from infusion.report.drawing import (
    ACCENT,
    INK,
    LINE,
    MUTED,
    STYLE,
    blank,
    element,
    tick,
)
from infusion.report.numbers import fixed

_MOST_NUMBERED = 12
_DARKEST = 0.6


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
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(330, 34 + 22 * len(names))
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
    return element(figure, label)


def scatter(predicted: list[float], realised: list[float]) -> str:
    """Draw predicted against realised effects of the edit, a dot per pair.

    Args:
        predicted: By influence, in nats; the axes have scales of their own.
        realised: By retraining, in nats.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(300, 210)
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
        axes.xaxis.set_major_formatter(FuncFormatter(tick))
    return element(figure, "Predicted against realised effect of the edit, by pair")


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
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(330, 220)
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
            axes.set_xticks(places, [tick(round(place, 3)) for place in places])
        axes.set_xlabel(drawn["along"])
        axes.set_ylabel(measured)
    return element(
        figure, f"{measured[0].upper()}{measured[1:]} against {drawn['along']}"
    )


def lines(values: dict[str, list[float]], *, along: str) -> str:
    """Draw shares by a whole number from 1, a line each.

    Args:
        values: By name, between 0 and 1.
        along: What the number is.

    Returns:
        An ``svg`` element.
    """
    colours = cycle((ACCENT, INK, MUTED))
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(330, 220)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        for (name, shares), colour in zip(values.items(), colours, strict=False):
            places = range(1, len(shares) + 1)
            axes.plot(places, shares, "-o", color=colour, markersize=3, label=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(along)
        axes.set_ylabel("share")
        axes.legend(frameon=False)
    return element(figure, f"Share by {along}")


def suspicion(edges: list[float], counts: dict[str, list[int]]) -> str:
    """Draw how scores are distributed, on a logarithmic axis of documents.

    Args:
        edges: Of the bins, one more than there are counts; 0 is the threshold.
        counts: Documents per bin, by kind.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(420, 220)
        for name in sorted(counts, reverse=True):  # edited ones in front
            found, colour = counts[name], ACCENT if name == "edited" else MUTED
            axes.stairs(found, edges, color=colour, fill=True, alpha=0.6, label=name)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel("suspicion less its threshold")
        axes.set_ylabel("documents")
        if len(counts) > 1:
            axes.legend(frameon=False)
    return element(figure, "distribution of suspicion over documents")


def precision_recall(points: list[list[float]]) -> str:
    """Draw precision against recall.

    Args:
        points: Recall and precision, in order.

    Returns:
        An ``svg`` element.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(300, 220)
        axes.grid(color=LINE, linewidth=0.6)
        axes.plot(*zip(*points, strict=True), color=ACCENT, drawstyle="steps-post")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_xlabel("edited documents found, share")
        axes.set_ylabel("edited among inspected, share")
    return element(figure, "precision against recall")


def boxes(values: dict[str, list[float]], *, measured: str) -> str:
    """Draw how values spread, a box each.

    Args:
        values: By name.
        measured: What they are.

    Returns:
        An ``svg`` element.
    """
    line = {"color": INK, "linewidth": 1.2}
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(330, 40 + 34 * len(values))
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
    return element(figure, f"Spread of {measured} over pairs")


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
    with matplotlib.rc_context(STYLE):
        figure, plot = blank(380, 320)
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
    return element(figure, f"{measured} by {axes[0]} and {axes[1]}")


def accuracy(by_epoch: dict[int, float]) -> str:
    """Draw the clean accuracy of the base model by epoch.

    Args:
        by_epoch: Between 0 and 1, in order of epochs.

    Returns:
        An ``svg`` element.
    """
    epochs, shares = list(by_epoch), [100 * share for share in by_epoch.values()]
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(300, 210)
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.plot(epochs, shares, "-o", color=INK, linewidth=1.4, markersize=4)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.margins(x=0.06, y=0.12)
        axes.set_xlabel("epoch")
        axes.set_ylabel("clean test accuracy, %")
    return element(figure, "Clean test accuracy of the base model by epoch")


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
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(320, 160)
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
        axes.xaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_major_formatter(FuncFormatter(tick))
        axes.yaxis.set_minor_locator(NullLocator())
    return element(figure, "Histogram of the influence of all training documents")
