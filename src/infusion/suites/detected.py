"""What every detector found of every change, beside its null, over all pairs."""

from dataclasses import asdict
from typing import Any

from infusion.suites.summary import Row, interval

ONE_PERCENT = 1
"""Which recall: in the first 1 % inspected."""


def detected(rows: list[Row]) -> list[dict[str, Any]]:
    """Average what detectors found, trial by trial in the suite's order.

    Args:
        rows: Of the suite detection, one preset and scale.

    Returns:
        A JSON value per trial: ``trial``, ``n`` rows, ``edited`` of ``documents``, and
        ``detectors``: by name the intervals of ``auroc``, ``null``, ``above`` (their
        difference), ``average_precision`` and ``recall`` in the first 1 %.
    """
    ordered = sorted(
        (row for row in rows if "audit" in row), key=lambda row: row["place"]
    )
    found = []
    for trial in dict.fromkeys(row["trial"] for row in ordered):
        own = [row for row in ordered if row["trial"] == trial]
        names = [
            name
            for name in own[0]["audit"]["found"]
            if " + " not in name and all(name in r["audit"]["found"] for r in own)
        ]
        found.append(
            {
                "trial": trial,
                "n": len(own),
                "edited": own[0]["audit"]["edited"],
                "documents": own[0]["audit"]["documents"],
                "detectors": {name: _intervals(own, name) for name in names},
            }
        )
    return found


def _intervals(rows: list[Row], name: str) -> dict[str, Any]:
    def said(row: Row) -> dict[str, Any]:
        return row["audit"]["found"][name]

    values = {
        "auroc": lambda row: said(row)["auroc"],
        "null": lambda row: said(row)["null"],
        "above": lambda row: said(row)["auroc"] - said(row)["null"],
        "average_precision": lambda row: said(row)["average_precision"],
        "recall": lambda row: said(row)["recall"][ONE_PERCENT],
    }
    return {key: asdict(interval(rows, value)) for key, value in values.items()}
