"""Configurations to YAML and back."""

import dataclasses
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from infusion.configs import (
    AttributeConfig,
    FlipsConfig,
    LDSConfig,
    RunConfig,
    as_plain,
)
from infusion.errors import InputError

Config = TypeVar("Config", RunConfig, AttributeConfig)


def to_yaml(config: RunConfig | AttributeConfig | LDSConfig | FlipsConfig) -> str:
    """Write a configuration; :func:`from_yaml` reads a run's back.

    Args:
        config: Any run.

    Returns:
        YAML text.
    """
    plain = _lists(as_plain(config))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> RunConfig:
    """Read the configuration of a run.

    Args:
        text: Content of a ``config.yaml``.

    Returns:
        The run it replays.

    Raises:
        InputError: As :func:`read_config`.
    """
    return read_config(text, RunConfig)


def read_config(text: str, kind: type[Config]) -> Config:
    """Read a configuration.

    Args:
        text: Content of a ``config.yaml``.
        kind: What it must configure.

    Returns:
        What it replays.

    Raises:
        InputError: It is not YAML, a key is missing or unknown, or a value is of
            another type than its setting.
    """
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(
            f"a config must be YAML, got {str(error).splitlines()[0]}; use the "
            "config.yaml of a run folder"
        ) from error
    return _build(kind, plain, "config")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _build(kind: type[Any], plain: Any, where: str) -> Any:
    names = {field.name for field in dataclasses.fields(kind)}
    got = set(plain) if isinstance(plain, dict) else set()
    required = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if not isinstance(plain, dict) or got - names or required - got:
        raise InputError(
            f"{where} must have the keys {sorted(required)} and no others than "
            f"{sorted(names - required)}, got {sorted(got - names)} beside them and no "
            f"{sorted(required - got)}; use the config.yaml of a run folder"
        )
    hints = get_type_hints(kind)
    values = {}
    for name in got:
        hint, value = hints[name], plain[name]
        nested = [h for h in (hint, *get_args(hint)) if dataclasses.is_dataclass(h)]
        if nested and not (value is None and NoneType in get_args(hint)):
            value = _build(nested[0], value, f"{where}.{name}")  # pyright: ignore[reportArgumentType]
        else:
            value = _checked(hint, value, f"{where}.{name}")
        values[name] = value
    return kind(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return a plain value of the type a setting has; lists become tuples."""
    tuples = [h for h in (hint, *get_args(hint)) if get_origin(h) is tuple]
    if tuples and isinstance(value, list):
        inner_hint = get_args(tuples[0])[0]
        return tuple(_checked(inner_hint, inner, where) for inner in value)
    if not _fits(hint, value):
        wanted = getattr(hint, "__name__", None) or str(hint)
        raise InputError(
            f"{where} must be of type {wanted.replace('typing.', '')}, got {value!r}; "
            "use the config.yaml of a run folder"
        )
    return float(value) if hint is float else value


def _fits(hint: Any, value: Any) -> bool:
    if get_origin(hint) in (UnionType, Union):  # a Literal or None is the latter
        return any(_fits(choice, value) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    wanted = (int, float) if hint is float else hint
    return isinstance(wanted, (type, tuple)) and (
        isinstance(value, wanted) and isinstance(value, bool) == (hint is bool)
    )
