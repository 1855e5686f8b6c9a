"""What every drawn section shares: files of this folder in, lines of Markdown out."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def read(name: str | Path) -> Any:
    """Read one file of this folder, or at a path of its own."""
    return json.loads((HERE / name).read_text())


def markdown(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Lay out a table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
