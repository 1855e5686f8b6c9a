"""What a run will cost, from short rehearsals of the very command.

A stage takes a time that is a sum of few terms, each a product of sizes: documents
``n``, epochs ``e`` and pairs ``p`` (docs/scale.md measures the powers). Three
rehearsals with few of each give the coefficients on this machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infusion.configs import RunConfig
from infusion.errors import InputError, check_choice, check_whole
from infusion.runs import weighed
from infusion.runs.config_files import to_yaml
from infusion.runs.progress import progress

EPOCHS = 2
"""Of a rehearsal."""
SHARE, LEAST = 0.25, 2_500
"""Documents of the smaller rehearsals, of all, and how many at least, up to a half:
what takes no time cannot be told from the time that starting takes."""
MOST = 6
"""Pairs of the larger rehearsals for each thread, and at most half of all."""
PAIRS = "all pairs, and the rest"
SUITES = ("main", "controls", "copies", "all-controls", "selection", "budget")
"""Suites whose every retraining is of the last epoch of one architecture."""


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        documents: Trained on.
        epochs: Of the base model.
        pairs: Measured.
    """

    documents: int
    epochs: int
    pairs: int


@dataclass(frozen=True)
class Rehearsal:
    """A run that was made.

    Attributes:
        size: How large it was.
        seconds: By stage; all of them together are its wall time.
        peak: Bytes that its largest process held.
    """

    size: Size
    seconds: dict[str, float]
    peak: int


@dataclass(frozen=True)
class Cost:
    """What a run is predicted to take.

    Attributes:
        size: How large it is.
        seconds: By stage.
        peak: Bytes that its largest process will hold.
        rehearsals: What says so.
    """

    size: Size
    seconds: dict[str, float]
    peak: int
    rehearsals: list[Rehearsal]

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


Terms = Callable[[Size], list[float]]
TERMS: dict[str, Terms] = {
    "train": lambda s: [1, s.epochs * s.documents],
    "clean accuracy": lambda s: [s.epochs],
    "curvature": lambda s: [1, s.documents],
    PAIRS: lambda s: [1, s.pairs, s.pairs * s.documents],
}
"""What the time of each stage is a sum of."""


def predict(config: RunConfig, suite: str | None = None) -> Cost:
    """Rehearse a run three times in a folder of its own, and say what it will take.

    Args:
        config: Settings of the run.
        suite: Of many trials, or None.

    Returns:
        Its cost on this machine as it is now.

    Raises:
        InputError: It is no larger than a rehearsal, starts from a stored base model,
            is a suite of longer retrainings, or a rehearsal failed.
    """
    check_whole("pairs", config.pairs)
    check_whole("--threads", config.threads)
    if suite is not None:
        check_choice("--suite to predict", suite, SUITES)
    whole = size_of(config)
    least = min(LEAST, whole.documents // 2)
    few = max(round(SHARE * whole.documents), least, 2 * config.edit.k)
    at_once = config.threads
    many = at_once * max(2, min(MOST, whole.pairs // (2 * at_once)))
    sizes = [
        Size(few, EPOCHS, at_once),
        Size(few, EPOCHS, many),
        Size(2 * few, EPOCHS, many),
    ]
    large = whole.epochs >= EPOCHS and 2 * few <= whole.documents
    if config.base is not None or not large or sizes[-1].pairs > whole.pairs:
        raise InputError(
            f"a run to predict must train {EPOCHS} epochs or more on at least "
            f"{2 * few} documents of its own and measure at least {sizes[-1].pairs} "
            f"pairs, got {whole.epochs} epochs, {whole.documents} documents and "
            f"{config.pairs} pairs"
            f"{'' if config.base is None else ' with a --base'}; just run it"
        )
    with tempfile.TemporaryDirectory(prefix="infusion-cost-") as folder:
        made = []
        with progress("rehearse", len(sizes)) as advance:
            for number, size in enumerate(sizes):
                place = Path(folder) / str(number)
                made.append(_rehearse(config, suite, size, place))
                advance(1)
    return extrapolate(made, whole)


def size_of(config: RunConfig) -> Size:
    """Read a run's size off its settings.

    Args:
        config: Of the run.

    Returns:
        The size; pairs are done as many at a time as there are threads.
    """
    pairs = -(-config.pairs // config.threads) * config.threads
    return Size(config.data.train, config.train.epochs, pairs)


def extrapolate(made: list[Rehearsal], size: Size) -> Cost:
    """Fit each stage's terms, none of them negative, and evaluate them elsewhere.

    Args:
        made: Rehearsals.
        size: Of the run.

    Returns:
        Its cost.
    """
    seconds = {
        stage: _at(size, terms, made, [each.seconds.get(stage, 0.0) for each in made])
        for stage, terms in TERMS.items()
    }
    held = [float(each.peak) for each in made]
    peak = _at(size, lambda s: [1, s.documents], made, held)
    return Cost(size, seconds, round(peak), made)


def _at(size: Size, terms: Terms, made: list[Rehearsal], values: list[float]) -> float:
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([terms(each.size) for each in made], dtype=float)
    scale = rows.max(0)
    found, _ = nnls(rows / scale, np.array(values))
    return float(np.array(terms(size)) / scale @ found)


def _rehearse(config: RunConfig, suite: str | None, size: Size, out: Path) -> Rehearsal:
    """Run the command on less, in a process of its own.

    Returns:
        What it took.

    Raises:
        InputError: It failed.
    """
    warmup = min(config.train.warmup, 1)  # the preset's may be longer than this
    small = replace(
        config,
        data=replace(config.data, train=size.documents),
        train=replace(config.train, epochs=size.epochs, warmup=warmup),
        pairs=size.pairs,
    )
    out.mkdir()
    took, lines = weigh(small, suite, out)
    if took["status"] != 0:
        raise InputError(
            "a rehearsal with fewer documents must run, got status "
            f"{took['status']}: {lines[-1] if lines else 'nothing said'}"
        )
    stored = json.loads((out / "run" / "times.json").read_text())
    seconds = {stage: stored.get(stage, 0.0) for stage in TERMS}
    seconds[PAIRS] = took["seconds"] - sum(seconds.values())
    return Rehearsal(size, seconds, took["peak"])


def weigh(
    config: RunConfig, suite: str | None, out: Path
) -> tuple[dict[str, Any], list[str]]:
    """Run the command in processes of its own, and weigh them.

    Args:
        config: Settings of the run.
        suite: Of many trials, or None.
        out: An empty folder; gets the run folder ``run``.

    Returns:
        ``status``, ``seconds`` of wall time and ``peak``, bytes that the largest
        process held; and what it said, line by line.
    """
    settings, weights = out / "asked.yaml", out / "weights.json"
    settings.write_text(to_yaml(config))
    words = ["run", "--config", str(settings), "--pairs", str(config.pairs)]
    words += ["--out", str(out / "run")]
    words += [] if suite is None else ["--suite", suite]
    command = [sys.executable, weighed.__file__, str(weights)]
    command += [sys.executable, "-m", "infusion", *words]
    with (out / "said").open("w+") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, start_new_session=True
        )
        try:
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        said.seek(0)
        return json.loads(weights.read_text()), said.read().splitlines()
