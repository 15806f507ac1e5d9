"""A digest of everything that a model's output depends on, to tell whether something kept is still right."""

from __future__ import annotations

import enum
import functools
import hashlib
import logging
import os
import re
import site
import sys
import sysconfig
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle

# More values than any network has: behind one of them hangs something large, such as a trainer.
_MOST_VALUES = 300_000
_SIMPLE = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(...),
    type(NotImplemented),
    range,
    slice,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    np.dtype,
    Path,
    types.GenericAlias,
    types.UnionType,
)
# Whatever they hold, no output depends on it.
_WITHOUT_STATE = (RemovableHandle, type(threading.Lock()), type(threading.RLock()))
# What they hold is too much to look at, and no part of a model.
_TOO_LARGE = (DataLoader, Dataset, torch.optim.Optimizer)
# What no output in evaluation mode depends on, or what is looked at in another way.
_IGNORED = {
    "training",
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_non_persistent_buffers_set",
    "_compiled_call_impl",
}


class UnknownStateError(ValueError):
    """Something belongs to a model whose state cannot be read, such as an open file or a generator."""


class Fingerprint(NamedTuple):
    """Digests, in hexadecimal digits that are the same in every process.

    Attributes:
        state: Of all but the weights.
        weights: Of the bytes of the parameters and buffers of modules; empty if they were not read.
    """

    state: str
    weights: str


def fingerprint(*values: Any, weights: bool = True) -> Fingerprint:
    """A digest of models and plain values; equal digests mean equal outputs for equal inputs.

    It covers the bytes of parameters, buffers and other tensors, the classes of all modules, their
    attributes and forward hooks, and the code of classes and functions of the user's own, with the values
    that it takes from outside. Installed packages are known by their versions and by the names of what they
    define. Whether modules are in training mode and which parameters require gradients does not count.

    It reads every byte of the weights. For the 100 MB of a ResNet-50 that takes one core 0.15 s, about as
    long as the forward pass of one image; on an accelerator it takes a few passes over the weights there.

    Args:
        *values: Modules, tensors, functions, and what they are made of.
        weights: Read the bytes of parameters and buffers.

    Returns:
        The digests.

    Raises:
        UnknownStateError: The state of something cannot be read; the message names it.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> before = fingerprint(model)
        >>> model.weight.data[0, 0] += 1
        >>> fingerprint(model) == before
        False
    """
    reader = _Reader(weights)
    for hooks in (torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks):
        reader.put(list(hooks.values()), "a hook of all modules")
    for value in values:
        reader.put(value, type(value).__name__)
    return Fingerprint(reader.digest.hexdigest(), reader.weights.hexdigest() if reader.weights else "")


class _Reader:
    """Walks through values and adds to a digest what it finds."""

    def __init__(self, weights: bool) -> None:
        # The fastest on processors that have instructions for it.
        self.digest = hashlib.sha256()
        self.weights = hashlib.sha256() if weights else None
        # With the value, so that no other gets its id.
        self.seen: dict[int, tuple[int, Any]] = {}
        self.classes: set[type] = set()
        self.count = 0

    def add(self, *texts: object) -> None:
        for text in texts:
            given = str(text).encode()
            self.digest.update(b"%d:" % len(given) + given)

    def put(self, value: Any, where: str) -> None:
        """Add a value, of which ``where`` says in a message where it was found."""
        self.count += 1
        if self.count > _MOST_VALUES:
            raise UnknownStateError(f"{where.split('.')[0]} holds too many values to be looked at.")
        if isinstance(value, _SIMPLE):
            self.add(type(value).__name__, repr(value))
            return
        if not isinstance(value, tuple):  # whether equal tuples are one object is up to the interpreter
            if id(value) in self.seen:
                self.add("again", self.seen[id(value)][0])
                return
            self.seen[id(value)] = len(self.seen), value
        self.add(type(value).__module__, type(value).__qualname__)
        if isinstance(value, Tensor):
            self.tensor(value, where, self.digest)
        elif isinstance(value, nn.Module):
            self.module(value, where)
        elif isinstance(value, type):
            self.type(value, where)
        elif not self.function(value, where) and not self.container(value, where):
            self.object(value, where)

    def tensor(self, value: Tensor, where: str, digest: hashlib._Hash | None) -> None:
        self.add(value.dtype, tuple(value.shape), value.device)
        unreadable = f"{where} is a {type(value).__name__} whose bytes cannot be read."
        if value.layout != torch.strided or type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise UnknownStateError(unreadable)
        try:
            plain = value.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
            if digest is not None and plain.device.type == "cpu":
                digest.update(plain.numpy().data)
            elif digest is not None:
                digest.update(repr(_checksums(plain)).encode())
        except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise UnknownStateError(unreadable) from error

    def module(self, value: nn.Module, where: str) -> None:
        if isinstance(value, torch.jit.ScriptModule):
            raise UnknownStateError(f"{where} is a scripted module, whose code cannot be read.")
        if hasattr(value, "_orig_mod"):  # compiled: it gives what the module inside gives
            self.put(value._orig_mod, where)
            return
        self.type(type(value), where)
        own = vars(value)
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = own.get(name, {})
            options = [own.get(f"{name}_with_kwargs", {}), own.get(f"{name}_always_called", {})]
            for key, hook in hooks.items():
                self.add(name, *(key in option for option in options))
                self.put(hook, f"{where} (a hook)")
        for name in ("_parameters", "_buffers", "_modules"):
            for key, part in own.get(name, {}).items():
                self.add(name, key)
                if isinstance(part, Tensor) and id(part) not in self.seen:
                    self.seen[id(part)] = len(self.seen), part
                    self.tensor(part, f"{where}.{key}", self.weights)
                else:
                    self.put(part, f"{where}.{key}")
        self.attributes(own, where, _IGNORED)

    def attributes(self, values: Mapping[str, Any], where: str, ignored: set[str]) -> None:
        for name in sorted(values):
            if name not in ignored:
                self.add(name)
                self.put(values[name], f"{where}.{name}")

    def type(self, value: type, where: str) -> None:
        """A class: what it is called, and if it is the user's own, what it and its bases define."""
        for one in value.__mro__:
            self.add(one.__module__, one.__qualname__, _version(one.__module__))
            if one in self.classes:
                continue
            self.classes.add(one)
            if not _installed(one.__module__):
                # Other special names are Python's own records, such as docstrings and annotations.
                kinds = (types.FunctionType, staticmethod, classmethod, property)
                own = {n: v for n, v in vars(one).items() if isinstance(v, kinds) or n[:2] + n[-2:] != "____"}
                self.attributes(own, f"{where} ({one.__name__})", {"_abc_impl"})
            elif "forward" in vars(one):  # someone may have put another one there
                self.put(vars(one)["forward"], f"{where} ({one.__name__}.forward)")

    def function(self, value: Any, where: str) -> bool:
        if isinstance(value, types.FunctionType):
            self.add(value.__module__, value.__qualname__)
            if not _installed(value.__module__) or value.__closure__ or "<lambda>" in value.__qualname__:
                self.code(value.__code__)
                self.put([value.__defaults__, value.__kwdefaults__], where)
                for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                    try:
                        self.put(cell.cell_contents, f"{where}, which uses {name}")
                    except ValueError:  # not assigned yet
                        self.add("empty")
                if not _installed(value.__module__):
                    self.globals(value, where)
        elif isinstance(value, types.MethodType):
            self.put(value.__func__, where)
            self.put(value.__self__, where)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self.add(value.__qualname__)
            owner = getattr(value, "__self__", None)
            if not isinstance(owner, (types.ModuleType, type)):
                self.put(owner, where)
        elif isinstance(value, (types.MethodDescriptorType, types.WrapperDescriptorType)):
            self.add(value.__objclass__.__module__, value.__objclass__.__qualname__, value.__qualname__)
        elif isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            self.add(value.__qualname__)
        elif isinstance(value, (staticmethod, classmethod)):
            self.put(value.__func__, where)
        elif isinstance(value, property):
            self.put([value.fget, value.fset, value.fdel], where)
        elif isinstance(value, functools.partial):
            self.put([value.func, value.args, value.keywords], where)
        elif isinstance(value, torch.jit.ScriptFunction):
            self.add(value.graph)
        elif hasattr(value, "cache_info") and hasattr(value, "__wrapped__"):  # by functools.cache
            self.put(value.__wrapped__, where)
        elif isinstance(value, (types.ModuleType, logging.Logger)):
            self.add(value.__name__ if isinstance(value, types.ModuleType) else value.name)
        else:
            return False
        return True

    def code(self, code: types.CodeType) -> None:
        self.add(code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.add(sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant))

    def globals(self, function: types.FunctionType, where: str) -> None:
        """What a function takes from the module that it stands in."""
        names = sorted(set(_names(function.__code__)))
        for name in names:
            if name in function.__globals__:
                value = function.__globals__[name]
                self.add(name)
                self.put(value, f"{where}, which uses {name}")
                if isinstance(value, types.ModuleType) and not _installed(value.__name__):
                    for part in names:
                        if part in vars(value):
                            self.put(vars(value)[part], f"{where}, which uses {name}.{part}")

    def container(self, value: Any, where: str) -> bool:
        if isinstance(value, enum.Enum):
            self.add(value.name)
        elif isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            self.add(value.dtype.str, value.shape)
            self.digest.update(value.tobytes())
        elif isinstance(value, bytearray):
            self.add(value.hex())
        elif isinstance(value, re.Pattern):
            self.add(value.pattern, value.flags)
        elif isinstance(value, torch.Generator):
            self.put(value.get_state(), where)
        elif isinstance(value, weakref.ref):
            self.put(value(), where)
        elif isinstance(value, (list, tuple, deque, Mapping)):
            self.add(len(value))
            items: Any = value
            if isinstance(value, Mapping):
                items = [part for item in value.items() for part in item]
            for index, part in enumerate(items):
                self.put(part, f"{where}[{index}]")
        elif isinstance(value, (set, frozenset)):
            parts = []
            for part in value:
                inner = _Reader(True)
                inner.put(part, where)
                self.count += inner.count
                assert inner.weights is not None
                parts.append(inner.digest.hexdigest() + inner.weights.hexdigest())
            self.add(*sorted(parts))
        else:
            return False
        if hasattr(value, "__dict__") and not isinstance(value, enum.Enum):
            self.attributes(vars(value), where, set())
        return True

    def object(self, value: Any, where: str) -> None:
        """An object without hidden state: attributes, in a dictionary or in slots, are all there is."""
        kind = type(value)
        slots = [name for one in kind.__mro__ for name in _slots(one)]
        offsets = (kind.__dictoffset__, kind.__weakrefoffset__)
        pointers = len(slots) + sum(offset > 0 for offset in offsets)
        # Whatever is larger than its slots is made in C and holds something else.
        in_c = kind.__itemsize__ or kind.__basicsize__ > object.__basicsize__ + pointers * tuple.__itemsize__
        if isinstance(value, _TOO_LARGE) or (in_c and not isinstance(value, _WITHOUT_STATE)):
            raise UnknownStateError(f"{where} is a {kind.__name__}, whose state cannot be read.")
        if isinstance(value, _WITHOUT_STATE):
            return
        self.type(kind, where)
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        self.attributes({**held, **getattr(value, "__dict__", {})}, where, set())


def _slots(one: type) -> Iterator[str]:
    slots = vars(one).get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else slots:
        if name not in ("__dict__", "__weakref__"):
            yield f"_{one.__name__.lstrip('_')}{name}" if name.startswith("__") else name


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


@functools.cache
def _installed_under() -> tuple[str, ...]:
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({str(Path(path).resolve()) + os.sep for path in paths if path})


@functools.cache
def _installed(module: str | None) -> bool:
    """Whether a module is the interpreter's or of an installed package, and not the user's own."""
    root = (module or "").split(".")[0]
    # This package may be installed in editable form, elsewhere.
    if root in sys.stdlib_module_names or root in ("torch", "captum_kd"):
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is not None and str(Path(file).resolve()).startswith(_installed_under())


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.split(".")[0]), "__version__", ""))


def _checksums(content: Tensor) -> tuple[int, int]:
    """Two sums of the bytes of a tensor, mixed with their positions, on the device that holds it.

    Integers of 64 bits wrap around, as a hash wants. A change of any value changes a sum; several changes
    would have to undo each other's mixed values, by chance once in 2^128.
    """
    padded = torch.nn.functional.pad(content, (0, -len(content) % 8)).view(torch.int64)
    first, second = 0, 0
    for start in range(0, len(padded), 2**22):
        part = padded[start : start + 2**22]
        mixed = part ^ (torch.arange(start, start + len(part), device=part.device) * -7046029254386353131)
        for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
            mixed = (mixed ^ ((mixed >> shift) & (2 ** (64 - shift) - 1))) * factor
        first += int(mixed.sum())
        second += int(((mixed ^ (mixed >> 31)) * -7046029254386353131 ^ (mixed >> 13)).sum())
    return first, second
