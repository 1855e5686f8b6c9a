"""The tables that the fidelity suite ends with."""

from typing import IO, Any

from infusion.report.tables import interval

METHOD_NAMES = {
    "random": "random",
    "embedding": "embedding similarity",
    "loss": "loss",
    "gradient_norm": "gradient norm",
    "gradient_cosine": "gradient cosine",
    "gradient_dot": "gradient dot",
    "diagonal": "diagonal, damping ratio 0.1",
    "kfac": "KFAC, damping ratio 0.1",
    "ekfac": "EK-FAC, damping ratio 0.1",
    "ekfac_0.01": "EK-FAC, damping ratio 0.01",
    "ekfac_1": "EK-FAC, damping ratio 1",
    "ekfac_exact_fisher": "EK-FAC, ratio 0.1, exact Fisher",
    "ekfac_cg": "EK-FAC + 20 CG steps, ratio 0.1",
    "gauss_newton": "exact Gauss–Newton, ratio 0.1",
    "gauss_newton_1": "exact Gauss–Newton, ratio 1",
    "gauss_newton_10": "exact Gauss–Newton, ratio 10",
    "self_influence": "self-influence, ratio 0.1",
    "self_influence_0.01": "self-influence, ratio 0.01",
    "self_influence_1": "self-influence, ratio 1",
}
KINDS = ("fixed", "fresh")


def _titled(by_method: dict[str, Any]) -> dict[str, Any]:
    """Replace method names by titles, in the order of the titles; others come last."""
    known = [name for name in METHOD_NAMES if name in by_method]
    names = [*known, *sorted(set(by_method) - set(known))]
    return {METHOD_NAMES.get(name, name): by_method[name] for name in names}


def lds_rows(results: dict[str, Any]) -> dict[str, list[str]]:
    """Format linear datamodelling scores, a row per method.

    Args:
        results: What ``results.json`` holds.

    Returns:
        Method to its scores against fixed and fresh retrains.
    """
    return {
        title: [interval(scores[kind]) for kind in KINDS]
        for title, scores in _titled(results["lds"]).items()
    }


def lds_facts(results: dict[str, Any]) -> list[str]:
    """Say what the scores were measured on, and what surrounds them.

    Args:
        results: What ``results.json`` holds.

    Returns:
        One sentence or two per line.
    """
    seeds, sizes = results["seeds"], results["num_documents"]
    lines = [
        f"{results['suite']}: {results['subsets']} random subsets of "
        f"{results['subset_size']:,} of {sizes['train']:,} documents, "
        f"{len(results['probes'])} probes; each subset trained from scratch with the "
        f"base model's seed ({seeds['fixed'][0]}; fixed) and averaged over seeds "
        f"{', '.join(map(str, seeds['fresh']))} (fresh). Base test accuracy "
        f"{results['accuracy']:.2%}.",
        f"Fixed against fresh retrains {interval(results['fixed_vs_fresh'])}; EK-FAC "
        f"above gradient dot by {interval(results['lead']['gradient_dot']['fixed'])} "
        f"(fixed), {interval(results['lead']['gradient_dot']['fresh'])} (fresh).",
    ]
    pbrf = results["pbrf"]
    if pbrf is not None:
        lines.append(
            f"On the first {pbrf['subsets']} subsets, against fixed / fresh retrains: "
            + "; ".join(
                f"{label} {' / '.join(interval(pbrf[name][kind]) for kind in KINDS)}"
                for label, name in (("EK-FAC", "ekfac"), ("PBRF", "pbrf"))
            )
            + f"; EK-FAC against PBRF {interval(pbrf['ekfac_vs_pbrf'])}."
        )
    return lines


def flips_rows(results: dict[str, Any]) -> dict[str, list[str]]:
    """Format shares of flipped labels found, a row per method.

    Args:
        results: What ``results.json`` holds.

    Returns:
        Method to its share for every share inspected.
    """
    return {
        title: [
            f"{s['mean']:.1%} [{s['low']:.1%}, {s['high']:.1%}]"
            for s in (by[f"{share:g}"] for share in results["inspected"])
        ]
        for title, by in _titled(results["found"]).items()
    }


def flips_facts(results: dict[str, Any]) -> list[str]:
    """Say what the flips were looked for in.

    Args:
        results: What ``results.json`` holds.

    Returns:
        One line.
    """
    accuracy = sum(results["accuracy"]) / len(results["accuracy"])
    return [
        f"{results['suite']}: {results['share']:.0%} of "
        f"{results['num_documents']['train']:,} labels flipped, {results['flipped']:,} "
        f"in {len(results['seeds'])} base models of {accuracy:.2%} test accuracy."
    ]


def fidelity_table(results: dict[str, Any], file: IO[str]) -> None:
    """Print what the suite found.

    Args:
        results: What ``results.json`` holds.
        file: Where to print.
    """
    from rich.console import Console
    from rich.table import Table

    if results["kind"] == "lds":
        facts, rows, headings = lds_facts(results), lds_rows(results), list(KINDS)
    else:
        facts, rows = flips_facts(results), flips_rows(results)
        headings = [f"{share:.0%} inspected" for share in results["inspected"]]
    console = Console(file=file, width=100)
    table = Table("", *headings)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    for line in facts:
        console.print(line)
    console.print(table)


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Shorten the results to what a program asks for first.

    Args:
        results: What ``results.json`` holds.

    Returns:
        The same without the rows of single probes and base models.
    """
    long = {"per_probe", "per_seed", "probes", "environment", "recipe"}
    return {name: value for name, value in results.items() if name not in long}
