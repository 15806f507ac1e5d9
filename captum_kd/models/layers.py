"""Finding layers in models, and pairing those of a student with those of its base model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Layers = str | nn.Module | Sequence[str | nn.Module]
"""What a caller may pass for layers: a module of the model or its dotted name, or several of these."""

EMPTY_NAME = "{}: a layer's name is empty. To explain the whole model's output, pass the model as the layer."

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer of a model that has a dotted name, as in ``model.named_modules()``.

    Args:
        model: A module; wrappers (DataParallel, ``torch.compile``) are looked through.
        name: The name, for instance ``"layer4"`` or ``"layer4.1.conv2"``.

    Returns:
        The layer.

    Raises:
        ValueError: There is no such layer (the message lists near matches), or the model is TorchScript.

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
    check_visible(model, type(model).__name__)
    near = sorted(difflib.get_close_matches(name, names, n=3, cutoff=0.6))
    listed = " or ".join(", ".join(map(repr, near)).rsplit(", ", 1))
    hint = f"Did you mean {listed}? " if near else ""
    raise ValueError(
        f"{type(model).__name__} has no layer {name!r}. {hint}model.named_modules() lists all names."
    )


def default_layers(model: nn.Module) -> list[str]:
    """Return the layers to compare when none are named: the stages of a ResNet, RegNet or timm network.

    A network inside a wrapper of any depth is found if it is the only one there; see :func:`deep_layers`.

    Args:
        model: A classifier.

    Returns:
        "layer1" to "layer4", or "trunk_output.block1" to "trunk_output.block4" (torchvision's RegNets), if
        the model has them; otherwise the modules of timm's ``feature_info``. The names are those in the
        model that was given ("model.layer1" for a wrapper that holds the network as ``model``).

    Raises:
        ValueError: The model has none of these.

    Example:
        >>> import torchvision
        >>> default_layers(torchvision.models.resnet18())
        ['layer1', 'layer2', 'layer3', 'layer4']
        >>> default_layers(nn.Sequential(nn.Identity(), torchvision.models.resnet18()))[-1]
        '1.layer4'
    """
    inner = _inner_network(model, _stages)
    if inner is not None:
        prefix, network = inner
        return [prefix + name for name in _stages(network)]
    raise ValueError(
        f"The stages of {type(model).__name__} are not known. Name its layers, for instance with --layers; "
        f"its modules are {', '.join(name for name, _ in model.named_children())} and what is inside these."
    )


def deep_layers(model: nn.Module) -> list[nn.Module]:
    """Return the late layers of a classifier, whose pooled features stand for what it knows.

    A module whose stages are not known is taken for a wrapper, and the network is looked for inside: a
    Lightning module, ``AveragedModel``, a ``Sequential`` of normalisation and network. What is beside the
    network may be a head, a normalisation or 1 x 1 convolutions. If there are two networks (a student and a
    teacher), or further convolutions beside the one that is known, none is taken: it would be a guess.

    Args:
        model: A classifier.

    Returns:
        The last two of :func:`default_layers`; otherwise ``features``, which torchvision's networks have. An
        empty list if neither is known, or if they do not end in a convolution (tokens need a
        ``reshape_transform``).

    Example:
        >>> import torchvision
        >>> model = torchvision.models.mobilenet_v3_small()
        >>> deep_layers(nn.Sequential(nn.Identity(), model)) == [model.features]
        True
        >>> len(deep_layers(torchvision.models.resnet18()))
        2
    """
    inner = _inner_network(model, _late)
    found = [] if inner is None else _late(inner[1])
    return found if all(map(_ends_in_convolution, found)) else []


def _stages(network: nn.Module) -> list[str]:
    """The stages that a module has itself, in its own names; none if they are not known."""
    names = {name for name, _ in network.named_modules()}
    for stage in ("layer", "trunk_output.block"):
        stages = [f"{stage}{i}" for i in range(1, 5)]
        if all(name in names for name in stages):
            return stages
    information: Any = getattr(network, "feature_info", None)
    entries = list(information) if hasattr(information, "__getitem__") else []
    found = [entry["module"] for entry in entries if isinstance(entry, dict) and "module" in entry]
    return found if len(found) == len(entries) and all(name in names for name in found) else []


def _late(network: nn.Module) -> list[nn.Module]:
    """The late layers that a module has itself, whatever they end in; none if they are not known."""
    if stages := _stages(network):
        return [network.get_submodule(name) for name in stages[-2:]]
    features = getattr(network, "features", None)
    return [features] if isinstance(features, nn.Sequential) else []


def _inner_network(
    model: nn.Module, known: Callable[[nn.Module], Sequence[object]]
) -> tuple[str, nn.Module] | None:
    """The network inside wrappers whose layers are known, and what its names begin with; None if unsure."""
    network = unwrap(model)
    if known(network):
        return "", network
    found = _networks_inside(network, known)
    if len(found) != 1:
        return None
    ((prefix, inner),) = found
    own = set(inner.modules())
    beside = [module for module in network.modules() if module not in own]
    return None if any(map(_processes_images, beside)) else (prefix, inner)


def _networks_inside(
    module: nn.Module, known: Callable[[nn.Module], Sequence[object]], prefix: str = ""
) -> list[tuple[str, nn.Module]]:
    """The outermost modules below a module whose layers are known, with what their names begin with."""
    found = {}
    for name, child in module.named_children():
        if known(child):
            found[child] = f"{prefix}{name}."
        else:
            inside = _networks_inside(child, known, f"{prefix}{name}.")
            found.update({network: its for its, network in inside if network not in found})
    return [(its, network) for network, its in found.items()]


def _processes_images(module: nn.Module) -> bool:
    """Whether a module is a part of a network of its own, not a head or a normalisation."""
    if isinstance(module, _CONVOLUTIONS):
        return any(size > 1 for size in module.kernel_size)
    return isinstance(module, (nn.MultiheadAttention, nn.RNNBase))


def _ends_in_convolution(layer: nn.Module) -> bool:
    """Whether a layer's last weights are a convolution's, so that it gives channels, not tokens."""
    with_weights = [m for m in layer.modules() if next(m.parameters(recurse=False), None) is not None]
    return bool(with_weights) and isinstance(with_weights[-1], (nn.Conv2d, nn.BatchNorm2d))


def layer_name(model: Callable[..., Any], layer: nn.Module) -> str | None:
    """Return the dotted name of a layer; None if it is not in the model, or the model is a function."""
    if isinstance(model, nn.Module):
        names: dict[nn.Module, str] = {m: name for name, m in unwrap(model).named_modules()}
        return names.get(layer)
    return None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module inside DataParallel, DistributedDataParallel or ``torch.compile``."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def describe_layer(model: Callable[..., Any], layer: nn.Module, role: str) -> str:
    """Return what error messages call a layer."""
    name = layer_name(model, layer)
    return f"Layer {name!r} of the {role}" if name else f"A {type(layer).__name__} layer of the {role}"


def pair_layers(
    forward_func: Callable[..., Any],
    layer: Layers,
    base_model: Callable[..., Any],
    base_layer: Layers | None,
) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the student's layers, and the layers of the base model that they are compared with.

    Args:
        forward_func: The student.
        layer: Its layer or layers, as modules or by name.
        base_model: The base model.
        base_layer: The base model's layer or layers, in the same order; None: those of the same names.

    Returns:
        Two lists of modules, of equal length.

    Raises:
        ValueError: A layer is not in its model, a name is given for a layer of a function, the lists differ
            in length, or the base model has no layer of the same name.
        TypeError: A layer is neither a module nor a name.

    Example:
        >>> from torch import nn
        >>> student, base = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 5))
        >>> pair_layers(student, "0", base, None)[1]
        [Linear(in_features=2, out_features=5, bias=True)]
    """
    layers = resolve_layers(forward_func, layer, "layer", "student")
    if base_layer is None:
        return layers, _same_named(forward_func, _as_sequence(layer), base_model)
    base_layers = resolve_layers(base_model, base_layer, "base_layer", "base model")
    if len(layers) != len(base_layers):
        raise ValueError(
            f"layer and base_layer must pair up, got {len(layers)} and {len(base_layers)} layers."
        )
    return layers, base_layers


def resolve_layers(model: Callable[..., Any], layers: Layers, option: str, role: str) -> list[nn.Module]:
    """Return layers that are given as modules or by name as a list of modules.

    Args:
        model: The model that they belong to.
        layers: One layer, or several.
        option: The argument's name, for messages.
        role: What messages call the model.

    Raises:
        ValueError: No layer is given, a layer is not in the model, or the model is a function and a layer is
            given by name.
        TypeError: A layer is neither a module nor a name.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> resolve_layers(model, ["1", model[0]], "layers", "student")
        [ReLU(), Linear(in_features=2, out_features=3, bias=True)]
    """
    given = _as_sequence(layers)
    if not given:
        raise ValueError(f"{option} must name at least one layer, got an empty list.")
    return [_resolve(model, layer, option, role) for layer in given]


def check_membership(model: Callable[..., Any], layers: Sequence[nn.Module], option: str, role: str) -> None:
    """Raise a ValueError if a layer is not in its model; nothing is checked if the model is a function."""
    if not isinstance(model, nn.Module):
        return
    for layer in layers:
        if layer_name(model, layer) is None:
            check_visible(unwrap(model), f"{option}: the {role}")
        if layer_name(model, layer) is None:
            raise ValueError(
                f"{option}: this {type(layer).__name__} is not in the {role} ({type(model).__name__})."
            )


def check_visible(layer: nn.Module, label: str) -> None:
    """Raise a ValueError if a layer is TorchScript, from which nothing can be recorded."""
    if isinstance(layer, torch.jit.ScriptModule):
        raise ValueError(
            f"{label} is TorchScript (torch.jit.script or trace), which does not show what its layers give. "
            "Pass the Python module that it was made of."
        )


def _as_sequence(layers: Layers) -> Sequence[str | nn.Module]:
    return layers if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]


def _resolve(model: Callable[..., Any], layer: str | nn.Module, option: str, role: str) -> nn.Module:
    if isinstance(layer, nn.Module):
        check_membership(model, [layer], option, role)
        return layer
    if not isinstance(layer, str):
        raise TypeError(
            f"{option} must be a module or the name of one, or a list of these, got {type(layer).__name__}."
        )
    if layer == "":
        raise ValueError(EMPTY_NAME.format(option))
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{option}: {layer!r} is the name of a layer, but the {role} is a function, in which layers have "
            "no names. Pass the layer itself, a module."
        )
    try:
        return find_layer(model, layer)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _same_named(
    student: Callable[..., Any], layers: Sequence[str | nn.Module], base_model: Callable[..., Any]
) -> list[nn.Module]:
    names = [layer if isinstance(layer, str) else layer_name(student, layer) for layer in layers]
    if not isinstance(base_model, nn.Module) or None in names:
        raise ValueError("base_layer is needed: a layer is found by name only where both models are modules.")
    try:
        return [find_layer(base_model, name) for name in names if name is not None]
    except ValueError as error:
        raise ValueError(f"base_layer is needed: the base model has no layer of that name. {error}") from None
