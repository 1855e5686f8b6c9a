"""Find the user's own model: a function that returns a question."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infusion.errors import InputError
from infusion.questions import Question


def load_question(place: str) -> Question:
    """Import and call the function that returns a question.

    Args:
        place: ``"module:function"``, from the current folder too.

    Returns:
        What the function returned. Whatever it raises by itself is not caught.

    Raises:
        InputError: There is no such module or function, it needs arguments, or it
            returns something else.
    """
    function = _function(place)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise InputError(
            f"--task {place} must take no arguments, got one where {error}; give them "
            "defaults"
        ) from error
    question = function()
    if not isinstance(question, Question):
        raise InputError(
            f"--task {place} must return an infusion.Question, got "
            f"{type(question).__name__}; return inf.Question(task, train, "
            "measurements={...})"
        )
    return question


def _function(place: str) -> Callable[[], Any]:
    module_name, colon, name = place.partition(":")
    if not (colon and name.isidentifier() and _is_dotted(module_name)):
        raise InputError(
            f"--task must be module:function, both names, got {place!r}; for "
            "question() in own.py of this folder write own:question"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"--task must name a module that can be imported, got no {error.name} in "
            f"{here} and the installed packages; change folder or the name"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [n for n, f in vars(module).items() if inspect.isfunction(f)]
        raise InputError(
            f"--task must name a function of {module_name}, got no {name} there; it "
            f"has {', '.join(own[:8]) or 'none'}"
        )
    return function


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
