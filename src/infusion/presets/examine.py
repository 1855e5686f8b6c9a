"""The doctor's findings on a preset or a user's own task, as plain values."""

from dataclasses import asdict, replace
from typing import Any

from infusion.attribution.doctor import Diagnosis, diagnose
from infusion.errors import InputError
from infusion.presets import find_preset
from infusion.presets.asked_run import from_preset
from infusion.presets.cost import Cost, predict
from infusion.presets.own import load_question
from infusion.records import Dataset, Task
from infusion.training.loop import init_model


def examine(
    preset: str | None,
    task: str | None,
    *,
    scale: str = "small",
    data: str | None = None,
    skip: tuple[str, ...] = (),
    batch_size: int = 64,
    measurements: int = 1,
    pairs: int | None = None,
    suite: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Say what curvature would cover, cost and trip over, before anything starts.

    Args:
        preset: Name of a preset; or
        task: ``"module:function"`` that returns an ``infusion.Question``.
        scale: Of the preset.
        data: Source of the preset's data.
        skip: Layers to leave out; a preset's own where none are given.
        batch_size: Documents that the stages will hold at once.
        measurements: Measurements to score together.
        pairs: Of a run to predict the cost of, if any; of a preset only.
        suite: Of that run.
        threads: Of that run.

    Returns:
        JSON value: documents, layers, skipped and refused modules, whether a fit would
        run, stages, findings; and the run's cost where one is asked for.

    Raises:
        InputError: Not exactly one of preset and task is given, or it does not exist.
    """
    if (preset is None) == (task is None):
        raise InputError(
            f"exactly one of PRESET and --task must be given, got {preset} and {task}; "
            "try `infusion doctor digits`"
        )
    if (suite, threads) != (None, None) and pairs is None:
        raise InputError(
            f"--suite and --threads must come with --pairs, got {suite} and {threads}; "
            "they say which run to predict"
        )
    if pairs is not None and preset is None:
        raise InputError(
            f"--pairs must come with a PRESET, got {pairs} beside --task {task}; "
            "drop it"
        )
    asked = None
    if pairs is not None:
        asked = from_preset(
            preset, None, scale, pairs=pairs, data=data, threads=threads
        )
    if preset is not None:
        subject, train, usual = _from_preset(preset, scale, data)
        skip = skip or usual
    else:
        assert task is not None
        question = load_question(task)
        subject, train = question.task, question.train
    found = diagnose(
        subject, train, skip=skip, batch_size=batch_size, measurements=measurements
    )
    said = {"subject": preset or task, "n": len(train), **_plain(found)}
    return said if asked is None else said | {"run": _run_cost(predict(asked, suite))}


def _run_cost(cost: Cost) -> dict[str, Any]:
    return {**asdict(cost), "total": cost.total}


def _from_preset(
    name: str, scale: str, data: str | None
) -> tuple[Task, Dataset, tuple[str, ...]]:
    preset = find_preset(name)
    config = preset.configs[scale]
    source = config.data if data is None else replace(config.data, source=data)
    train, _ = preset.load(source)
    model = init_model(
        lambda: preset.make_model(scale, config.architecture), config.seed
    )
    return preset.make_task(model, train), train, config.curvature.skip


def _plain(found: Diagnosis) -> dict[str, Any]:
    coverage = found.coverage
    layers = [
        {
            "name": layer.name,
            "modules": [use.name for use in layer.uses],
            "type": type(layer.uses[0].module).__name__,
            "parameters": layer.layout.shape[0] * layer.layout.shape[1],
            "factors": list(layer.layout.shape),
        }
        for layer in coverage.layers
    ]
    return {
        "layers": layers,
        "skipped": coverage.skipped,
        "refused": coverage.refused,
        "fits": found.fits,
        "frozen": coverage.frozen,
        "stages": [asdict(stage) for stage in found.stages],
        "findings": [asdict(finding) for finding in found.findings],
    }
