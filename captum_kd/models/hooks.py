"""Running hooks for the length of one forward pass, and leaving models as they were found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def hooked(
    layers: Iterable[nn.Module],
    callback: Callable[[int, Any], Any],
    *,
    attribute_to_layer_input: bool = False,
) -> Iterator[None]:
    """Call a function at every call of a layer inside the block; the hooks are removed on exit.

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
    """Run models in evaluation mode and uncompiled inside the block.

    Training flags and the state of the random number generators are restored on exit.

    Args:
        *models: Modules; functions are ignored.

    Example:
        >>> model = nn.Dropout()
        >>> with undisturbed(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    modules = [m for model in models if isinstance(model, nn.Module) for m in model.modules()]
    flags = [(module, module.training) for module in modules]
    tensors = [t for m in modules for t in m.parameters(recurse=False)]
    devices = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), uncompiled(*models):
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module, training in flags:
                module.training = training


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
            stack.enter_context(torch.compiler.set_stance("force_eager"))
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
    def before(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        replaced = callback(index, args or tuple(kwargs.values()))
        if replaced is None:
            return None
        return (replaced, kwargs) if args else ((), dict(zip(kwargs, replaced, strict=True)))

    return layer.register_forward_pre_hook(before, with_kwargs=True)


def _after_layer(
    layer: nn.Module, index: int, callback: Callable[[int, Any], Any]
) -> torch.utils.hooks.RemovableHandle:
    return layer.register_forward_hook(lambda _module, _args, output: callback(index, output))
