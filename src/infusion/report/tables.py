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
    headings = ("", "mean [95 %]", "edit − this [95 %]", "Δp", "top-1", "accuracy")
    for heading in headings:
        table.add_column(heading)
    for arm, effect in results["effects"].items():
        paired = results["paired"].get(arm)
        top1 = results["top1"][arm]
        table.add_row(
            NAMES[arm],
            interval(effect),
            interval(paired) if paired else "",
            f"{results['effects_p'][arm]['mean']:+.3f}",
            f"{top1['count']}/{results['n_pairs']}",
            f"{results['accuracy_after'][arm]['mean']:.2%}",
        )
    console.print(table)
    correlation = results["predicted_vs_realised"]["rank_correlation"]
    if correlation is not None:
        console.print(
            f"predicted against realised, rank correlation: {correlation:.2f}"
        )


def interval(value: dict[str, float]) -> str:
    """Format a mean with its interval.

    Args:
        value: ``mean``, ``low`` and ``high``.

    Returns:
        E.g. ``+0.91 [+0.52, +1.30]``.
    """
    return f"{value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]"
