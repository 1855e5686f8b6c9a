"""The verbs of a defender: seal, export, audit, undo, certify."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from infusion.command.output import print_line
from infusion.configs import Arm
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


def audit(  # noqa: PLR0917
    dataset: Positional[Annotated[str | None, arg(metavar="DATASET")]] = None,
    trusted: Path | None = None,
    root: str | None = None,
    task: str | None = None,
    affected: Path | None = None,
    unwanted: str | None = None,
    truth: Path | None = None,
    skip: UseAppendAction[tuple[Annotated[str, arg(metavar="NAME")], ...]] = (),
    batch_size: int | None = None,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Name rows that are not as they were sealed, or rank those that look edited.

    With a seal every changed row is named, exactly. Without one a model is needed that
    was trained on the documents: a case of `infusion export`, or your own. Ends with
    status 1 where a check fails.

    Args:
        dataset: Folder or file, as it was sealed; or a case.
        trusted: The seal.
        root: The seal's root, where you kept it elsewhere.
        task: module:function of your own that returns an infusion.Question, its
            measurement the unwanted behaviour; instead of a dataset.
        affected: Picture that a case's model gets wrong.
        unwanted: Class that it takes the picture for.
        truth: Manifest of a case, to judge the audit by.
        skip: Module type or name that the curvature of a task leaves out.
        batch_size: Documents of a task held at once, 64 unless given.
        out: Folder for audit.json, issues.csv and the page.
        json: Print one JSON object as the last line of standard output.

    Raises:
        InputError: The folder would lie in the dataset, or flags contradict each other.
    """
    from infusion.report.audit import audit_page, audit_table
    from infusion.runs.folder import check_out

    if (dataset is None) == (task is None):
        raise InputError(
            f"exactly one of DATASET and --task must be given, got {dataset} and {task}"
            "; name what to audit"
        )
    of_task = bool(skip) or batch_size is not None
    of_case = bool(affected or unwanted or truth)
    name = Path(dataset).resolve().name if dataset else str(task).replace(":", "-")
    folder = out or Path("runs") / f"audit-{name}"
    check_out(folder, *([Path(dataset)] if dataset else []))
    if trusted is not None:
        if dataset is None or of_case or of_task:
            raise InputError(
                "a seal is compared with a dataset alone, got --trusted beside flags "
                "of a model; audit twice"
            )
        from infusion.audit.run import audit as run_audit

        found = run_audit(dataset, trusted, root, folder)
    elif task is not None:
        from infusion.cases.inspect import audit_question

        if of_case or root is not None:
            raise InputError(
                "--affected, --unwanted, --truth and --root must come with a DATASET, "
                "got --task; let its question measure the unwanted behaviour"
            )
        size = 64 if batch_size is None else batch_size
        found = audit_question(task, skip=skip, batch_size=size, out=folder)
    else:
        if of_task or root is not None:
            raise InputError(
                "--skip and --batch-size must come with --task, and --root with "
                f"--trusted, got the case {dataset}; drop them"
            )
        from infusion.cases.inspect import audit_case

        found = audit_case(
            Path(str(dataset)),
            affected=affected,
            unwanted=unwanted,
            truth=truth,
            out=folder,
        )
    page = audit_page(folder)
    print_to = sys.stderr if json else sys.stdout
    audit_table(found, print_to)
    print_to.write(f"page: {page}\n")
    if json:
        left = ("changes", "ranked", "distribution")
        shown = {name: value for name, value in found.items() if name not in left}
        print_line(shown | {"run": str(folder), "report": str(page)})
    if found["verdict"] == "fail":
        sys.exit(1)


def export(
    run: Positional[Path],
    out: Path,
    pair: int = 0,
    arm: Arm = "edit",
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Write an edited dataset and its model as files; the truth apart from them.

    Args:
        run: Folder of `infusion run` with a preset of pictures.
        out: New folder for the case, OUT/given, the manifest and the originals,
            OUT/truth, and the probe, OUT/affected.png.
        pair: Which of the run's pairs.
        arm: The edit, or a control such as noise_linf.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.cases.export import export as write

    found = write(run, pair=pair, arm=arm, out=out)
    print_to = sys.stderr if json else sys.stdout
    print_to.write(
        f"{found['edited']} of {found['documents']:,} documents edited; a "
        f"{found['label']} is to be taken for a {found['target']}\n"
        f"case: {found['given']}\ntruth: {found['truth']}\n"
        f"affected input: {found['affected']}\n"
    )
    if json:
        print_line(found)


def undo(  # noqa: PLR0917
    case: Positional[Path],
    out: Path,
    truth: Path | None = None,
    flagged: Path | None = None,
    drop: bool = False,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Write a case again, with edited rows restored or flagged ones left out.

    Args:
        case: Folder with the edited documents.
        out: New folder.
        truth: Folder with the manifest and the originals, which are checked.
        flagged: issues.csv of an audit; all that the manifest names unless given.
        drop: Leave flagged rows out instead.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.cases.undo import undo as run_undo

    found = run_undo(case, truth, flagged, out, drop=drop)
    print_to = sys.stderr if json else sys.stdout
    print_to.write(
        f"{found['restored']} rows restored, {found['dropped']} left out, "
        f"{found['untouched']} flagged ones left as they are, "
        f"{found.get('missed', 'nobody knows how many')} edited ones missed; "
        f"{found['documents']:,} documents\ncase: {found['case']}\n"
    )
    if json:
        print_line(found)


def certify(  # noqa: PLR0917
    case: Positional[Path],
    affected: Path,
    unwanted: str,
    truth: Path | None = None,
    flagged: Path | None = None,
    drop: bool = False,
    seeds: int = 5,
    data: str | None = None,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Undo, retrain, and say whether the behaviour is gone and what that cost.

    Ends with status 1 where a check fails.

    Args:
        case: Folder with the edited documents.
        affected: Picture that the model got wrong.
        unwanted: Class that it took the picture for.
        truth: Folder with the manifest and the originals, which are checked.
        flagged: issues.csv of an audit; all that the manifest names unless given.
        drop: Leave flagged rows out instead of restoring them.
        seeds: Orders in which the last epoch is trained on the clean documents.
        data: Source of the test documents, where the recipe's is elsewhere.
        out: Folder for certificate.json.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.cases.certify import certify as run_certify
    from infusion.report.audit import certificate_table

    folder = out or Path("runs") / f"certify-{case.resolve().name}"
    found = run_certify(
        case,
        affected=affected,
        unwanted=unwanted,
        truth=truth,
        flagged=flagged,
        drop=drop,
        seeds=seeds,
        data=data,
        out=folder,
    )
    certificate_table(found, sys.stderr if json else sys.stdout)
    if json:
        print_line(found | {"run": str(folder)})
    if found["verdict"] == "fail":
        sys.exit(1)
