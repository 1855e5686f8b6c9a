"""Ready experiments: a list of stage calls, and the settings of each preset."""

from importlib import import_module
from typing import TYPE_CHECKING

from infusion.errors import InputError

if TYPE_CHECKING:
    from infusion.presets.preset import Preset

PRESETS = ("digits", "cifar10")


def find_preset(name: str) -> "Preset":
    """Load a preset by name.

    Args:
        name: One of ``PRESETS``.

    Returns:
        Its settings, data and model.

    Raises:
        InputError: There is no such preset.
    """
    if name not in PRESETS:
        raise InputError(
            f"preset must be one of {', '.join(PRESETS)}, got {name!r}; choose one"
        )
    return import_module(f"infusion.presets.{name}").PRESET
