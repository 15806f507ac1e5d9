"""Classifiers by name, and their layers."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from captum_kd.models.hooks import hooked, undisturbed
from captum_kd.models.layers import default_layers
from captum_kd.models.small import small_regnet, small_resnet

__all__ = ["build_classifier", "default_layers", "layer_shapes"]

_SMALL_FAMILIES: dict[str, Callable[[int, int], nn.Module]] = {
    "small_resnet": small_resnet,
    "small_regnet": small_regnet,
}
_SMALL = re.compile(rf"({'|'.join(_SMALL_FAMILIES)})(\d+)")
# These return several outputs while they train; timm has Inception v3 without.
_UNSUITED = {"googlenet", "inception_v3"}


def build_classifier(name: str, num_classes: int, *, pretrained: bool = False) -> nn.Module:
    """Build a classifier with fresh weights, or with pre-trained ones and a fresh head.

    Args:
        name: A name of torchvision ("resnet50") or, if torchvision does not have it, of timm ("resnet26d");
            "small_resnet16" or "small_regnet16", or another width of these networks of
            :mod:`captum_kd.models.small`; or "package.module:factory", a function that is called with
            ``num_classes``.
        num_classes: The number of outputs.
        pretrained: Load the library's default weights, which are downloaded on first use.

    Returns:
        The classifier, in training mode.

    Raises:
        ValueError: There is no such architecture or factory, or it has no pre-trained weights.
        TypeError: The factory returned something other than a module.

    Example:
        >>> build_classifier("resnet18", 5).fc.out_features
        5
    """
    if ":" in name:
        return _from_factory(name, num_classes, pretrained)
    if match := _SMALL.fullmatch(name):
        if pretrained:
            raise ValueError(f"{name} has no pre-trained weights.")
        return _SMALL_FAMILIES[match[1]](int(match[2]), num_classes)
    if name in _torchvision_names():
        if not pretrained:
            fresh: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
            return fresh
        model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
        _replace_head(model, num_classes)
        return model
    timm = _timm()
    if timm is not None and timm.is_model(name):
        built: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes)
        return built
    timm_names = timm.list_models() if timm is not None else ()
    known = dict.fromkeys(["small_resnet16", "small_regnet16", *_torchvision_names(), *timm_names])
    near = difflib.get_close_matches(name, known, n=5)
    raise ValueError(
        f"No classifier is called {name!r}. "
        + (f"Near matches: {', '.join(near)}. " if near else "")
        + (
            ""
            if timm is not None
            else "timm, whose names are valid too, is not installed (pip install timm). "
        )
        + "Valid names are those of torchvision.models.list_models(module=torchvision.models) and "
        "timm.list_models(), small_resnet16 or small_regnet16 (or another width), or your own as "
        "package.module:factory."
    )


def layer_shapes(model: nn.Module, image_size: int) -> dict[str, tuple[int, ...]]:
    """Return the layers that maps and feature losses can use, with the shape of their output for one image.

    Args:
        model: A classifier.
        image_size: Height and width of the image in pixels.

    Returns:
        Names to ``(channels, *positions)``, in the order in which the layers run; for a layer that runs
        several times, the last shape. Layers with another kind of output are left out.

    Example:
        >>> layer_shapes(build_classifier("small_resnet4", 2), 32)["layer4"]
        (32, 2, 2)
    """
    layers = {name: module for name, module in model.named_modules() if name}
    names = list(layers)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(index: int, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() >= 3:
            shapes.pop(names[index], None)
            shapes[names[index]] = tuple(output.shape[1:])

    with torch.no_grad(), undisturbed(model), hooked(layers.values(), note):
        model(torch.zeros(1, 3, image_size, image_size))
    return shapes


def _timm() -> Any:
    """Return timm, or None if it is not installed: torchvision's models do not need it."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        return None


def _torchvision_names() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name not in _UNSUITED]


def _replace_head(model: nn.Module, num_classes: int) -> None:
    name, head = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    fresh: nn.Module
    if isinstance(head, nn.Linear):
        fresh = nn.Linear(head.in_features, num_classes, bias=head.bias is not None)
    else:  # SqueezeNet classifies by a 1 x 1 convolution
        fresh = nn.Conv2d(head.in_channels, num_classes, head.kernel_size)  # type: ignore[arg-type]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, fresh)


def _from_factory(name: str, num_classes: int, pretrained: bool) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    try:
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Could not find the factory {name!r}: {error}. It must be importable as package.module:factory."
        ) from error
    model = factory(num_classes=num_classes, **({"pretrained": True} if pretrained else {}))
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} must return a torch.nn.Module, got {type(model).__name__}.")
    return model
