"""Numbers as the page shows them, each with the place it was read from."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from infusion.errors import ArtefactError

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_PLAIN_EXPONENTS = range(-4, 6)


def fixed(value: float, decimals: int, *, sign: str = "") -> str:
    """Format with so many decimals; what rounds to zero carries no sign.

    Args:
        value: A number.
        decimals: Digits after the point.
        sign: ``"+"`` to write the sign of positive numbers too.

    Returns:
        E.g. ``−0.37``, with a real minus sign.

    Example:
        >>> fixed(-0.368, 2), fixed(-0.001, 2, sign="+"), fixed(2.41, 1, sign="+")
        ('−0.37', '0.00', '+2.4')
    """
    if round(value, decimals) == 0:
        return f"{0:.{decimals}f}"
    return f"{value:{sign},.{decimals}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """Format with so many significant digits, or a few more for large numbers.

    Args:
        value: A number.
        digits: Significant digits.

    Returns:
        Plain digits where they are few, else a power of ten.

    Example:
        >>> significant(38044.5), significant(0.125), significant(-1.25e-7)
        ('38,044', '0.125', '−1.25×10⁻⁷')
    """
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent in _PLAIN_EXPONENTS:
        return fixed(value, max(0, digits - 1 - exponent))
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}×10{str(int(power)).translate(_RAISED)}".replace("-", "−")


def probability(value: float) -> str:
    """Format a probability: three decimals, or two digits of a small one.

    Args:
        value: Between 0 and 1.

    Returns:
        E.g. ``0.072``, ``0.00017`` or ``3.1×10⁻⁶``.

    Example:
        >>> probability(0.0721), probability(0.00016761), probability(3.1e-6)
        ('0.072', '0.00017', '3.1×10⁻⁶')
    """
    return fixed(value, 3) if value >= 0.01 else significant(value, 2)


STYLES: dict[str, Callable[[Any], str]] = {
    "signed": lambda value: fixed(value, 2, sign="+"),
    "signed3": lambda value: fixed(value, 3, sign="+"),
    "decimal": lambda value: fixed(value, 2),
    "significant": significant,
    "general": lambda value: f"{value:.4g}".replace("-", "−"),
    "probability": probability,
    "percent": lambda value: f"{fixed(100 * value, 2)} %",
    "percent0": lambda value: f"{fixed(100 * value, 0)} %",
    "count": lambda value: f"{value:,}",
    "exact": json.dumps,
}


@dataclass(frozen=True)
class Numbers:
    """Numbers of one source, to be shown with their place in it.

    Attributes:
        source: File of the run folder, or ``"derived"``.
        values: What it holds.
    """

    source: str
    values: Any

    def at(self, key: str) -> Any:
        """Look a value up.

        Args:
            key: Path of dictionary keys and list positions, joined by dots.

        Returns:
            The value.

        Raises:
            ArtefactError: There is no such key.
        """
        value = self.values
        for part in key.split("."):
            try:
                value = value[int(part)] if isinstance(value, list) else value[part]
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise ArtefactError(
                    f"{self.source} must hold {key}, got none: another version wrote "
                    "it; run `infusion run --config RUN/config.yaml --out RUN` again"
                ) from error
        return value

    def __call__(self, key: str, style: str) -> Markup:
        """Show a number so that a reader of the page's source can find its origin.

        Args:
            key: See ``at``.
            style: One of ``STYLES``.

        Returns:
            A ``span`` with ``data-source``, ``data-key`` and ``data-value``.
        """
        value = self.at(key)
        return Markup(
            '<span class="n" data-source="{}" data-key="{}" data-value="{}">{}</span>'
        ).format(self.source, key, json.dumps(value), STYLES[style](value))
