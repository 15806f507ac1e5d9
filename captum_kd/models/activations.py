"""The activations of layers, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from captum_kd.models.hooks import as_tuple, hooked, sample_count, type_of, undisturbed
from captum_kd.models.layers import check_visible, describe_layer
from captum_kd.models.tokens import warn_of_channels_last

ReshapeTransform = Callable[[Any], Tensor]
"""Turns the output of a layer into activations of shape ``(n, c, *spatial)``."""


class LayerActivations(NamedTuple):
    """Activations of layers and the output of the model, from one forward pass.

    Attributes:
        activations: A tensor ``(n, c, *spatial)`` for each layer.
        output: The model's output.
    """

    activations: list[Tensor]
    output: Any


def layer_activations(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object = None,
    *,
    attribute_to_layer_input: bool = False,
    reshape_transform: ReshapeTransform | None = None,
    device_ids: list[int] | None = None,
    role: str = "model",
) -> LayerActivations:
    """Run one forward pass in evaluation mode and return copies of the layers' activations.

    Training flags, hooks and the state of the random number generators are restored, even if the model
    raises an error.

    Args:
        forward_func: The model, or a function that runs it.
        layers: Layers of the model.
        inputs: A tensor or a tuple of tensors, with the samples in dimension 0.
        additional_forward_args: Further arguments of the model, as in Captum.
        attribute_to_layer_input: Return the layers' inputs instead of their outputs.
        reshape_transform: Turns the output of a layer into activations ``(n, c, *spatial)``; needed for
            layers with several outputs and for layers that output tokens.
        device_ids: The order of the devices under DataParallel.
        role: What error messages call the model, for instance "student".

    Returns:
        Detached activations ``(n, c, *spatial)``, float32 or float64 (lower precision is converted to
        float32), and the model's output.

    Raises:
        ValueError: A layer is TorchScript, was not called, or was called more than once; or its activations
            are not ``(n, c, ...)``, not finite, or differ from the inputs in the number of samples.
        TypeError: The output of a layer is not a floating point tensor.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
        >>> layer_activations(model, [model[1]], torch.zeros(2, 3, 8, 8)).activations[0].shape
        torch.Size([2, 4, 6, 6])
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    count = sample_count(inputs)
    labels = [describe_layer(forward_func, layer, role) for layer in layers]
    for layer, label in zip(layers, labels, strict=True):
        check_visible(layer, label)
    seen: list[dict[torch.device, Tensor]] = [{} for _ in layers]

    def record(index: int, value: Any) -> None:
        activations = _activations(value, labels[index], reshape_transform)
        if activations.device in seen[index]:
            raise ValueError(
                f"{labels[index]} is called more than once in a forward pass, so it has no single "
                "activation. Give each call a module of its own (for instance its own nn.ReLU)."
            )
        seen[index][activations.device] = activations

    with (
        torch.no_grad(),
        undisturbed(forward_func, *layers),
        hooked(layers, record, attribute_to_layer_input=attribute_to_layer_input),
    ):
        output = forward_func(*inputs, *as_tuple(additional_forward_args))

    order = device_ids if device_ids is not None else getattr(forward_func, "device_ids", None)
    activations = [_gather(s, d, order) for s, d in zip(seen, labels, strict=True)]
    for value, label in zip(activations, labels, strict=True):
        check_samples(label, value, count)
        if reshape_transform is None:
            warn_of_channels_last(label, value)
        # The sum is a quick test; every value is looked at only if the sum is not finite.
        if not torch.isfinite(value.sum()) and not torch.isfinite(value).all():
            raise ValueError(
                f"The activations of {label} hold NaN or infinite values. Check the weights and the input "
                "scaling; under float16, run the model in float32 or bfloat16."
            )
    return LayerActivations(activations, output)


def check_samples(label: str, activations: Tensor, count: int) -> None:
    """Check that activations have as many samples as the inputs.

    Args:
        label: What messages call the layer.
        activations: Its activations.
        count: The number of samples of the inputs.

    Raises:
        ValueError: They have not.
    """
    if activations.dim() == 0 or len(activations) != count:
        raise ValueError(
            f"{label} gives activations of shape {tuple(activations.shape)} for {count} samples; dimension 0 "
            "must be the samples. Pass a reshape_transform that moves them there."
        )


def _activations(value: Any, label: str, reshape_transform: ReshapeTransform | None) -> Tensor:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    if reshape_transform is not None:
        before = _written(value)
        reshaped = reshape_transform(value)
        if _written(value) != before:
            raise ValueError(
                f"The reshape_transform writes into what {label} gives, so it changes the model's own "
                "result. Use operations that do not work in place, for instance relu instead of relu_."
            )
        value = reshaped
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{label} gives {type_of(value)}, but one tensor is needed. Pass a reshape_transform that "
            "picks it, for instance reshape_transform=lambda output: output[0]."
        )
    if value.dim() < 2:
        raise ValueError(
            f"{label} gives activations of shape {tuple(value.shape)}, but (N, C, ...) is needed."
        )
    if not value.is_floating_point():
        raise TypeError(f"{label} gives {value.dtype} activations, but floating point is needed.")
    detached: Tensor = value.detach()
    # A copy, because whatever follows the layer may work in place (ReLU(inplace=True)).
    keeps_dtype = detached.dtype in (torch.float32, torch.float64)
    return detached.clone() if keeps_dtype else detached.float()


def _written(value: Any) -> list[int]:
    """How often each tensor in a layer's output has been written to, as far as PyTorch counts it."""
    tensors = (leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor))
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _gather(seen: dict[torch.device, Tensor], label: str, device_ids: Sequence[int] | None) -> Tensor:
    if not seen:
        raise ValueError(
            f"{label} was not called in the forward pass. Check that it belongs to the model that runs; a "
            "function compiled with torch.compile must be passed uncompiled."
        )
    if len(seen) == 1:
        return next(iter(seen.values()))
    rank = {index: i for i, index in enumerate(device_ids or [])}
    devices = sorted(seen, key=lambda d: rank.get(d.index, d.index))
    return torch.cat([seen[d].to(devices[0]) for d in devices])
