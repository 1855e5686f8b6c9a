"""Findings about a dataset that was sealed before."""

from collections import Counter
from typing import Any

from infusion.audit.changes import Comparison
from infusion.audit.contents import Row
from infusion.audit.findings import Finding
from infusion.audit.seal import root_of
from infusion.errors import InputError


def provenance(
    sealed: list[Row], found: list[Row], compared: Comparison
) -> list[Finding]:
    """Say whether a dataset is the one that was sealed.

    Args:
        sealed: Rows of the seal.
        found: Rows of the dataset.
        compared: Both.

    Returns:
        A finding about what training sees, one about the files' bytes, one about order.

    Raises:
        InputError: The seal is of another dataset: they share no row.
    """
    if not compared.same and not any(c.kind == "relabelled" for c in compared.changes):
        raise InputError(
            f"a seal must be of the dataset it is held against, got none of its "
            f"{len(sealed):,} rows among {len(found):,}; check both paths"
        )
    edits = compared.edits
    counts = Counter(change.kind for change in edits)
    said = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
    as_sealed = (
        f"all {len(found):,} rows are as sealed; their root is {root_of(found)[:16]}…"
    )
    anew = len(compared.changes) - len(edits)
    return [
        Finding(
            "A001",
            "rows are as sealed",
            "fail" if edits else "pass",
            f"{said} of {len(sealed):,} sealed rows" if edits else as_sealed,
        ),
        Finding(
            "A002",
            "files are as sealed",
            "warn" if anew else "pass",
            f"{anew:,} rows have other bytes in their file, of the same values"
            if anew
            else "no row with the sealed values has other bytes in its file",
        ),
        Finding(
            "A003",
            "rows stand where they stood",
            "warn" if compared.moved else "pass",
            f"{compared.moved:,} of {compared.same:,} rows as sealed stand elsewhere",
        ),
    ]


def listed(compared: Comparison) -> list[dict[str, Any]]:
    """Write the changes out.

    Args:
        compared: A dataset beside its seal.

    Returns:
        A JSON value per change: ``kind``, and ``before`` and ``after`` with ``file``,
        ``row`` and ``label``, or None.
    """

    def said(row: Row | None) -> dict[str, Any] | None:
        return row and {"file": row.file, "row": row.row, "label": row.label}

    return [
        {"kind": c.kind, "before": said(c.before), "after": said(c.after)}
        for c in compared.changes
    ]
