"""The modules that a function of the user's runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

# How far the modules of a function are looked for, in containers of how many, and whose functions not.
_DEPTH = 4
_MOST_ITEMS = 64
_LIBRARIES = ("torch", "torchvision", "timm", "captum", "numpy")


def modules_of(model: Callable[..., Any]) -> list[nn.Module]:
    """Return a module in a list, or the modules that a function refers to.

    These are what it is bound to, its default arguments, and the variables of its surroundings that it names,
    also inside containers, other functions and objects.

    Args:
        model: A module or a function.

    Example:
        >>> model = nn.ReLU()
        >>> modules_of(lambda x: 2 * model(x))
        [ReLU()]
    """
    if isinstance(model, nn.Module):
        return [model]
    found: dict[nn.Module, None] = {}
    _collect(model, found, set(), _DEPTH)
    return list(found)


def _collect(value: Any, found: dict[nn.Module, None], seen: set[int], depth: int) -> None:
    """Collect the modules that a value holds or refers to."""
    if id(value) in seen or depth < 0:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        found[value] = None
        return
    for part in _parts(value):
        _collect(part, found, seen, depth - 1)


def _parts(value: Any) -> list[Any]:
    """What a value holds or refers to."""
    if isinstance(value, (type, ModuleType, Tensor)):
        return []
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        if (value.__module__ or "").partition(".")[0] in _LIBRARIES:
            return []
        names = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*_cells(value), *defaults, *names, *vars(value).values()]
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= _MOST_ITEMS else []
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value) if len(value) <= _MOST_ITEMS else []
    return [*getattr(value, "__dict__", {}).values(), vars(type(value)).get("__call__")]


def _names(code: CodeType) -> set[str]:
    """The names of global variables in a function's code and in that of the functions inside it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _cells(function: FunctionType) -> list[Any]:
    """The values of the variables that a function takes from the function around it."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return values
