"""The verbs of a defender: seal, audit."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from infusion.command.output import print_line
from infusion.errors import InputError


def seal(
    dataset: Positional[str],
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Write down what every row of a dataset is, to compare with later.

    Args:
        dataset: Folder or file: pictures, parquet, JSON lines, lines of text.
        out: File to write, outside of the dataset; DATASET.seal.jsonl unless given.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.audit.run import seal as write_seal

    name = Path(dataset).resolve().name
    made = write_seal(dataset, out or Path(f"{name}.seal.jsonl"))
    print_to = sys.stderr if json else sys.stdout
    print_to.write(
        f"{made['rows']:,} rows, root {made['root']}\nseal: {made['seal']}\n"
    )
    if json:
        print_line(made)


def audit(
    dataset: Positional[str],
    trusted: Path,
    root: str | None = None,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Name every row of a dataset that is not as it was sealed.

    Ends with status 1 where there is one.

    Args:
        dataset: Folder or file, as it was sealed.
        trusted: The seal.
        root: The seal's root, where you kept it elsewhere.
        out: Folder for audit.json, issues.csv and the page.
        json: Print one JSON object as the last line of standard output.

    Raises:
        InputError: The folder would lie in the dataset.
    """
    from infusion.audit.run import audit as run_audit
    from infusion.report.audit import audit_page, audit_table

    folder = out or Path("runs") / f"audit-{Path(dataset).resolve().name}"
    if folder.resolve().is_relative_to(Path(dataset).resolve()):
        raise InputError(
            f"--out must lie outside of the dataset, got {folder} in {dataset}; choose "
            "another"
        )
    found = run_audit(dataset, trusted, root, folder)
    page = audit_page(folder)
    print_to = sys.stderr if json else sys.stdout
    audit_table(found, print_to)
    print_to.write(f"page: {page}\n")
    if json:
        shown = {name: value for name, value in found.items() if name != "changes"}
        print_line(shown | {"run": str(folder), "report": str(page)})
    if found["verdict"] == "fail":
        sys.exit(1)
