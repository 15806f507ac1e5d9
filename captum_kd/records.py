"""Checks parsed JSON against the types of the record that it should be."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

_NAMED = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}
# Longer whole numbers can neither be printed nor made a float.
_LARGEST = 2**63


def check_record(value: object, kind: Any, where: str, field: str = "", *, finite: bool = True) -> None:
    """Check that parsed JSON has the form of a type.

    Args:
        value: What ``json.loads`` returned.
        kind: A type: a ``TypedDict``, a dataclass, ``dict[str, T]``, ``Mapping[str, T]``, ``list[T]``,
            ``tuple[T, ...]``, ``tuple[S, T]``, a ``Literal``, a union of these, str, int, float, bool, None,
            or Any. Fields of a dataclass that have a default may be missing.
        where: What messages call the value, for instance "run.json".
        field: The keys that lead to the value there.
        finite: Refuse numbers that are NaN or infinite.

    Raises:
        ValueError: The value has another form; the message names the field and what is needed there.

    Example:
        >>> check_record({"a": [1, 2.5]}, dict[str, list[float]], "run.json")
        >>> check_record({"a": [1, "2"]}, dict[str, list[float]], "run.json")
        Traceback (most recent call last):
        ValueError: run.json: a[1] must be a finite number, got '2'.
    """
    origin, inner = get_origin(kind), get_args(kind)
    check = functools.partial(check_record, where=where, finite=finite)
    if kind is Any:
        return
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        content = _fields(value, kind, where, field)
        hints = get_type_hints(kind)
        for key, one in content.items():
            check(one, hints[key], field=_dotted(field, key))
    elif origin in (dict, Mapping):
        for key, one in _mapping(value, where, field).items():
            check(one, inner[1], field=_dotted(field, key))
    elif origin in (list, tuple, Sequence):
        if not isinstance(value, list):
            raise _wrong(where, field, "a list", value)
        parts = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value)
        if len(parts) != len(value):
            raise _wrong(where, field, f"a list of {len(parts)}", value)
        for i, (one, part) in enumerate(zip(value, parts, strict=True)):
            check(one, part, field=f"{field}[{i}]")
    elif origin in (Union, types.UnionType):
        _check_one_of(value, inner, functools.partial(check, field=field))
    elif origin is Literal:
        if value not in inner:
            raise _wrong(where, field, f"one of {', '.join(map(repr, inner))}", value)
    elif not _is_plain(value, kind, finite):
        raise _wrong(where, field, _NAMED.get(kind, "null"), value)


def _is_plain(value: object, kind: Any, finite: bool) -> bool:
    """Whether a value that holds no others is of a type; true and false are no numbers."""
    if kind is type(None):
        return value is None
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if isinstance(value, float) and not finite:
            return True
        return abs(value) <= sys.float_info.max  # false for NaN, too
    if kind is int:
        return type(value) is int and abs(value) < _LARGEST
    return type(value) is kind


def _check_one_of(value: object, kinds: tuple[Any, ...], check: Callable[[object, Any], None]) -> None:
    if value is None and type(None) in kinds:
        return
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[:-1]:
        try:
            return check(value, kind)
        except ValueError:
            continue
    check(value, others[-1])


def _fields(value: object, kind: Any, where: str, field: str) -> dict[str, Any]:
    """The fields of a mapping, none unknown and none missing."""
    hints = get_type_hints(kind)
    if is_typeddict(kind):
        needed = set(kind.__required_keys__)
    else:
        missing = dataclasses.MISSING
        needed = {
            one.name
            for one in dataclasses.fields(kind)
            if one.default is missing and one.default_factory is missing
        }
    content = _mapping(value, where, field)
    for key in content:
        if key not in hints:
            raise ValueError(
                f"{where}: {_dotted(field, key)!r} is no known field; known are {', '.join(hints)}."
            )
    for key in sorted(needed):
        if key not in content:
            raise ValueError(f"{where}: the field {_dotted(field, key)!r} is missing.")
    return content


def _mapping(value: object, where: str, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, field, "a mapping", value)
    return value


def _dotted(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key


def _wrong(where: str, field: str, needed: str, value: object) -> ValueError:
    shown = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    if len(shown) > 60:
        shown = shown[:60] + "..."
    return ValueError(f"{where}: {field or 'the content'} must be {needed}, got {shown}.")
