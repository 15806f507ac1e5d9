"""The maps of a comparison: the shown images, by every method, at every layer that has positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from captum_kd.attr.methods import MapMethod, TwoMaps
from captum_kd.attr.pair import Pair
from captum_kd.comparison.features import BASE, Stream

# For each student, layer and method two maps (n, 1, h, w).
Maps: TypeAlias = dict[str, dict[str, dict[str, TwoMaps]]]


def shown_maps(
    pairs: Mapping[str, Pair],
    found: Stream,
    layers: tuple[str, ...],
    methods: Mapping[str, MapMethod],
    progress: bool = False,
) -> Maps:
    """Make the maps of the shown images.

    Args:
        pairs: Each student with the base model.
        found: The shown images and the dimensions of the layers' activations.
        layers: The names of the layers.
        methods: The methods by name.
        progress: Show a progress bar.

    Returns:
        For each student, layer and method two maps ``(n, 1, h, w)`` on the CPU. Layers without positions are
        left out; without shown images there are no layers.
    """
    maps: Maps = {student: {} for student in pairs}
    for student, pair in pairs.items() if len(found.shown.images) else ():
        both = zip(found.dimensions[student], found.dimensions[BASE], strict=True)
        spatial = [i for i, dimensions in enumerate(both) if dimensions == (4, 4)]
        maps[student] = {layers[i]: {} for i in spatial}
        if not spatial:
            continue
        for name, method in tqdm(methods.items(), "maps", leave=False, disable=not progress):
            for i, (ours, theirs) in zip(spatial, method.maps(pair.only(spatial), *found.shown), strict=True):
                maps[student][layers[i]][name] = (plottable(ours), plottable(theirs))
    return maps


def decisions_of(methods: Mapping[str, MapMethod], pairs: Mapping[str, Pair]) -> dict[str, str]:
    """What methods choose by themselves, such as the features that distances are taken between.

    Args:
        methods: The methods by name.
        pairs: Each student with the base model.

    Returns:
        A text for each method that chooses something. Students for which it chooses differently are named.

    Example:
        >>> method = MapMethod(("distilled", "residual"), lambda *_: [], lambda pair: f"features of {pair}")
        >>> decisions_of({"mine": method}, {"a": "layer3", "b": "layer4"})      # names in place of pairs
        {'mine': 'a: features of layer3; b: features of layer4'}
    """
    decisions = {}
    for name, method in methods.items():
        if method.decisions is not None:
            texts = {student: method.decisions(pair) for student, pair in pairs.items()}
            same = len(set(texts.values())) == 1
            each = [text if same else f"{student}: {text}" for student, text in texts.items()]
            decisions[name] = "; ".join(dict.fromkeys(each))
    return decisions


def plottable(values: Tensor) -> Tensor:
    """The values on the CPU, in a precision that figures and files can hold."""
    return values.cpu() if values.dtype == torch.float64 else values.float().cpu()
