"""The table a run ends with."""

from typing import IO, Any

NAMES = {
    "edit": "edit",
    "clean_replay": "clean replay",
    "noise_linf": "noise, same L∞",
    "noise_l2": "noise, same L2",
    "random_documents": "random documents",
    "copies_1": "1 explicit copy",
    "copies_5": "5 explicit copies",
}


HEADINGS = ("", "Δ log p [95 %]", "edit − this [95 %]", "Δp", "top-1", "accuracy")


def effects_rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Format effects and paired differences, a row per arm under ``HEADINGS``.

    Args:
        results: What ``results.json`` holds.

    Returns:
        Text of each cell.
    """
    return [
        (
            NAMES[arm],
            interval(results["effects"][arm]),
            interval(results["paired"][arm]) if arm in results["paired"] else "",
            f"{results['effects_p'][arm]['mean']:+.3f}",
            f"{results['top1'][arm]['count']}/{results['n_pairs']}",
            f"{results['accuracy_after'][arm]['mean']:.2%}",
        )
        for arm in NAMES
        if arm in results["effects"]
    ]


def effects_table(results: dict[str, Any], file: IO[str]) -> None:
    """Print effects and paired differences with their 95 % intervals.

    Args:
        results: What ``results.json`` holds.
        file: Where to print.
    """
    from rich.console import Console
    from rich.table import Table

    accuracy = results["clean_accuracy"]
    console = Console(file=file, width=100)
    console.print(f"clean test accuracy of the base model: {accuracy['before']:.2%}")
    if not results["n_pairs"]:
        return
    table = Table(
        title=(
            f"{results['preset']} ({results['scale']}): change of log p(target), nats, "
            f"n = {results['n_pairs']} pairs, base seed {results['seeds'][0]}"
        )
    )
    for heading in HEADINGS:
        table.add_column(heading)
    for row in effects_rows(results):
        table.add_row(*row)
    console.print(table)
    correlation = results["predicted_vs_realised"]["rank_correlation"]
    if correlation is not None:
        console.print(
            f"predicted against realised, rank correlation: {correlation:.2f}"
        )


def interval(value: dict[str, float | None]) -> str:
    """Format a mean with its interval.

    Args:
        value: ``mean``, ``low`` and ``high``; no ends where n = 1.

    Returns:
        E.g. ``+0.91 [+0.52, +1.30]``, or ``+0.91 [—]``.
    """
    if value["low"] is None:
        return f"{value['mean']:+.2f} [—]"
    return f"{value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]"
