"""Ready experiments: a list of stage calls, and the settings of each preset."""

from importlib import import_module
from typing import TYPE_CHECKING

from infusion.errors import InputError, check_choice

if TYPE_CHECKING:
    from infusion.presets.preset import Preset

PRESETS = ("digits", "cifar10", "caesar", "caesar29", "tinystories")


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


def find_pictures(name: str) -> "Preset":
    """Load a preset of pictures by name.

    Args:
        name: One of ``PRESETS``.

    Returns:
        Its settings, data and model.

    Raises:
        InputError: There is no such preset, or it is one of texts.
    """
    found = find_preset(name)
    if found.kind != "pictures":
        raise InputError(
            f"the preset must be one of pictures, digits or cifar10, got {name}; use "
            f"`infusion run {name}`, or --task with a function of your own"
        )
    return found


def find_class(preset: str, name: str, flag: str = "--target") -> int:
    """Look a class of a preset up.

    Args:
        preset: One of ``PRESETS``.
        name: Its name or number.
        flag: Named in the error.

    Returns:
        Its label.

    Raises:
        InputError: There is no such class, or no such preset.
    """
    names = find_preset(preset).class_names
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise InputError(
        f"{flag} must be one of {', '.join(names)} or 0…{len(names) - 1}, got "
        f"{name!r}; choose one of them"
    )
