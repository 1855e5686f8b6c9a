"""x."""

from pathlib import Path


def report(root: Path) -> Path:
    """X."""
    return root / "report.html"
