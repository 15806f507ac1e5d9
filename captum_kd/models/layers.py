"""Finding layers in models, and pairing those of a student with those of its base model."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

Layers = nn.Module | list[nn.Module]


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of ``model`` with a dotted name, as in ``model.named_modules()``.

    Args:
        model: A module; wrappers (DataParallel, a compiled model) are looked through.
        name: For instance ``"layer4"`` or ``"layer4.1.conv2"``.

    Returns:
        The layer.

    Raises:
        ValueError: There is no such layer; the message lists near matches.

    Example:
        >>> import torchvision
        >>> find_layer(torchvision.models.resnet18(), "layer5")
        Traceback (most recent call last):
        ValueError: ResNet has no layer 'layer5'. Did you mean 'layer2', 'layer3' or 'layer4'? ...
    """
    model = unwrap(model)
    names: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    if name in names:
        return names[name]
    near = sorted(difflib.get_close_matches(name, names, n=3, cutoff=0.6))
    listed = " or ".join(", ".join(map(repr, near)).rsplit(", ", 1))
    hint = f"Did you mean {listed}? " if near else ""
    raise ValueError(
        f"{type(model).__name__} has no layer {name!r}. {hint}model.named_modules() lists all names."
    )


def default_layers(model: nn.Module) -> list[str]:
    """The layers that are compared when none are named: the stages of a ResNet, a RegNet or a timm network.

    Args:
        model: A classifier.

    Returns:
        "layer1" to "layer4" or, of torchvision's RegNets, "trunk_output.block1" to "trunk_output.block4" if
        it has them, else the modules of timm's ``feature_info``.

    Raises:
        ValueError: It has none of these.

    Example:
        >>> import torchvision
        >>> default_layers(torchvision.models.resnet18())
        ['layer1', 'layer2', 'layer3', 'layer4']
    """
    names = [name for name, _ in unwrap(model).named_modules()]
    for stage in ("layer", "trunk_output.block"):
        stages = [f"{stage}{i}" for i in range(1, 5)]
        if all(name in names for name in stages):
            return stages
    information = getattr(unwrap(model), "feature_info", None)
    if information is not None:
        found = [entry["module"] for entry in information]
        if all(name in names for name in found):
            return found
    raise ValueError(
        f"The stages of {type(model).__name__} are not known. Name its layers, for instance with --layers; "
        f"its modules are {', '.join(name for name, _ in model.named_children())} and those within."
    )


def deep_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose pooled features stand for what a classifier knows.

    Args:
        model: A classifier.

    Returns:
        The last two of :func:`default_layers`, else ``model.features`` as in torchvision's networks; none
        where these are not known, or do not end in a convolution (tokens need a ``reshape_transform``).

    Example:
        >>> import torchvision
        >>> model = torchvision.models.mobilenet_v3_small()
        >>> deep_layers(model) == [model.features]
        True
        >>> len(deep_layers(torchvision.models.resnet18()))
        2
    """
    try:
        found = [find_layer(model, name) for name in default_layers(model)[-2:]]
    except ValueError:
        features = getattr(unwrap(model), "features", None)
        found = [features] if isinstance(features, nn.Sequential) else []
    return found if all(map(_ends_in_convolution, found)) else []


def _ends_in_convolution(layer: nn.Module) -> bool:
    """Whether a layer's last weights are a convolution's, so that it gives channels, not tokens."""
    with_weights = [m for m in layer.modules() if next(m.parameters(recurse=False), None) is not None]
    return bool(with_weights) and isinstance(with_weights[-1], (nn.Conv2d, nn.BatchNorm2d))


def layer_name(model: Any, layer: nn.Module) -> str | None:
    """The dotted name of ``layer`` in ``model``, or None if it is not found (or ``model`` is a function)."""
    if isinstance(model, nn.Module):
        names: dict[nn.Module, str] = {m: name for name, m in unwrap(model).named_modules()}
        return names.get(layer)
    return None


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside DataParallel, DistributedDataParallel or ``torch.compile``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def pair_layers(
    forward_func: Any, layer: Layers, base_model: Any, base_layer: Layers | None
) -> tuple[list[nn.Module], list[nn.Module]]:
    """The student's layers and those of the base model that they are compared with.

    Args:
        forward_func: The student.
        layer: A layer of it, or a list of layers.
        base_model: The base model.
        base_layer: Its layer or layers; None takes those of the same names.

    Returns:
        Two lists of equal length.

    Raises:
        ValueError: A layer is not in its model, the lists differ in length, or there is no layer of that
            name in the base model.
        TypeError: Something is not a module.

    Example:
        >>> from torch import nn
        >>> student, base = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 5))
        >>> pair_layers(student, student[0], base, None)[1]
        [Linear(in_features=2, out_features=5, bias=True)]
    """
    layers = as_layer_list(layer, "layer")
    check_membership(forward_func, layers, "layer", "student")
    if base_layer is None:
        return layers, _same_named(forward_func, layers, base_model)
    base_layers = as_layer_list(base_layer, "base_layer")
    check_membership(base_model, base_layers, "base_layer", "base model")
    if len(layers) != len(base_layers):
        raise ValueError(
            f"layer and base_layer must pair up, got {len(layers)} and {len(base_layers)} layers."
        )
    return layers, base_layers


def describe_layer(model: Any, layer: nn.Module, role: str) -> str:
    """How error messages call a layer."""
    name = layer_name(model, layer)
    return f"Layer {name!r} of the {role}" if name else f"A {type(layer).__name__} layer of the {role}"


def as_layer_list(layers: Any, option: str) -> list[nn.Module]:
    """One layer or several, as a list."""
    listed = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    for layer in listed:
        if not isinstance(layer, nn.Module):
            raise TypeError(
                f"{option} must be a module or a list of modules, got {type(layer).__name__}. "
                "captum_kd.models.layers.find_layer(model, name) looks one up by name."
            )
    if not listed:
        raise ValueError(f"{option} must name at least one layer, got an empty list.")
    return listed


def check_membership(model: Any, layers: list[nn.Module], option: str, role: str) -> None:
    """Raise if a layer is not in its model."""
    if not isinstance(model, nn.Module):
        return
    for layer in layers:
        if layer_name(model, layer) is None:
            raise ValueError(
                f"{option}: this {type(layer).__name__} is not in the {role} ({type(model).__name__})."
            )


def _same_named(student: Any, layers: list[nn.Module], base_model: Any) -> list[nn.Module]:
    names = [layer_name(student, layer) for layer in layers]
    if not isinstance(base_model, nn.Module) or None in names:
        raise ValueError("base_layer is needed: a layer is found by name only where both models are modules.")
    try:
        return [find_layer(base_model, name) for name in names if name is not None]
    except ValueError as error:
        raise ValueError(f"base_layer is needed: the base model has no layer of that name. {error}") from None
