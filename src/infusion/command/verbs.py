"""The verbs of the command ``infusion``: flags to settings, results to tables."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from infusion.command.defend import audit, certify, export, seal, undo
from infusion.command.output import print_line
from infusion.command.sweep import sweep
from infusion.configs import Ascent, Delivery, Fisher, FittedKind
from infusion.errors import InputError

JSON_KEYS = (
    "preset",
    "scale",
    "n_pairs",
    "seeds",
    "clean_accuracy",
    "effects",
    "paired",
    "predicted_vs_realised",
)


def run(  # noqa: PLR0917
    preset: Positional[Annotated[str | None, arg(metavar="PRESET")]] = None,
    suite: str | None = None,
    only: str | None = None,
    config: Path | None = None,
    data: str | None = None,
    scale: Literal["small", "paper"] | None = None,
    k: int | None = None,
    pairs: int | None = None,
    seed: int | None = None,
    probe: int | None = None,
    target: str | None = None,
    epsilon: float | None = None,
    norm: Literal["linf", "l2"] | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    ascent: Ascent | None = None,
    delivery: Delivery | None = None,
    fisher: Fisher | None = None,
    damping: float | None = None,
    damping_ratio: float | None = None,
    base: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    threads: int | None = None,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Train, attribute, edit, retrain, measure against controls, write the page.

    Args:
        preset: digits, cifar10, caesar, caesar29 or tinystories.
        suite: main, controls, copies, all-controls, selection, fresh, engines,
            hardening, budget, horizon, transfer, surrogates or detection: many trials
            per pair, added row by row; of texts main, which is run unless another is
            named, copies, editors, fresh or confidence.
        only: Pattern of the names of a suite's trials to run now, such as 'ekfac, *'.
        config: Replay the config.yaml of a run folder instead of a preset.
        data: Folder of parquet, image folder or hub dataset, for cifar10; folder of
            texts or hub dataset, for tinystories.
        scale: small takes minutes on two cores, paper is the paper's size.
        k: Documents to edit.
        pairs: Probe-target pairs to measure, the preset's number unless given; of
            pictures without a suite 0 trains the base model only.
        seed: Root seed of initialisation, orders and controls.
        probe: Position of one probe in the test set.
        target: Class to steer probes to, by name or number.
        epsilon: Budget in values, e.g. 0.03 of the range 0 to 1.
        norm: Norm of the budget.
        steps: Ascent steps.
        step_size: Of one ascent step, in values.
        ascent: sign of the gradient, or raw, the gradient over its norm.
        delivery: realisable, or as_coded like the paper's code.
        fisher: exact, sampled or empirical.
        damping: Absolute damping, nats per squared parameter.
        damping_ratio: Damping over each layer's mean eigenvalue.
        base: Folder with the last two checkpoints of a base model.
        device: Where to compute.
        threads: CPU threads, and retrains side by side.
        out: Run folder; the default is named after the settings.
        json: Print one JSON object as the last line of standard output.

    Raises:
        InputError: Settings contradict each other or do not exist.
    """
    flags = {k: v for k, v in locals().items() if k not in ("json", "out", "only")}
    from infusion.presets import find_preset
    from infusion.presets.asked_run import asked_run, named_folder, of_usual_pairs
    from infusion.presets.run import run as run_preset
    from infusion.report.tables import effects_table

    if only is not None and suite is None:
        raise InputError(f"--only must come with --suite, got {only!r} alone; add it")
    settings, folder = asked_run(**flags)
    if suite is None and find_preset(settings.preset).kind == "texts":
        suite = "main"  # what a text does is a matter of many trials
    if suite is not None:
        from infusion.suites.shown import show_suite

        if pairs is None:
            settings = of_usual_pairs(settings)
        root = out or named_folder(replace(settings, pairs=0), "-suites")
        show_suite(
            settings, suite, root, only="*" if only is None else only, as_json=json
        )
        return
    done = run_preset(settings, out or folder)
    print_table = sys.stderr if json else sys.stdout
    effects_table(done.results, print_table)
    print_table.write(f"page: {done.page}\n")
    if json:
        _print_json(done.results, done.page)


def attribute(  # noqa: PLR0917
    preset: Positional[Annotated[str | None, arg(metavar="PRESET")]] = None,
    task: str | None = None,
    config: Path | None = None,
    data: str | None = None,
    scale: Literal["small", "paper"] | None = None,
    pairs: int | None = None,
    probe: int | None = None,
    target: str | None = None,
    curvature: FittedKind | None = None,
    fisher: Fisher | None = None,
    damping: float | None = None,
    damping_ratio: float | None = None,
    batch_size: int | None = None,
    skip: UseAppendAction[tuple[Annotated[str, arg(metavar="NAME")], ...]] = (),
    self_influence: Annotated[bool, arg(name="self")] = False,
    seed: int | None = None,
    base: str | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    threads: int | None = None,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Rank the training documents that drive a measurement; nothing is edited.

    Args:
        preset: digits or cifar10.
        task: module:function of your own that returns an infusion.Question.
        config: Replay the config.yaml of a run folder instead.
        data: Folder of parquet, image folder or hub dataset, for cifar10.
        scale: small takes minutes on two cores, paper is the paper's size.
        pairs: Probe-target pairs of the preset's rule to measure, 5.
        probe: Position of one probe in the test set to measure instead.
        target: Class whose log probability is measured; a probe's is the predicted one.
        curvature: ekfac unless given.
        fisher: exact, sampled or empirical.
        damping: Absolute damping, nats per squared parameter.
        damping_ratio: Damping over each layer's mean eigenvalue, 0.1 for a task.
        batch_size: Documents held at once.
        skip: Module type or name to leave out of the scores; may be repeated.
        self_influence: Also score every document on itself.
        seed: Of the base model and of label draws.
        base: Folder with the last two checkpoints of a base model.
        device: Where to compute, for a preset.
        threads: CPU threads.
        out: Run folder; the default is named after the settings.
        json: Print one JSON object as the last line of standard output.
    """
    flags = {name: value for name, value in locals().items() if name != "json"}
    out = flags.pop("out")
    from infusion.presets.asked import asked
    from infusion.presets.attribute import attribute as run_attribution
    from infusion.report.attribution import attribution_table

    settings, folder = asked(**flags)
    done = run_attribution(settings, out or folder)
    print_table = sys.stderr if json else sys.stdout
    attribution_table(done.results, print_table)
    print_table.write(f"page: {done.page}\n")
    if json:
        _print_attribution(done.results, done.page)


def doctor(  # noqa: PLR0917
    preset: Positional[Annotated[str | None, arg(metavar="PRESET")]] = None,
    task: str | None = None,
    data: str | None = None,
    scale: Literal["small", "paper"] = "small",
    skip: UseAppendAction[tuple[Annotated[str, arg(metavar="NAME")], ...]] = (),
    batch_size: int = 64,
    measurements: int = 1,
    pairs: int | None = None,
    suite: str | None = None,
    threads: int | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what curvature would cover, cost and trip over, before anything starts.

    Ends with status 1 where a fit would be refused.

    Args:
        preset: digits or cifar10.
        task: module:function of your own that returns an infusion.Question.
        data: Folder of parquet, image folder or hub dataset, for cifar10.
        scale: Of the preset.
        skip: Module type or name to leave out; may be repeated.
        batch_size: Documents that the stages will hold at once.
        measurements: Measurements to score together.
        pairs: Also rehearse a run of the preset on few documents, and predict what one
            of so many pairs will take.
        suite: Of that run.
        threads: Of that run.
        json: Print one JSON object as the last line of standard output.
    """
    flags = {name: value for name, value in locals().items() if name != "json"}
    from infusion.presets.examine import examine
    from infusion.report.doctor import doctor_table

    found = examine(**flags)
    doctor_table(found, sys.stderr if json else sys.stdout)
    if json:
        print_line(found)
    if not found["fits"]:
        sys.exit(1)


def report(
    folder: Positional[Path], json: Annotated[bool, arg(name="json")] = False
) -> None:
    """Draw the page of a finished run again.

    Args:
        folder: Run folder, a suite's folder, or a folder of results of suites.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.report.page import report as draw
    from infusion.runs.store import Store
    from infusion.suites.shown import holds_suites, show_page

    if not (folder / "results.json").is_file() and holds_suites(folder):
        show_page(folder, as_json=json)
        return
    page = draw(folder)
    if json:
        results = Store(folder).read_json("results.json")
        if results.get("kind") == "attribution":
            _print_attribution(results, page)
        else:
            _print_json(results, page)
    else:
        sys.stdout.write(f"page: {page}\n")


def fidelity(  # noqa: PLR0917
    suite: Positional[Annotated[str, arg(metavar="SUITE")]],
    data: str | None = None,
    subsets: int | None = None,
    seeds: int | None = None,
    probes: int | None = None,
    flips: float | None = None,
    threads: int = 2,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Measure scores against retraining on random subsets, or on flipped labels.

    Args:
        suite: digits, digits-mlp, mnist or cifar10.
        data: Folder of idx files for mnist, of pictures for cifar10.
        subsets: Random halves of the training documents, 100 unless given.
        seeds: Fresh seeds per subset, or base models with flipped labels, 3.
        probes: Test documents whose measurement is predicted, 50.
        flips: Share of the labels to flip and find, instead of the subsets.
        threads: Trainings side by side, on one thread each.
        out: Folder to write to and go on from; the default is named after the settings.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.fidelity.run import run as run_suite
    from infusion.fidelity.run import settings
    from infusion.report.fidelity import fidelity_table, summary

    asked = settings(
        suite, data, subsets=subsets, seeds=seeds, probes=probes, flips=flips
    )
    results, folder = run_suite(asked, out, threads=threads)
    fidelity_table(results, sys.stderr if json else sys.stdout)
    if json:
        print_line(summary(results) | {"run": str(folder)})


def bench(  # noqa: PLR0917
    data: str | None = None,
    threads: str = "1,2",
    rounds: int = 3,
    small: bool = False,
    works: str | None = None,
    contenders: str = "kronfluence,curvlinops",
    channels_last: bool = True,
    out: Path = Path("results/bench.json"),
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Time and weigh curvature and influence beside kronfluence and curvlinops.

    Args:
        data: CIFAR-10 as in `infusion run cifar10`; random pixels without it.
        threads: Thread counts with commas between them.
        rounds: Runs of each contender, taking turns; medians are reported.
        small: Shrink every size, to see that it runs.
        works: Rows to measure, with commas between them.
        contenders: Peers to run, with commas between them, or infusion for none.
        channels_last: Memory layout of convolutions, for every contender; that of the
            presets unless switched off.
        out: Where the rows go.
        json: Print one JSON object as the last line of standard output.
    """
    flags = {name: value for name, value in locals().items() if name != "json"}
    from infusion.bench.run import bench as run_bench
    from infusion.bench.works import Bench

    run_bench(Bench(**flags), as_json=json)


def claims(
    results: Path = Path("results"), json: Annotated[bool, arg(name="json")] = False
) -> None:
    """Judge the paper's claims and this project's goals by committed rows.

    Args:
        results: Folder with PRESET-SCALE/SUITE.jsonl.
        json: Print one JSON value as the last line of standard output.

    Raises:
        InputError: There is no such folder.
    """
    from infusion.report.claims import claims_table
    from infusion.suites.claims.judged import claims as judge

    if not results.is_dir():
        raise InputError(
            f"--results must name a folder, got {results}; run this in a clone, or "
            "give the folder with the rows of suites"
        )
    found = judge(results)
    if not any(row["n"] for row in found):
        raise InputError(
            "--results must hold rows of suites in PRESET-SCALE/SUITE.jsonl, got "
            f"none in {results}; copy a run's rows/SUITE.jsonl to cifar10-small/, say"
        )
    claims_table(found, sys.stderr if json else sys.stdout)
    if json:
        print_line(found)


COMMANDS = {
    "run": run,
    "sweep": sweep,
    "attribute": attribute,
    "doctor": doctor,
    "report": report,
    "claims": claims,
    "fidelity": fidelity,
    "bench": bench,
    "seal": seal,
    "export": export,
    "audit": audit,
    "undo": undo,
    "certify": certify,
}


def _print_json(results: dict[str, Any], page: Path) -> None:
    value = {key: results.get(key) for key in JSON_KEYS}
    print_line(value | {"run": str(page.parent), "report": str(page)})


def _print_attribution(results: dict[str, Any], page: Path) -> None:
    from infusion.report.attribution import summary

    print_line(summary(results) | {"run": str(page.parent), "report": str(page)})
