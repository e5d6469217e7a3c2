"""Plain dictionaries in, frozen dataclasses of checked settings out, and back.

What a setting may be is told by its type. A plain table of choices stands beside the type:

    sampler: Annotated[str, SAMPLERS]             one of the table's names
    weights: Annotated[dict[str, float], LOSSES]  names of the table, each with a value
    degradation: Annotated[Any, DEGRADATIONS]     a group; its `kind` names a row, whose `settings`
                                                  is the dataclass of the group
"""

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

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


def from_dict(settings: type[T], values: dict[str, Any], where: str = "") -> T:
    """A configuration of type `settings` from plain dictionaries.

    What a group of settings leaves out is as in the default of `settings`, not as in that of the
    group.

    Raises:
        ConfigError: an unknown key or a value of the wrong type, with its dotted name.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where or 'configuration'}: {values!r} given, groups of settings needed"
        )
    hints = typing.get_type_hints(settings, include_extras=True)
    defaults = {f.name: _default(f) for f in dataclasses.fields(typing.cast(Any, settings))}
    for name in map(str, values):
        if name not in defaults:
            raise ConfigError(f"{where}{unknown(name, defaults, 'key')}")
    filled = {
        key: merged(to_dict(default), values[key]) if dataclasses.is_dataclass(default) else value
        for key, value in values.items()
        for default in (defaults[key],)
    }
    return settings(**{k: _convert(hints[k], v, f"{where}{k}") for k, v in filled.items()})


Renames = Mapping[str, "str | tuple[str, Callable[[Any], Any]]"]
"""Dotted name of before -> that of now, or that of now and what makes the value of now."""


def renamed(values: Mapping[str, Any], renames: Renames) -> dict[str, Any]:
    """A copy of plain dictionaries, with the names and values of now for those of before.

    A value that cannot be understood stays as it is, to be refused by its name of now.
    """
    new: dict[str, Any] = {}
    for name, value in leaves(values).items():
        name, value = renamed_key(name, value, renames)
        *groups, last = name.split(".")
        node = new
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return new


def renamed_key(name: str, value: Any, renames: Renames) -> tuple[str, Any]:
    """A dotted name and its value, as they are called now."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):  # of a group, too
        new = renames.get(".".join(parts[:end]))
        if new is None:
            continue
        prefix, change = (new, None) if isinstance(new, str) else new
        with contextlib.suppress(AttributeError, KeyError, TypeError):
            value = value if change is None else change(value)
        return ".".join([prefix, *parts[end:]]), value
    return name, value


def leaves(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Dotted names and values; lists and empty groups count as one value each."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= leaves(value, f"{where}{name}.")
        else:
            found[f"{where}{name}"] = value
    return found


def unknown(name: str, known: Collection[str], what: str) -> str:
    """What to say of a name that is none of the `known` ones."""
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{name}: unknown {what}, {meant}one of {', '.join(sorted(known))}"


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


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
    if typing.get_origin(hint) is Annotated:
        return _convert_choice(options[0], options[1], value, where)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (kind,) = (option for option in options if option is not type(None))
        return None if value is None else _convert(kind, value, where)
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


def _convert_choice(hint: Any, table: Mapping[str, Any], value: Any, where: str) -> Any:
    """Of a table's names, of values by such names, or of a group whose `kind` is such a name."""
    if hint is str:
        if not isinstance(value, str) or value not in table:
            raise ConfigError(f"{where}: {value!r} given, one of {', '.join(table)} needed")
        return value
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: {value!r} given, a group of settings needed")
        for name in map(str, value):
            if name not in table:
                raise ConfigError(f"{where}.{unknown(name, table, 'key')}")
        (_, item) = typing.get_args(hint)
        return {name: _convert(item, v, f"{where}.{name}") for name, v in value.items()}
    values = {} if value is None else value
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {value!r} given, a group of settings needed")
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in table:
        raise ConfigError(f"{where}.kind: {kind!r} given, one of {', '.join(table)} needed")
    return from_dict(table[kind].settings, values, f"{where}.")


def _convert_tuple(item: Any, second: Any, value: Any, where: str) -> tuple:
    """Of tuple[item, ...], or of a pair tuple[item, item]."""
    is_list = isinstance(value, list | tuple)
    if dataclasses.is_dataclass(item) or typing.get_origin(item) in (Literal, Annotated):
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
