"""Sanity of maps: do they depend on what they must depend on, and on nothing else?

Every check compares two maps of one image at one layer by the rank correlation of their values. The maps are
those of distilled features. The checks are those of Adebayo et al., "Sanity Checks for Saliency Maps"
(NeurIPS 2018), and two that maps of a pair need: how much of a map is the same for every image, and how much
of it depends on the samples that distances are taken to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.attr.methods import METHODS, MapMethod, both_models, difference, maps_in_batches
from captum_kd.attr.pair import Pair
from captum_kd.benchmark.pairs.checked_pair import CheckedPair
from captum_kd.metrics.localization import pixel_ranks
from captum_kd.models.architectures import default_layers

SANITY_METHODS: dict[str, MapMethod] = {
    name: METHODS[name]
    for name in (
        "Grad-CAM difference",
        "UniCAM, published objective",
        "UniCAM, uniqueness",
        "UniCAM, recommended",
    )
}
ALL_LAYERS = "mean of layers"
REFERENCE_SIZES = (8, 16, 32, 64, 128)
BATCHED = 32  # explained images in the check of batches, which takes the most time


class SanityRow(NamedTuple):
    """What a check found for one method at one layer, or in the mean of all layers.

    Attributes:
        check: "parameters", "training", "labels", "inputs", "reference", "batch", "insertion" or "deletion".
        method: The name of the method.
        setting: The setting of the check, for instance the number of reference samples.
        layer: The name of the layer, or "mean of layers".
        mean: The mean over images.
        low: The lower end of the normal 95 % interval over images.
        high: The upper end.
        spread: The standard deviation over images.
        samples: The number of images.
        left_out: The number of images without a value, since one of the two maps is constant.
    """

    check: str
    method: str
    setting: str
    layer: str
    mean: float
    low: float
    high: float
    spread: float
    samples: int
    left_out: int


def check_maps(
    checked: CheckedPair,
    methods: Mapping[str, MapMethod] = SANITY_METHODS,
    *,
    sizes: Sequence[int] = REFERENCE_SIZES,
    draws: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> list[SanityRow]:
    """Run all checks that compare maps with maps.

    Args:
        checked: The models and images.
        methods: The methods by name.
        sizes: The sizes of references and of batches; the pool must hold two of the largest. These checks are
            skipped for methods that look at each image alone.
        draws: The number of random weights, references and batchings; an image's value is their mean.
        report: Called with the name of each method.

    Returns:
        A row for every check, method, setting and layer.

    Raises:
        ValueError: The pool is too small.

    Example:
        >>> from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
        >>> rows = check_maps(checked_demo_pair(8, 32), {"mine": METHODS["UniCAM, uniqueness"]}, sizes=[16])
        >>> next(row for row in rows if row.check == "labels").mean                  # it sees no labels
        1.0
    """
    if 2 * max(sizes) > len(checked.pool):
        raise ValueError(
            f"Two references of {max(sizes)} samples need a pool of {2 * max(sizes)}, "
            f"got {len(checked.pool)}."
        )
    layers = default_layers(checked.student)
    rows = []
    for name, method in methods.items():
        report(name)
        maps = distilled_maps(method, checked.pair(), checked.images, checked.labels)
        found: dict[tuple[str, str], Tensor] = {}
        for seed in range(draws):
            for stage, student in randomised(checked.student, seed):
                changed = distilled_maps(method, checked.pair(student), checked.images, checked.labels)
                _add(found, ("parameters", stage), correlations(maps, changed) / draws)
            _add(
                found, ("labels", "permuted"), correlations(maps, _mislabelled(method, checked, seed)) / draws
            )
            for size in sizes if _looks_at_others(method) else ():
                _add(
                    found, ("reference", str(size)), _between_references(method, checked, size, seed) / draws
                )
                half = checked._replace(images=checked.images[:BATCHED], labels=checked.labels[:BATCHED])
                _add(found, ("batch", str(size)), _between_batches(method, half, size, seed) / draws)
        found["inputs", "another image"] = correlations(maps, [m.roll(1, 0) for m in maps])
        for (check, setting), values in found.items():
            rows += summarise(check, name, setting, layers, values)
    return rows


def correlations(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Spearman's rank correlation of two maps of each image at each layer, over positions.

    Args:
        maps: One map of each image, ``(n, 1, h, w)`` for each layer.
        others: The other map of each image, of the same shapes.

    Returns:
        The correlations ``(layers, n)``, float64; NaN where a map is constant.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).reshape(1, 1, 2, 2)
        >>> round(correlations([a], [a**2]).item(), 6), round(correlations([a], [-a]).item(), 6)
        (1.0, -1.0)
    """
    result = []
    for a, b in zip(maps, others, strict=True):
        x, y = (pixel_ranks(m.flatten(1)) for m in (a, b))
        x, y = (r - r.mean(1, keepdim=True) for r in (x, y))
        norms = x.norm(dim=1) * y.norm(dim=1)
        value = ((x * y).sum(1) / norms).clamp(-1, 1)
        result.append(torch.where(norms > 0, value, torch.nan))
    return torch.stack(result)


def randomised(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Give a copy of the model fresh weights, part by part from the top down, until it is wholly random.

    Args:
        model: The model; its parts are its direct children that hold parameters, in the order in which they
            are registered.
        seed: The seed of the weights.

    Yields:
        The name of the lowest fresh part, and the model, which the next step changes further.

    Example:
        >>> from captum_kd.models.small import small_resnet
        >>> [name for name, _ in randomised(small_resnet(4), 0)]
        ['fc', 'layer4', 'layer3', 'layer2', 'layer1', 'bn1', 'conv1']
    """
    model = copy.deepcopy(model)
    parts = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in reversed(parts):
            for module in model.get_submodule(name).modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
            yield name, model


def summarise(
    check: str, method: str, setting: str, layers: Sequence[str], values: Tensor
) -> list[SanityRow]:
    """A row for each layer and one for the mean of layers.

    Args:
        check: The name of the check.
        method: The name of the method.
        setting: The setting of the check.
        layers: The names of the layers.
        values: The value of each image at each layer, ``(layers, n)``; NaN is left out.
    """
    rows = []
    for layer, of_images in zip([*layers, ALL_LAYERS], [*values, values.nanmean(0)], strict=True):
        known = of_images[~of_images.isnan()]
        mean = known.mean().item() if len(known) else torch.nan
        spread = known.std().item() if len(known) > 1 else torch.nan
        margin = 1.96 * spread / max(len(known), 1) ** 0.5
        counts = len(known), len(of_images) - len(known)
        rows.append(
            SanityRow(check, method, setting, layer, mean, mean - margin, mean + margin, spread, *counts)
        )
    return rows


def distilled_maps(
    method: MapMethod, pair: Pair, images: Tensor, labels: Tensor, batch: int = 64
) -> list[Tensor]:
    """A method's distilled maps (or the student's own) of many images, for each layer."""
    return [ours for ours, _ in maps_in_batches(method, pair, images, labels, batch)]


def _mislabelled(method: MapMethod, checked: CheckedPair, seed: int) -> list[Tensor]:
    """The maps after permuting the labels of images and reference."""
    generator = torch.Generator().manual_seed(seed)
    labels, pool_labels = (
        given[torch.randperm(len(given), generator=generator)]
        for given in (checked.labels, checked.pool_labels)
    )
    permuted = checked._replace(labels=labels, pool_labels=pool_labels)
    return distilled_maps(method, permuted.pair(), permuted.images, permuted.labels)


def _between_references(method: MapMethod, checked: CheckedPair, size: int, seed: int) -> Tensor:
    """The correlation of each image's maps under two references that share no sample."""
    order = torch.randperm(len(checked.pool), generator=torch.Generator().manual_seed(seed))
    one, other = (
        distilled_maps(method, checked.pair(reference=chosen), checked.images, checked.labels)
        for chosen in (order[:size], order[size : 2 * size])
    )
    return correlations(one, other)


def _between_batches(method: MapMethod, checked: CheckedPair, size: int, seed: int) -> Tensor:
    """The correlation of each image's maps in two batches, without a reference.

    A quarter of each batch are explained images, grouped at random; the rest comes from the pool, and no
    image of the pool is in both batches.
    """
    group, others = size // 4, size - size // 4
    count = len(checked.images) // group * group
    images, labels = checked.images[:count], checked.labels[:count]
    pair = replace(checked.pair(), reference=None)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(checked.pool), generator=generator)
    runs = []
    for start in (0, others):
        company = shuffled[start : start + others]
        order = torch.randperm(count, generator=generator)
        parts = [
            method.maps(
                pair,
                torch.cat([images[chosen], checked.pool[company]]),
                torch.cat([labels[chosen], checked.pool_labels[company]]),
            )
            for chosen in order.split(group)
        ]
        maps = (torch.cat([ours[:group] for ours, _ in of_layer]) for of_layer in zip(*parts, strict=True))
        runs.append([of_layer[order.argsort()] for of_layer in maps])
    return correlations(*runs)


def _looks_at_others(method: MapMethod) -> bool:
    """Whether a method's map of an image may depend on other images."""
    return getattr(method.maps, "func", None) not in (both_models, difference)


def _add(found: dict[tuple[str, str], Tensor], key: tuple[str, str], value: Tensor) -> None:
    found[key] = found[key] + value if key in found else value
