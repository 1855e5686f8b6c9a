"""What every figure shares: axes, and SVG whose colours and fonts are the page's.

Matplotlib writes plain colours; each of ours is a token that stands for a CSS variable,
so that one drawing serves light and dark pages. Text stays text.
"""

import io
import re
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from infusion.report.numbers import significant

INK, MUTED, LINE, ACCENT = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", ACCENT: "--accent"}
_ALONE = {
    "--ink": "#222",
    "--muted": "#666",
    "--line": "#ddd",
    "--accent": "#b8401f",
    "--sans": "sans-serif",
}
STYLE: Any = {
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


def blank(width: int, height: int) -> tuple[Figure, Axes]:
    """Begin a figure.

    Args:
        width: In points.
        height: Likewise.

    Returns:
        The figure and its axes.
    """
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


def element(figure: Figure, label: str) -> str:
    """Write a figure as an element of an HTML page.

    Args:
        figure: Drawn in :data:`STYLE`.
        label: Says what it shows.

    Returns:
        An ``svg`` element.
    """
    # The document type, metadata and namespaces of a file of its own go; so do names of
    # groups, which would repeat from figure to figure.
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
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


def tick(value: float, _: int | None = None) -> str:
    """Write a number beside an axis.

    Args:
        value: The number.

    Returns:
        Few digits, with a minus of its own.
    """
    plain = value == 0 or 1e-4 <= abs(value) < 1e6
    text = f"{value:,.8g}" if plain else significant(value, 2)
    return text.replace("-", "−")
