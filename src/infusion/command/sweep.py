"""The verb that runs many experiments."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from infusion.command.output import print_line
from infusion.errors import InputError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def sweep(  # noqa: PLR0917
    preset: Positional[Annotated[str | None, arg(metavar="PRESET")]] = None,
    suite: str = "main",
    config: Path | None = None,
    data: str | None = None,
    scale: Literal["small", "paper"] | None = None,
    pairs: int | None = None,
    seeds: tuple[int, ...] = (0,),
    on: str = "local",
    workers: int = 2,
    device: Literal["cpu", "cuda"] | None = None,
    retries: int = 2,
    budget: str | None = None,
    narrow: float | None = None,
    out: Path | None = None,
    json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Run a suite on many base models and workers; run it again after any fault.

    Ends with status 1 where a pair was given up.

    Args:
        preset: digits, cifar10, caesar, caesar29 or tinystories.
        suite: As for `infusion run --suite`.
        config: config.yaml of a run folder instead of a preset.
        data: Source of the documents.
        scale: small or paper.
        pairs: Probe-target pairs per base model, the preset's number unless given.
        seeds: Of base models.
        on: local: a Ray of its own, or processes where Ray is not installed; processes;
            or ray://HOST:PORT.
        workers: Jobs at a time, of one core each, where it starts them itself.
        device: cuda gives each job of a Ray a GPU.
        retries: How often a job that failed is tried again before the others go on
            without it.
        budget: Time after which no job is begun, e.g. 90m or 2h.
        narrow: Half-width of the first trial's 95 % interval at which no job is begun,
            from ten pairs on; such an interval is narrower than it should be.
        out: Folder; the default is named after the settings.
        json: Print one JSON object as the last line of standard output.
    """
    from infusion.presets.asked_run import from_preset, named_folder, of_usual_pairs
    from infusion.suites.shown import show_sweep
    from infusion.suites.sweep import Sweep

    settings = from_preset(preset, config, scale, pairs=pairs, data=data, device=device)
    settings = of_usual_pairs(settings) if pairs is None else settings
    root = out or named_folder(replace(settings, pairs=0, seed=0), f"-sweep-{suite}")
    asked = Sweep(settings, suite, seeds, retries, _seconds(budget), narrow)
    found = show_sweep(
        asked, root, on=on, workers=workers, screen=sys.stderr if json else sys.stdout
    )
    if json:
        print_line(found)
    sys.exit(found["failed"] > 0)


def _seconds(text: str | None) -> float | None:
    """Read a duration.

    Returns:
        In seconds.

    Raises:
        InputError: It is none.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise InputError(f"--budget must be like 90s, 30m or 2h, got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]
