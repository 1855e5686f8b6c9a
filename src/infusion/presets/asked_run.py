"""Flags of ``infusion run`` to settings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from infusion.configs import RunConfig
from infusion.errors import InputError
from infusion.presets import find_class, find_preset
from infusion.runs.config_files import from_yaml
from infusion.runs.files import small_text
from infusion.runs.store import digest

EDIT = ("k", "norm", "epsilon", "steps", "step_size", "ascent", "delivery")
"""Flags of :class:`infusion.configs.EditConfig`."""


def asked_run(
    preset: str | None,
    config: Path | None,
    *,
    suite: str | None,
    scale: str | None,
    target: str | None,
    data: str | None,
    fisher: str | None,
    damping: float | None,
    damping_ratio: float | None,
    **flags: Any,
) -> tuple[RunConfig, Path]:
    """Turn what was asked for into settings and a run folder.

    Args:
        preset: Name of a preset; or
        config: the ``config.yaml`` of a run folder.
        suite: Whether many trials are asked for instead of one run.
        scale: Of the preset.
        target: By name or number; None keeps that of the settings, as every flag does.
        data: Source of the documents.
        fisher: See :class:`infusion.configs.CurvatureConfig`.
        damping: Likewise; replaces a relative one.
        damping_ratio: Likewise; replaces an absolute one.
        **flags: Other fields of :class:`infusion.configs.RunConfig` and its edit.

    Returns:
        Settings, and the folder where nothing else is asked for.

    Raises:
        InputError: Settings contradict each other or do not exist.
    """
    probe, pairs = flags["probe"], flags["pairs"]
    if suite is not None and (probe is not None or target is not None):
        raise InputError(
            "--suite must come without --probe and --target: it draws pairs of classes,"
            f" got {probe} and {target}; drop them"
        )
    if probe is not None and pairs is not None:
        raise InputError(
            f"--pairs must come without --probe, which is one, got {pairs} beside "
            f"probe {probe}; drop one of them"
        )
    settings, folder = _start(preset, config, scale)
    wrong = [name for name in EDIT if name != "k" and flags[name] is not None]
    if wrong and find_preset(settings.preset).kind == "texts":
        raise InputError(
            f"--{wrong[0].replace('_', '-')} must come with a preset of pictures, got "
            f"{settings.preset}; write e.g. tokens.steps into a config.yaml, --config"
        )
    settings = _override(
        settings,
        {
            **{name: value for name, value in flags.items() if name not in EDIT},
            "target": None if target is None else find_class(settings.preset, target),
            "data": {"source": data},
            "edit": {name: flags[name] for name in EDIT},
            "curvature": {"fisher": fisher},
        },
    )
    if damping is not None or damping_ratio is not None:
        curvature = replace(
            settings.curvature, damping=damping, damping_ratio=damping_ratio
        )
        settings = replace(settings, curvature=curvature)
    return settings, folder or named_folder(settings)


def from_preset(
    preset: str | None, config: Path | None, scale: str | None, **flags: Any
) -> RunConfig:
    """Turn a preset, or a file of settings, and a few flags to settings.

    Args:
        preset: Name of a preset; or
        config: the ``config.yaml`` of a run folder.
        scale: Of the preset.
        **flags: ``data``, its source, and fields of
            :class:`infusion.configs.RunConfig`; None keeps what is there.

    Returns:
        Settings.

    Raises:
        InputError: Settings contradict each other or do not exist.
    """
    settings, _ = _start(preset, config, scale)
    return _override(settings, {**flags, "data": {"source": flags["data"]}})


def of_usual_pairs(settings: RunConfig) -> RunConfig:
    """Ask for the preset's number of pairs where settings name none.

    Args:
        settings: Of a suite; those in its folder leave the number open.

    Returns:
        Settings with a number.
    """
    usual = find_preset(settings.preset).configs[settings.scale].pairs
    return replace(settings, pairs=settings.pairs or usual)


def named_folder(settings: RunConfig, ending: str = "") -> Path:
    """Name a run folder after its settings.

    Args:
        settings: Of the run.
        ending: Of the name.

    Returns:
        A path under ``runs/``.
    """
    name = f"{settings.preset}-{settings.scale}-seed{settings.seed}{ending}"
    return Path("runs") / f"{name}-{digest(settings)[:8]}"


def _start(
    preset: str | None, config: Path | None, scale: str | None
) -> tuple[RunConfig, Path | None]:
    """Return the settings to start from, and the run folder of a replay.

    Raises:
        InputError: Not exactly one of preset and config is given, or no such file.
    """
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
    return from_yaml(small_text(config)), replay


def _override(settings: Any, given: dict[str, Any]) -> Any:
    values = {
        name: _override(getattr(settings, name), value)
        if isinstance(value, dict)
        else value
        for name, value in given.items()
        if value is not None
    }
    return replace(settings, **values)
