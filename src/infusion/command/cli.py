"""The command ``infusion``: reads the command line, calls a verb, sets the status."""

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial, wraps
from itertools import groupby
from typing import Any

import tyro

from infusion.command.verbs import COMMANDS
from infusion.errors import InfusionError, InputError, is_out_of_memory, one_line
from infusion.memory import keep_freed_memory


class _TerminatedError(KeyboardInterrupt):
    """Somebody asked this process to end."""


def main() -> None:
    """Run the command line; wrong input ends with one line and status 2."""
    signal.signal(signal.SIGTERM, _terminated)
    # Waiting threads sleep: spinning ones stall each other on a busy machine (measured:
    # 60 times slower). Read when torch is imported, which the commands do later.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without ∞ shows a ?
        sys.stdout.reconfigure(errors="replace")
    try:
        _parse()()
    except InfusionError as error:
        sys.stderr.write(f"infusion: {error}\n")
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output has read enough
        os._exit(141)
    except OSError as error:
        place = "" if error.filename is None else f" at {error.filename}"
        sys.stderr.write(
            "infusion: the system must let it read and write, got "
            f"{error.strerror or one_line(error)}{place}; mend that and run the same "
            "command to go on\n"
        )
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(
            f"infusion: memory must hold what a stage needs, got {one_line(error)}; "
            "close other programs, ask for fewer --threads or --workers or a smaller "
            "batch, and run the same command to go on\n"
        )
        sys.exit(2)
    except _TerminatedError:
        sys.stderr.write("infusion: terminated; run the same command to go on\n")
        sys.exit(143)
    except KeyboardInterrupt:
        sys.stderr.write("infusion: interrupted; run the same command to go on\n")
        sys.exit(130)


def _terminated(*_: object) -> None:
    raise _TerminatedError


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
    command = next((word for word in sys.argv[1:2] if word in COMMANDS), "run")
    return f"{paragraphs[0].rstrip('.')}; {advice}try `infusion {command} --help`"


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Parse now, run later: what a command prints is no parse error."""

    @wraps(command)
    def call(*args: Any, **flags: Any) -> Callable[[], None]:
        return partial(command, *args, **flags)

    return call


if __name__ == "__main__":
    main()
