"""Ready experiments: a list of stage calls, and the settings of each preset."""

from importlib import import_module
from typing import TYPE_CHECKING

from infusion.errors import check_choice

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
    check_choice("preset", name, PRESETS)
    return import_module(f"infusion.presets.{name}").PRESET
