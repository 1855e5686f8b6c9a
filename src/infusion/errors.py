"""The failures a caller may want to catch.

Every message says what must hold, what it got, and what to do about it.
"""

import re
from importlib.util import find_spec
from numbers import Integral


class InfusionError(Exception):
    """Anything this package refuses to do; the command ends with status 2."""


class InputError(InfusionError, ValueError):
    """A value handed in by the user breaks a stated condition."""


def check_choice(name: str, got: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that is none of the choices.

    Args:
        name: What is chosen.
        got: The value.
        choices: All there are.

    Raises:
        InputError: It is none of them.
    """
    if got not in choices:
        listed = ", ".join(map(str, choices))
        raise InputError(f"{name} must be one of {listed}, got {got!r}; choose one")


def check_whole(name: str, got: object, least: int = 1) -> None:
    """Refuse a count that is no whole number, or too small.

    Args:
        name: What is counted.
        got: The value.
        least: Smallest count that makes sense.

    Raises:
        InputError: It is none.
    """
    whole = isinstance(got, Integral) and not isinstance(got, bool)
    if not whole or int(got) < least:  # pyright: ignore[reportArgumentType]
        raise InputError(
            f"{name} must be a whole number ≥ {least}, got {got!r}; give one"
        )


def check_type(name: str, got: object, kind: type) -> None:
    """Refuse a value of another type.

    Args:
        name: What it is.
        got: The value.
        kind: A type of this package.

    Raises:
        InputError: It is of another type.
    """
    if not isinstance(got, kind):
        raise InputError(
            f"{name} must be an infusion.{kind.__name__}, got {type(got).__name__}; "
            "pass the arguments in order, or by name"
        )


def check_installed(library: str, extra: str) -> None:
    """Refuse to go on without a library that only some of the package needs.

    Args:
        library: As it is imported.
        extra: Of this package, which installs it.

    Raises:
        InputError: It is not installed.
    """
    if find_spec(library) is None:
        raise InputError(
            f"this needs the library {library}, got none installed; "
            f"install this package with its extra, e.g. pip install -e '.[{extra}]'"
        )


class NotApplicableError(InputError):
    """A detector that has nothing to read in these documents or this model."""


class ArtefactError(InfusionError):
    """A stored file is truncated, altered, or was made from other inputs."""


class UncoveredLayerError(InfusionError):
    """A trainable layer that the curvature cannot represent was not skipped."""


class DivergedError(InfusionError):
    """A training loss or a score became NaN or infinite."""


class TooFewPairsError(InputError):
    """A base model has fewer pairs than were asked for."""


class NotConvergedError(InfusionError):
    """An iterative solve stopped before it reached its tolerance."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed: torch says so in a RuntimeError.

    Args:
        error: Raised by anything.

    Returns:
        True where memory was short, of this machine or of its GPU.
    """
    said = str(error)
    return isinstance(error, MemoryError) or any(
        words in said for words in ("can't allocate memory", "out of memory")
    )


def one_line(error: BaseException) -> str:
    """Say what another library raised in one line.

    Args:
        error: Its error.

    Returns:
        Its message without line ends and addresses of objects, 200 characters at most.
    """
    said = re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", " ".join(str(error).split()))
    return said[:200]
