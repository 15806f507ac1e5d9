"""Running hooks for the length of one forward pass, and leaving models as they were found.

Threads may explain the same model at the same time: each waits until the model is as it was found.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from captum_kd.models.functions import modules_of

State = TypeVar("State")


@contextmanager
def hooked(
    layers: Iterable[nn.Module],
    callback: Callable[[int, Any], Any],
    *,
    attribute_to_layer_input: bool = False,
) -> Iterator[None]:
    """Call a function at every call of a layer inside the block; the hooks are removed on exit.

    Calls by other threads are left out, unless they run copies of the layer, as DataParallel does.

    Args:
        layers: The layers.
        callback: Called with the position of the layer in ``layers`` and its output. A return value other
            than None replaces the output.
        attribute_to_layer_input: Call it before the layer runs, with the tuple of its positional arguments;
            if there are none, with the tuple of its keyword arguments' values. A return value other than
            None, a tuple of the same length, replaces them.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Identity())
        >>> with hooked(model, lambda index, output: print(index, output)):
        ...     _ = model(torch.tensor([-1.0, 1.0]))
        0 tensor([0., 1.])
        1 tensor([0., 1.])
    """
    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            register = _before_layer if attribute_to_layer_input else _after_layer
            stack.callback(register(layer, index, callback).remove)
        yield


@contextmanager
def undisturbed(*models: Callable[..., Any]) -> Iterator[None]:
    """Run models in evaluation mode and uncompiled inside the block, by one thread at a time.

    Training flags and the state of the random number generators are restored on exit. Of a function, the
    modules that it refers to are run so, and others as soon as it calls them.

    Args:
        *models: Modules and functions.

    Example:
        >>> model = nn.Dropout()
        >>> with undisturbed(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    roots = [root for model in models for root in modules_of(model)]
    modules = list(dict.fromkeys(module for root in roots for module in root.modules()))
    hidden = any(not modules_of(model) for model in models)
    with ExitStack() as stack:
        if hidden:
            stack.enter_context(_hidden_models)
        stack.enter_context(_held(modules))
        tensors = [t for m in modules for t in m.parameters(recurse=False)]
        for device in sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"}):
            stack.enter_context(_cuda_random_state(device).kept())
        stack.enter_context(_random_state.kept())
        stack.enter_context(uncompiled(*roots))
        # A frozen TorchScript module has no such flag.
        flags = [(module, module.training) for module in modules if hasattr(module, "training")]
        stack.callback(_restore, flags)
        for module, _ in flags:
            module.training = False
        if not all(isinstance(model, nn.Module) for model in models):
            stack.callback(register_module_forward_pre_hook(_to_evaluation(flags)).remove)
        yield


@contextmanager
def uncompiled(*models: Callable[..., Any]) -> Iterator[None]:
    """Run compiled modules without their graphs inside the block.

    A compiled graph does not run hooks that were registered after compilation.

    Args:
        *models: Modules; functions are ignored.
    """
    modules = [m for model in models if isinstance(model, nn.Module) for m in model.modules()]
    with ExitStack() as stack:
        if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
            stack.enter_context(_stance.kept())
        yield


def sample_count(inputs: tuple[Tensor, ...]) -> int:
    """Return the number of samples of a model's inputs.

    Raises:
        TypeError: An input is not a tensor.
        ValueError: An input is a scalar tensor.
    """
    for value in inputs:
        if not isinstance(value, Tensor):
            raise TypeError(f"inputs must be a tensor or a tuple of tensors, got {type_of(value)}.")
        if value.dim() == 0:
            raise ValueError("inputs must have the samples in dimension 0, got a scalar tensor.")
    return len(inputs[0])


def as_tuple(arguments: object) -> tuple[Any, ...]:
    """Return arguments as Captum takes them, a tuple, one alone or None, as a tuple."""
    if arguments is None:
        return ()
    return arguments if isinstance(arguments, tuple) else (arguments,)


def type_of(value: object) -> str:
    """Describe the type of a value in a message, with the types of what a tuple or list holds."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type_of(v) for v in value)})"
    return type(value).__name__


def _before_layer(
    layer: nn.Module, index: int, callback: Callable[[int, Any], Any]
) -> torch.utils.hooks.RemovableHandle:
    thread = threading.get_ident()

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if module is layer and threading.get_ident() != thread:
            return None
        replaced = callback(index, args or tuple(kwargs.values()))
        if replaced is None:
            return None
        return (replaced, kwargs) if args else ((), dict(zip(kwargs, replaced, strict=True)))

    return layer.register_forward_pre_hook(before, with_kwargs=True)


def _after_layer(
    layer: nn.Module, index: int, callback: Callable[[int, Any], Any]
) -> torch.utils.hooks.RemovableHandle:
    thread = threading.get_ident()

    def after(module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if module is layer and threading.get_ident() != thread:
            return None
        return callback(index, output)

    return layer.register_forward_hook(after)


# A lock for each module that has been explained, as models may share modules and wrap each other.
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()
# Functions whose modules are not known before they run go one at a time.
_hidden_models = threading.RLock()


@contextmanager
def _held(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let no other thread that asks for it have one of these modules inside the block."""
    with _locks_guard:
        locks = {id(lock): lock for m in modules for lock in [_locks.setdefault(m, threading.RLock())]}
    with ExitStack() as stack:
        # In one order, so that no two threads wait for each other.
        for _, lock in sorted(locks.items()):
            stack.enter_context(lock)
        yield


class _ProcessState(Generic[State]):
    """A state of the process that blocks in several threads may change; the last of them restores it.

    Args:
        save: Returns the state (and may set another).
        restore: Sets what ``save`` returned.
    """

    def __init__(self, save: Callable[[], State], restore: Callable[[State], object]) -> None:
        self._save, self._restore = save, restore
        self._lock = threading.Lock()
        self._blocks: dict[int, list[State]] = {}
        self._first: list[State] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the state at the end of the block, or of the last block that other threads are in."""
        thread = threading.get_ident()
        with self._lock:
            state = self._save()
            if not self._blocks:
                self._first = [state]
            self._blocks.setdefault(thread, []).append(state)
        try:
            yield
        finally:
            with self._lock:
                own = self._blocks[thread]
                state = own.pop()
                if not own:
                    del self._blocks[thread]
                if own or not self._blocks:
                    self._restore(state if own else self._first[0])


_random_state = _ProcessState(torch.get_rng_state, torch.set_rng_state)
_stance = _ProcessState(
    lambda: torch.compiler.set_stance("force_eager"), lambda stance: stance.__exit__(None, None, None)
)


@functools.cache
def _cuda_random_state(device: int) -> _ProcessState[Tensor]:
    return _ProcessState(
        lambda: torch.cuda.get_rng_state(device), lambda state: torch.cuda.set_rng_state(state, device)
    )


def _restore(flags: Sequence[tuple[nn.Module, bool]]) -> None:
    for module, training in flags:
        module.training = training


def _to_evaluation(flags: list[tuple[nn.Module, bool]]) -> Callable[[nn.Module, Any], None]:
    """A hook that puts every module that this thread calls into evaluation mode, and notes its flag."""
    thread = threading.get_ident()

    def before(module: nn.Module, _args: Any) -> None:
        if getattr(module, "training", False) and threading.get_ident() == thread:
            training = [m for m in module.modules() if m.training]
            flags.extend((m, True) for m in training)
            for m in training:
                m.training = False

    return before
