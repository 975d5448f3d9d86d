"""Typed fields of the configuration: their types, defaults, comments, and values read from text."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Iterable
from typing import Any

from rl_system.errors import SettingsError


@dataclasses.dataclass(frozen=True)
class Field:
    """One setting of a section."""

    name: str
    kind: Any  # its type as written, for example `float | None`
    default: Any
    comment: str  # what its source line says about it; the help text


@functools.cache
def fields_of(section: type) -> dict[str, Field]:
    """Return the fields of a settings dataclass by name, in their order."""
    kinds = typing.get_type_hints(section)
    comments: dict[str, str] = {}
    for ancestor in reversed(section.__mro__[:-1]):
        comments |= _comments(ancestor)
    found = {}
    for item in dataclasses.fields(section):
        factory: Any = item.default_factory
        default = factory() if item.default is dataclasses.MISSING else item.default
        found[item.name] = Field(item.name, kinds[item.name], default, comments.get(item.name, ""))
    return found


def _comments(section: type) -> dict[str, str]:
    """Read the comment behind or above each field in the source of the class."""
    try:
        source = textwrap.dedent(inspect.getsource(section))
    except (OSError, TypeError):
        return {}
    lines = source.splitlines()
    comments = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        assert node.end_lineno is not None
        rest = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
        words = [rest.removeprefix("#").strip()] if rest.startswith("#") else []
        above = node.lineno - 2
        if not words:
            while above >= 0 and lines[above].strip().startswith("#"):
                words.insert(0, lines[above].strip().removeprefix("#").strip())
                above -= 1
        comments[node.target.id] = " ".join(words)
    return comments


def kind_text(kind: Any) -> str:
    """Return a type in words for an error or the help: "a number", "a list of whole numbers"."""
    options, optional = _options(kind)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words = []
    for option in options:
        if typing.get_origin(option) is tuple:
            element = names[typing.get_args(option)[0]]
            words.append(f"a list of {element.removeprefix('a ')}{'s' * (element[0] == 'a')}")
        elif typing.get_origin(option) is typing.Literal:
            words.append("one of " + ", ".join(map(str, typing.get_args(option))))
        else:
            words.append(names.get(option, str(option)))
    return " or ".join([*words, *(["null"] if optional else [])])


def read_value(path: str, kind: Any, value: Any) -> Any:
    """Return `value` (from YAML, JSON or Python) as the type of a field.

    Whole floats pass as integers, text such as "1e-3" as a number, and a list, a tuple or text with
    commas as a tuple.

    Args:
        path: Name of the field with its section, for the error.
        kind: Type of the field.
        value: What was given.

    Raises:
        SettingsError: The value is not of that type; the message says what is expected.
    """
    options, optional = _options(kind)
    if value is None and optional:
        return None
    for option in options:
        converted = _convert(option, value)
        if converted is not None:
            return converted
    raise SettingsError(f"{path} is {value!r}; expected {kind_text(kind)}.")


def nearest(name: str, known: Iterable[str], count: int = 1) -> str:
    """Return ` Did you mean ...?` with the nearest known names, or nothing if none is near."""
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _options(kind: Any) -> tuple[list[Any], bool]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = list(typing.get_args(kind))
        return [m for m in members if m is not type(None)], type(None) in members
    return [kind], False


def _convert(kind: Any, value: Any) -> Any:
    """Return the value as `kind`, or None where it is none."""
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            value = [value]
        parts = [_convert(typing.get_args(kind)[0], part) for part in value]
        return None if None in parts else tuple(parts)
    if typing.get_origin(kind) is typing.Literal:
        return value if value in typing.get_args(kind) else None
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        if isinstance(value, str):
            return value
        return str(value) if type(value) in (int, float) else None
    if kind in (int, float):
        return _number(kind, value)
    return value if isinstance(value, kind) else None


def _number(kind: type, value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value.replace("_", "")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if math.isnan(number):
        return None
    if kind is float:
        return number
    if isinstance(value, int):
        return int(value)
    return int(number) if number.is_integer() else None
