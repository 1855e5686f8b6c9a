"""What an audit asks, and what detectors find in rows of the suite detection."""

from typing import Any

from layout import HERE, markdown

from infusion.audit.shipped import RULES
from infusion.suites.detected import detected
from infusion.suites.read import read_rows


def rules() -> str:
    """Return the rules that an audit ships with."""
    headings = ["rule", "what it looks for", "detectors", "threshold", "clean flagged"]
    cells = [
        [
            rule.code,
            rule.title + (", behaviour reported" if rule.told else ""),
            " + ".join(rule.detectors),
            f"{rule.threshold:g}",
            f"≤ {rule.expected:.1%}",
        ]
        for rule in RULES
    ]
    return "\n".join(markdown(headings, cells))


def detectors() -> str:
    """Return what every detector finds of every change, preset by preset."""
    parts = []
    for (preset, scale, suite), rows in sorted(read_rows(HERE).items()):
        if suite == "detection":
            seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
            found = detected(rows)
            said = "; ".join(
                f"{each['trial']} {each['n']} audits, {each['edited']:,} of "
                f"{each['documents']:,} documents"
                for each in found
            )
            lines = [f"{preset} {scale}, base seeds {seeds}: {said}.", ""]
            names = list(found[0]["detectors"])
            names += [n for each in found for n in each["detectors"] if n not in names]
            headings = ["AUROC (null), recall in 1 %", *(e["trial"] for e in found)]
            cells = [
                [name, *(_cell(each["detectors"].get(name)) for each in found)]
                for name in names
            ]
            parts.append("\n".join([*lines, *markdown(headings, cells)]))
    return "\n\n".join(parts) or "No rows yet."


def _cell(said: dict[str, Any] | None) -> str:
    if said is None:
        return "–"
    auroc, null, recall = (said[key]["mean"] for key in ("auroc", "null", "recall"))
    return f"{auroc:.2f} ({null:.2f}), {recall:.0%}"
