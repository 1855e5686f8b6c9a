"""Flags of ``infusion attribute`` to settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.configs import AttributeConfig, Fisher, FitConfig, FittedKind
from infusion.errors import InputError
from infusion.presets import find_class, find_pictures
from infusion.runs.config_files import read_config
from infusion.runs.files import small_text
from infusion.runs.store import digest

PRESET_ONLY = ("scale", "data", "pairs", "probe", "target", "base", "device")
PAIRS = 5
DAMPING_RATIO = 0.1


def asked(
    preset: str | None,
    task: str | None,
    config: Path | None,
    *,
    curvature: FittedKind | None,
    fisher: Fisher | None,
    damping: float | None,
    damping_ratio: float | None,
    batch_size: int | None,
    skip: tuple[str, ...],
    **flags: Any,
) -> tuple[AttributeConfig, Path]:
    """Turn what was asked for into settings and a run folder.

    Args:
        preset: Name of a preset; or
        task: ``"module:function"``; or
        config: the ``config.yaml`` of a run folder.
        curvature: Kind; None keeps that of the settings, as every flag does.
        fisher: See :class:`infusion.configs.FitConfig`.
        damping: Likewise; replaces a relative one.
        damping_ratio: Likewise; replaces an absolute one.
        batch_size: Likewise.
        skip: Likewise; none keeps that of the settings.
        **flags: The other fields of :class:`infusion.configs.AttributeConfig`; the
            data by its source, the target by name or number.

    Returns:
        Settings, and the folder where nothing else is asked for.

    Raises:
        InputError: Not exactly one of the three is given, a flag does not go with it,
            or it does not exist.
    """
    given = {
        name: value
        for name, value in flags.items()
        if value is not None and value is not False  # 0 is a value
    }
    start, folder = _start(preset, task, config, given)
    if start.preset is None:
        _refuse_preset_flags(given)
    elif "target" in given:
        given["target"] = find_class(start.preset, given["target"])
    if "probe" in given:
        if "pairs" in given:
            raise InputError(
                f"--pairs must come without --probe, which is one, got {given['pairs']}"
                f" beside probe {given['probe']}; drop one of them"
            )
        given["pairs"] = 1
    if "data" in given and start.data is not None:
        given["data"] = replace(start.data, source=given["data"])
    fit: dict[str, Any] = {
        "kind": curvature,
        "fisher": fisher,
        "batch_size": batch_size,
        "skip": skip or None,
    }
    fit = {name: value for name, value in fit.items() if value is not None}
    if damping is not None or damping_ratio is not None:
        fit |= {"damping": damping, "damping_ratio": damping_ratio}
    fitted = replace(start.curvature, **fit)
    if fitted.kind == "identity":
        if fisher is not None:
            raise InputError(
                f"--fisher must come with a curvature that is fitted, got {fisher} "
                "with identity; drop one of them"
            )
        fitted = replace(fitted, fisher=None)
    settings = replace(start, curvature=fitted, **given)
    return settings, folder or _folder(settings)


def _start(
    preset: str | None, task: str | None, config: Path | None, given: dict[str, Any]
) -> tuple[AttributeConfig, Path | None]:
    """Return the settings to start from, and the run folder of a replay."""
    if sum(value is not None for value in (preset, task, config)) != 1:
        raise InputError(
            "exactly one of PRESET, --task and --config must be given, got "
            f"{preset}, {task} and {config}; try `infusion attribute digits`"
        )
    if config is not None:
        if "scale" in given:
            raise InputError(
                f"--scale must come with a PRESET, got {given['scale']} beside "
                "--config; drop it"
            )
        return _replay(config)
    if task is not None:
        fit = FitConfig(damping_ratio=DAMPING_RATIO)
        return AttributeConfig(task=task, curvature=fit), None
    assert preset is not None
    start = find_pictures(preset).configs[given.get("scale") or "small"]
    fit = FitConfig(
        fisher=start.curvature.fisher,
        damping=start.curvature.damping,
        damping_ratio=start.curvature.damping_ratio,
        batch_size=start.curvature.batch_size,
        skip=start.curvature.skip,
    )
    names = ("preset", "scale", "data", "train", "pair_seed", "seed", "device")
    same = {name: getattr(start, name) for name in names}
    settings = AttributeConfig(
        **same, curvature=fit, pairs=PAIRS, threads=start.threads
    )
    return settings, None


def _replay(config: Path) -> tuple[AttributeConfig, Path]:
    if not config.is_file():
        raise InputError(
            f"--config must name a file, got {config}; use RUN/config.yaml"
        )
    text = small_text(config)
    settings = read_config(text, AttributeConfig)
    if (settings.preset is None) == (settings.task is None):
        raise InputError(
            "exactly one of config.preset and config.task must be given, got "
            f"{settings.preset} and {settings.task}; use the config.yaml of a run "
            "folder"
        )
    if settings.preset is not None:
        find_pictures(settings.preset)
    return settings, Path(f"{config.resolve().parent}-replay")


def _refuse_preset_flags(given: dict[str, Any]) -> None:
    wrong = [f"--{name}" for name in PRESET_ONLY if name in given]
    if wrong:
        raise InputError(
            f"{', '.join(wrong)} must come with a preset, got a task of your own; drop "
            "them, the function of --task decides"
        )


def _folder(settings: AttributeConfig) -> Path:
    name = f"{settings.preset}-{settings.scale}-seed{settings.seed}"
    if settings.task is not None:
        name = settings.task.replace(":", ".")
    return Path("runs") / f"attribute-{name}-{digest(settings)[:8]}"
