"""Maps of one model by Captum, also of layers whose output has to be reshaped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from captum_kd.attr.transforms import check_linear
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.gradients import forward_with_graph, layer_gradients
from captum_kd.models.layers import describe_layer
from captum_kd.models.targets import class_score_gradient


def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    reshape_transform: ReshapeTransform | None = None,
) -> Tensor:
    """Captum's LayerGradCam with ReLU."""
    if reshape_transform is not None:
        return _grad_cam_of_reshaped(model, layer, images, classes, reshape_transform)
    maps: Tensor = LayerGradCam(model, layer).attribute(images, classes, relu_attributions=True)
    return maps


def gradient_x_activation(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    reshape_transform: ReshapeTransform | None = None,
) -> Tensor:
    """Captum's LayerGradientXActivation, summed over channels (HiResCAM), with ReLU."""
    maps = captum_maps(LayerGradientXActivation, model, layer, images, classes, reshape_transform)
    return maps.sum(1, keepdim=True).relu()


def captum_maps(
    method: Callable[..., Any],
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    reshape_transform: ReshapeTransform | None = None,
) -> Tensor:
    """Maps by a Captum ``LayerAttribution`` class with its defaults."""
    if reshape_transform is not None and isinstance(method, type) and issubclass(method, LayerGradCam):
        raise ValueError(
            f"{method.__name__} takes the second dimension of tokens for channels. Name 'Grad-CAM' instead, "
            "which knows the reshape_transform."
        )
    maps: Tensor = method(model, layer).attribute(images, target=classes)
    if reshape_transform is None:
        return maps
    with torch.no_grad():
        # Maps of other images stand for what gradients are elsewhere: any second map will do.
        rolled = tree_map(lambda leaf: leaf.roll(1, 0).roll(1, -1), maps)
        check_linear(reshape_transform, maps, rolled, describe_layer(model, layer, "model"))
    return reshape_transform(maps)


def _grad_cam_of_reshaped(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    reshape_transform: ReshapeTransform,
) -> Tensor:
    """Grad-CAM of tokens: Captum's takes their second dimension for channels."""
    (given,), output = forward_with_graph(model, [layer], images)
    (gradient,) = layer_gradients([given], [output], [class_score_gradient(classes, output)])
    if gradient is None:
        raise ValueError("The model's output does not depend on the layer, so it has no Grad-CAM.")
    with torch.no_grad():
        check_linear(reshape_transform, given, gradient, describe_layer(model, layer, "model"))
    weights = reshape_transform(gradient).mean(dim=(2, 3), keepdim=True)
    return (weights * reshape_transform(given)).sum(dim=1, keepdim=True).relu()
