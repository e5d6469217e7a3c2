"""Plain dictionaries in, frozen dataclasses of checked settings out, and back."""

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message names the key and what it may be."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_positive(group: str, config: Any, *names: str) -> None:
    """Raises ConfigError unless these values of a configuration, or all their items, are > 0."""
    for name in names:
        value = getattr(config, name)
        least = min(value, default=0) if isinstance(value, tuple) else value
        require(
            math.isfinite(least) and least > 0, f"{group}.{name}: {value} given, must be positive"
        )


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries and lists of a configuration, as JSON and YAML hold them."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """A configuration of type `kind` from plain dictionaries.

    What a group of settings leaves out is as in the default of `kind`, not as in that of the group.

    Raises:
        ConfigError: an unknown key or a value of the wrong type, with its dotted name.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where or 'configuration'}: {values!r} given, groups of settings needed"
        )
    hints = typing.get_type_hints(kind)
    defaults = {f.name: f.default for f in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(map(str, set(values) - set(defaults)))
    if unknown:
        near = difflib.get_close_matches(unknown[0], defaults, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"{where}{unknown[0]}: unknown key, {meant}one of {', '.join(sorted(defaults))}"
        )
    filled = {
        key: merged(_plain(defaults[key]), value) if dataclasses.is_dataclass(hints[key]) else value
        for key, value in values.items()
    }
    return kind(**{k: _convert(hints[k], v, f"{where}{k}") for k, v in filled.items()})


def _plain(default: Any) -> dict[str, Any]:
    return to_dict(default) if dataclasses.is_dataclass(default) else {}


def merged(base: Any, changes: Any) -> Any:
    """The plain dictionaries of `base` with those of `changes` in them, group by group.

    A group of another `kind` replaces that of the base.
    """
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    if base.get("kind") != changes.get("kind", base.get("kind")):
        return changes
    return {**base, **{key: merged(base.get(key), value) for key, value in changes.items()}}


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _convert_union(options, value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} given, a group of settings needed")
        return from_dict(typing.cast(type, hint), value, f"{where}.")
    if typing.get_origin(hint) is Literal:
        if value not in options:
            raise ConfigError(f"{where}: {value!r} given, one of {', '.join(options)} needed")
        return value
    if isinstance(hint, types.GenericAlias):
        return _convert_tuple(options[0], options[1], value, where)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: {value!r} given, {_TYPES.get(hint, hint.__name__)} needed")
    return value


_TYPES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _convert_union(options: tuple, value: Any, where: str) -> Any:
    """Of one that may be absent, or of groups that tell by their `kind` which of them they are."""
    if type(None) in options:
        (kind,) = (option for option in options if option is not type(None))
        return None if value is None else _convert(kind, value, where)
    kinds = {option().kind: option for option in options}
    chosen = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(chosen, str) or chosen not in kinds:
        raise ConfigError(f"{where}.kind: {chosen!r} given, one of {', '.join(kinds)} needed")
    return from_dict(kinds[chosen], value, f"{where}.")


def _convert_tuple(item: Any, second: Any, value: Any, where: str) -> tuple:
    """Of tuple[item, ...], or of a pair tuple[item, item]."""
    is_list = isinstance(value, list | tuple)
    if dataclasses.is_dataclass(item) or typing.get_origin(item) is Literal:
        if not is_list:
            raise ConfigError(f"{where}: {value!r} given, a list needed")
        return tuple(_convert(item, v, f"{where}.{i}") for i, v in enumerate(value))
    admitted = (int, float) if item is float else (item,)
    is_list = is_list and all(type(v) in admitted for v in value)
    if not is_list or (second is not ... and len(value) != 2):
        needed = "a list of" if second is ... else "two"
        kind = {int: "whole numbers", float: "numbers"}.get(item, "words")
        raise ConfigError(f"{where}: {value!r} given, {needed} {kind} needed")
    return tuple(item(v) for v in value)
