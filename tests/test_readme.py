"""README keeps its word: its snippet runs, its tables are those of results/."""

import re
import subprocess
import sys
from pathlib import Path

import infusion as inf
from infusion.data.hashing import row_hashes

ROOT = Path(__file__).parent.parent


def test_the_snippet_runs_and_edits_can_be_undone() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(names["edits"], inf.Edits)
    assert names["infl"].shape == (1_500,)
    assert len(names["edits"].manifest) == 15
    undone = names["edits"].undo(names["edited"])
    assert undone == names["train"]
    assert undone != names["edited"]
    assert row_hashes(undone) == row_hashes(names["train"])


def test_the_public_names_are_listed_alike() -> None:
    assert sorted(inf.__all__) == sorted(inf._HOMES)
    for name in inf.__all__:
        assert getattr(inf, name).__name__ == name or name == "Batch"


def test_the_tables_are_drawn_from_results() -> None:
    script = ROOT / "results" / "tables.py"
    done = subprocess.run([sys.executable, script, "--check"], check=False)
    assert done.returncode == 0, "run `make results` and commit README.md"
