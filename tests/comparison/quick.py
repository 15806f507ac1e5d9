"""Comparisons of small networks that take no time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from captum_kd.metrics import score_with_statistics
from captum_kd.models.activations import layer_activations
from tests.networks import classes, images

LAYERS = ["first_relu", "second_relu"]
QUICK: dict[str, Any] = {"permutations": 9, "progress": False}


def batches(count: int, size: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images(count, seed).split(size), classes(count).split(size), strict=True))


REFERENCE = (images(12, seed=1), classes(12))


def quick(
    student: Any, base: nn.Module, data: Any = None, layers: Any = LAYERS, **options: Any
) -> Comparison:
    options = {"reference": REFERENCE, "methods": (), **QUICK, **options}
    return compare(student, base, layers, batches(24, 8) if data is None else data, **options)


def pooled(model: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    activations = layer_activations(model, [model.get_submodule(layer)], inputs).activations[0]
    return activations.flatten(2).mean(2) if activations.dim() > 2 else activations


def statistics(*features: Tensor, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    return score_with_statistics(*features, permutations=9, generator=generator, **options)
