"""Forward passes that keep their graph, and gradients at layers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from captum_kd.models.functions import modules_of
from captum_kd.models.hooks import as_tuple, hooked, sample_count, undisturbed
from captum_kd.models.layers import check_visible, describe_layer


def forward_with_graph(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
    *,
    attribute_to_layer_input: bool = False,
    role: str = "model",
) -> tuple[list[Any], Any]:
    """Run one forward pass in evaluation mode and return the layers' outputs, connected by autograd.

    The graph begins at the first of the layers: parameters stay out of it. Training flags, hooks and the
    state of the random number generators are restored, even if the model raises an error.

    Args:
        forward_func: The model, or a function that runs it.
        layers: Layers of the model, none of them twice.
        inputs: A tensor or a tuple of tensors, with the samples in dimension 0.
        additional_forward_args: Further arguments of the model, as in Captum.
        attribute_to_layer_input: Return the layers' inputs instead of their outputs.
        role: What error messages call the model.

    Returns:
        The output of each layer, as the layer returns it: a tensor, or a tuple, list or dictionary that holds
        tensors (a tuple or list of one element is replaced by that element); and the model's output.

    Raises:
        TypeError: The output of a layer holds no floating point tensor.
        ValueError: A layer is TorchScript; a layer or what follows it keeps no graph (under
            ``no_grad`` or in gradient checkpointing), or the model was built in inference mode; a layer was
            not called, or was called more than once, as under DataParallel on several
            devices.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
        >>> (hidden,), output = forward_with_graph(model, [model[0]], torch.tensor([[1.0, -1.0]]))
        >>> torch.autograd.grad(2 * output.sum(), hidden)[0]
        tensor([[2., 0.]])
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    sample_count(inputs)
    found: list[Any] = [None] * len(layers)
    labels = [describe_layer(forward_func, layer, role) for layer in layers]
    for layer, label in zip(layers, labels, strict=True):
        check_visible(layer, label)
    roots = [*modules_of(forward_func), *layers]
    modules = list(dict.fromkeys(module for root in roots for module in root.modules()))
    _check_saved_by_autograd(modules, role)
    watched = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    without_graph: list[str] = []

    def look(index: int, value: Any) -> None:
        # What depends on a layer must go on in the graph, and in the mode that this pass is in.
        if any(map(_requires_gradient, tree_flatten(value)[0])) and _graph_is_lost():
            raise _lost(describe_layer(forward_func, watched[index], role))

    def keep(index: int, value: Any) -> Any:
        if not any(map(_is_floating, tree_flatten(value)[0])):
            raise TypeError(
                f"{labels[index]} gives {type(value).__name__}, in which there is no floating point tensor "
                "to have a gradient. Choose another layer, or pass feature_layer=None and "
                "class_evidence=False, which need no gradient of the model."
            )
        if found[index] is not None:
            raise ValueError(
                f"{labels[index]} is called more than once in a forward pass. Give each call a module of its "
                "own; pass the module inside DataParallel, on one device."
            )
        # A layer alone may end a block that keeps no graph: what follows the block depends on it.
        earlier = any(other is not None for other in found)
        if _graph_is_lost() and (earlier or _in_checkpoint() or torch.is_inference_mode_enabled()):
            raise _lost(labels[index])
        if without_graph and not any(map(_requires_gradient, tree_flatten(value)[0])):
            raise _lost(without_graph[0])
        if not torch.is_grad_enabled():
            without_graph.append(labels[index])
        value = tree_map(_with_graph, value)
        found[index] = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        # A copy goes on, because the next module may work in place (ReLU(inplace=True)).
        with torch.enable_grad():
            return tree_map(lambda leaf: leaf.clone() if _is_floating(leaf) else leaf, value)

    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        undisturbed(forward_func, *layers),
        _frozen(forward_func, *layers),
        hooked(layers, keep, attribute_to_layer_input=attribute_to_layer_input),
        hooked(watched, look, attribute_to_layer_input=True),
    ):
        output = forward_func(*(value.clone() for value in inputs), *as_tuple(additional_forward_args))
    for value, label in zip(found, labels, strict=True):
        if value is None:
            raise ValueError(
                f"{label} was not called in the forward pass. Check that it belongs to the model that runs; "
                "if it was taken for a late layer, name the layers to take with feature_layer."
            )
    if without_graph and not any(map(_requires_gradient, tree_flatten(output)[0])):
        raise _lost(without_graph[0])
    return found, output


def _lost(label: str) -> ValueError:
    """The error that says why nothing can be traced back to a layer, and what to do."""
    if _in_checkpoint():
        why = "in gradient checkpointing (torch.utils.checkpoint), which would run it a second time"
        cure = "Switch checkpointing off; it saves memory in training only."
    else:
        mode = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
        why = f"under torch.{mode}()"
        cure = f"Take {mode} out of the model; requires_grad_(False) freezes parameters as well."
    return ValueError(
        f"{label} runs {why}, so no gradient passes there. {cure} Or pass feature_layer=None and "
        "class_evidence=False, which need no gradient of the model."
    )


def _graph_is_lost() -> bool:
    """Whether the code that runs keeps no graph, or runs again later, when the model is no longer held."""
    return not torch.is_grad_enabled() or _in_checkpoint()


def _in_checkpoint() -> bool:
    """Whether the code that runs is inside torch.utils.checkpoint."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "torch.utils.checkpoint":
        frame = frame.f_back
    return frame is not None


def _check_saved_by_autograd(modules: Iterable[nn.Module], role: str) -> None:
    for module in modules:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_inference():
                raise ValueError(
                    f"The {role} was built or loaded under torch.inference_mode(), so no gradient passes "
                    "through it. Build it outside, or pass copy.deepcopy(model), whose weights are ordinary."
                )


def _requires_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _with_graph(value: Any) -> Any:
    return value if not _is_floating(value) or value.requires_grad else value.detach().requires_grad_()


@contextmanager
def _frozen(*models: Callable[..., Any]) -> Iterator[None]:
    """Let no parameter require a gradient inside the block, so that the graph begins at the first layer."""
    modules = [module for model in models for module in modules_of(model)]
    trained = {p for module in modules for p in module.parameters() if p.requires_grad and p.is_leaf}
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()


def layer_gradients(
    layers: Sequence[Any],
    features: Sequence[Tensor],
    gradients: Sequence[Tensor],
    *,
    keep_graph: bool = False,
) -> list[Any]:
    """Propagate gradients with respect to features back to layers.

    Args:
        layers: Outputs of layers, from :func:`forward_with_graph`.
        features: Outputs of other layers, or functions of them, from the same forward pass.
        gradients: The gradient with respect to each tensor of ``features``, of its shape.
        keep_graph: Keep the graph for another call.

    Returns:
        For each layer the gradient with respect to its output, summed over the features, in the form of that
        output; None if no feature depends on the layer.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> layer_gradients([x], [3 * x, x.square()], [torch.ones(2), torch.ones(2)])
        [tensor([5., 7.])]
    """
    tensors = [leaf for leaf in tree_flatten(list(layers))[0] if _is_floating(leaf)]
    with torch.inference_mode(False), torch.enable_grad():
        found = torch.autograd.grad(
            list(features),
            tensors,
            [g.clone() for g in gradients],
            retain_graph=keep_graph,
            allow_unused=True,
        )
    by_tensor = dict(zip(map(id, tensors), found, strict=True))
    result: list[Any] = []
    for layer in layers:
        own = [leaf for leaf in tree_flatten(layer)[0] if _is_floating(leaf)]
        if all(by_tensor[id(leaf)] is None for leaf in own):
            result.append(None)
        else:
            result.append(tree_map(partial(_gradient, by_tensor), layer))
    return result


def _gradient(by_tensor: Mapping[int, Tensor | None], leaf: Any) -> Any:
    """The gradient with respect to one tensor of an output: zero if only others of them are used."""
    if not _is_floating(leaf):
        return leaf
    gradient = by_tensor[id(leaf)]
    return torch.zeros_like(leaf) if gradient is None else gradient
