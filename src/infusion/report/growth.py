"""What stages take along a size."""

from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
    with matplotlib.rc_context(STYLE):
        figure, axes = blank(330, 220)
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
            axis.set_major_formatter(FuncFormatter(tick))
        axes.set_xlabel(along)
        axes.set_ylabel(measured)
    return element(figure, f"{measured} against {along}, by stage, with fitted powers")
