"""The maps that the demo compares, each as a pair: distilled and residual, per layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from captum.attr import LayerAttribution, LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from captum_kd.attr import UniCAM

# Per layer, maps of shape (n, 1, h, w) at the layer's resolution.
LayerMaps = dict[str, Tensor]
MapPair = tuple[LayerMaps, LayerMaps]

BATCH_SIZE = 32


class Case(NamedTuple):
    """What is explained: two models, their layers by name, images with labels, and a disjoint reference."""

    student: nn.Module
    base: nn.Module
    layers: tuple[str, ...]
    images: Tensor
    labels: Tensor
    reference: Tensor


def random_maps(case: Case) -> MapPair:
    """Noise at each layer's resolution: what knowing nothing scores."""
    generator = torch.Generator().manual_seed(0)
    shapes = {k: v.shape[1:] for k, v in gradient_maps(case, grad_cam, case.student, case.images[:1]).items()}
    noise = [
        {k: torch.rand(len(case.images), *shape, generator=generator) for k, shape in shapes.items()}
        for _ in range(2)
    ]
    return noise[0], noise[1]


def grad_cam(model: nn.Module, layer: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Captum's LayerGradCam with ReLU."""
    maps: Tensor = LayerGradCam(model, layer).attribute(images, target, relu_attributions=True)
    return maps


def gradient_x_activation(model: nn.Module, layer: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Captum's LayerGradientXActivation, summed over channels (HiResCAM), with ReLU."""
    maps: Tensor = LayerGradientXActivation(model, layer).attribute(images, target)
    return maps.sum(1, keepdim=True).relu()


def gradient_maps(case: Case, method: Callable[..., Tensor], model: nn.Module, images: Tensor) -> LayerMaps:
    """Maps of one model for the class that it predicts."""
    parts: dict[str, list[Tensor]] = {name: [] for name in case.layers}
    for batch in images.split(BATCH_SIZE):
        with torch.no_grad():
            predicted = model(batch).argmax(1)
        for name in case.layers:
            parts[name].append(method(model, model.get_submodule(name), batch, predicted).detach())
    return {name: torch.cat(maps) for name, maps in parts.items()}


def difference(method: Callable[..., Tensor], case: Case) -> MapPair:
    """The difference of two models' maps, each first divided by its maximum."""
    ours, theirs = (gradient_maps(case, method, model, case.images) for model in (case.student, case.base))
    signed = {name: _peak_one(ours[name]) - _peak_one(theirs[name]) for name in case.layers}
    return {k: v.relu() for k, v in signed.items()}, {k: (-v).relu() for k, v in signed.items()}


def published(case: Case) -> MapPair:
    """UniCAM as published: relevance to the true labels, flattened features, batches of 32."""
    layers = [case.student.get_submodule(name) for name in case.layers]
    return _unicam_maps(UniCAM(case.student, layers, case.base), case)


def recommended(case: Case) -> MapPair:
    """UniCAM.recommended against the reference."""
    layers = [case.student.get_submodule(name) for name in case.layers]
    return _unicam_maps(UniCAM.recommended(case.student, layers, case.base, reference=case.reference), case)


METHODS: dict[str, Callable[[Case], MapPair]] = {
    "random maps": random_maps,
    "Grad-CAM difference": partial(difference, grad_cam),
    "gradient x activation difference": partial(difference, gradient_x_activation),
    "UniCAM, published objective": published,
    "UniCAM, uniqueness": recommended,
}


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling by Captum's own function, ``(n, 1, h, w)`` to ``(n, *size)``."""
    upsampled: Tensor = LayerAttribution.interpolate(maps, size, interpolate_mode="bilinear")
    return upsampled[:, 0]


def _unicam_maps(method: UniCAM, case: Case) -> MapPair:
    batches = zip(case.images.split(BATCH_SIZE), case.labels.split(BATCH_SIZE), strict=True)
    parts = [method.attribute_all(images, labels) for images, labels in batches]
    pair = [
        {name: torch.cat([part[side][i] for part in parts]) for i, name in enumerate(case.layers)}
        for side in range(2)
    ]
    return pair[0], pair[1]


def _peak_one(maps: Tensor) -> Tensor:
    peaks = maps.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(peaks > 0, maps / torch.where(peaks > 0, peaks, 1.0), 0.0)
