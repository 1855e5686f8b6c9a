"""A suite in a terminal."""

from typing import IO, Any

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
    for heading in ("trial", "n", "Δp", "Δ log p", "top-1", "accuracy", "ρ"):
        table.add_column(heading, justify="left" if heading == "trial" else "right")
    for effect in effects:
        table.add_row(effect["trial"], str(effect["n"]), *cells(effect))
    Console(file=file, emoji=False, width=120).print(table)


def cells(effect: Json) -> list[str]:
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
        ranged(effect["accuracy"], 2, scale=100),
        "–" if rho is None else f"{rho:.2f}",
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
