"""The command ``infusion``: flags to settings, results to a table or JSON."""

import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial, wraps
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from infusion.configs import Ascent, Delivery, Fisher, RunConfig
from infusion.errors import InfusionError, InputError

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
        preset: digits or cifar10.
        config: Replay the config.yaml of a run folder instead of a preset.
        data: Folder of parquet, image folder or hub dataset, for cifar10.
        scale: small takes minutes on two cores, paper is the paper's size.
        k: Documents to edit.
        pairs: Probe-target pairs to measure; 0 trains the base model only.
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
    """
    from infusion.presets.run import run as run_preset
    from infusion.report.tables import effects_table

    settings, folder = _settings(preset, config, scale)
    settings = _override(
        settings,
        {
            "pairs": pairs,
            "seed": seed,
            "probe": probe,
            "base": base,
            "device": device,
            "threads": threads,
            "target": _class(settings.preset, target),
            "data": {"source": data},
            "edit": {
                "k": k,
                "norm": norm,
                "epsilon": epsilon,
                "steps": steps,
                "step_size": step_size,
                "ascent": ascent,
                "delivery": delivery,
            },
            "curvature": {"fisher": fisher},
        },
    )
    if damping is not None or damping_ratio is not None:
        curvature = replace(
            settings.curvature, damping=damping, damping_ratio=damping_ratio
        )
        settings = replace(settings, curvature=curvature)
    done = run_preset(settings, out or folder or _folder(settings))
    print_table = sys.stderr if json else sys.stdout
    effects_table(done.results, print_table)
    print_table.write(f"page: {done.page}\n")
    if json:
        _print_json(done.results, done.page)


def report(
    folder: Positional[Path], json: Annotated[bool, arg(name="json")] = False
) -> None:
    """Draw the page of a finished run again.

    Args:
        folder: Run folder.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.report.page import report as draw
    from infusion.store import Store

    page = draw(folder)
    if json:
        _print_json(Store(folder).read_json("results.json"), page)
    else:
        sys.stdout.write(f"page: {page}\n")


COMMANDS = {"run": run, "report": report}


def main() -> None:
    """Run the command line; wrong input ends with one line and status 2."""
    # Waiting threads sleep: spinning ones stall each other on a busy machine (measured:
    # 60 times slower). Read when torch is imported, which the commands do later.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without ∞ shows a ?
        sys.stdout.reconfigure(errors="replace")
    try:
        _parse()()
    except InfusionError as error:
        sys.stderr.write(f"infusion: {error}\n")
        sys.exit(2)


def _parse() -> Callable[[], None]:
    """Turn the command line into a call.

    Returns:
        The command with its flags.

    Raises:
        InputError: It cannot be read; tyro's box of several lines, in one.
        SystemExit: Help was asked for.
    """
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(
                {name: _later(command) for name, command in COMMANDS.items()},
                prog="infusion",
                description="How training data shapes a model, measured.",
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise InputError(_one_line(box.getvalue())) from None


def _one_line(box: str) -> str:
    """Shorten tyro's box, drawn with or without Unicode: title, rules, paragraphs."""
    lines = [line.strip("│╰╯ ") for line in box.splitlines()[1:]]
    paragraphs = [
        " ".join(group)
        for is_text, group in groupby(lines, key=lambda line: bool(line.strip("─-")))
        if is_text
    ]
    meant = [p.split()[3] for p in paragraphs if p.startswith("Perhaps you meant:")]
    advice = f"perhaps you meant {meant[0]}; " if meant else ""
    return f"{paragraphs[0].rstrip('.')}; {advice}try `infusion run --help`"


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Parse now, run later: what a command prints is no parse error."""

    @wraps(command)
    def call(*args: Any, **flags: Any) -> Callable[[], None]:
        return partial(command, *args, **flags)

    return call


def _settings(
    preset: str | None, config: Path | None, scale: str | None
) -> tuple[RunConfig, Path | None]:
    """Return the settings to start from, and the run folder of a replay.

    Raises:
        InputError: Not exactly one of preset and config is given, or no such file.
    """
    from infusion.config_files import from_yaml
    from infusion.presets import find_preset

    if (preset is None) == (config is None):
        raise InputError(
            f"exactly one of PRESET and --config must be given, got {preset} and "
            f"{config}; try `infusion run digits`"
        )
    if config is None:
        assert preset is not None
        return find_preset(preset).configs[scale or "small"], None
    if scale is not None:
        raise InputError(
            f"--scale must come with a PRESET, got {scale} beside --config; drop it"
        )
    if not config.is_file():
        raise InputError(
            f"--config must name a file, got {config}; use RUN/config.yaml"
        )
    replay = Path(f"{config.resolve().parent}-replay")
    return from_yaml(config.read_text("utf-8", errors="replace")), replay


def _override(settings: Any, given: dict[str, Any]) -> Any:
    values = {
        name: _override(getattr(settings, name), value)
        if isinstance(value, dict)
        else value
        for name, value in given.items()
        if value is not None
    }
    return replace(settings, **values)


def _class(preset: str, name: str | None) -> int | None:
    from infusion.presets import find_preset

    if name is None:
        return None
    names = find_preset(preset).class_names
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise InputError(
        f"--target must be one of {', '.join(names)} or 0…{len(names) - 1}, got "
        f"{name!r}"
    )


def _folder(settings: RunConfig) -> Path:
    from infusion.store import digest

    name = f"{settings.preset}-{settings.scale}-seed{settings.seed}"
    return Path("runs") / f"{name}-{digest(settings)[:8]}"


def _print_json(results: dict[str, Any], page: Path) -> None:
    value = {key: results.get(key) for key in JSON_KEYS}
    value |= {"run": str(page.parent), "report": str(page)}
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
