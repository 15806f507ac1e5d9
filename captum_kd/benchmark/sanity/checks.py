"""Sanity of maps: do they depend on what they must depend on, and on nothing else?

Every check compares two maps of one image at one layer by the rank correlation of their positions. Maps are
those of distilled features. The checks of Adebayo et al., "Sanity Checks for Saliency Maps" (NeurIPS 2018),
and two that maps of a pair need: how much of a map is the same for every image, and how much of it hangs on
the samples that distances are taken against.
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
from captum_kd.datasets.demo_pair import load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import normalise
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
BATCHED = 32  # explained images in the check of batches, which costs the most


class SanitySubject(NamedTuple):
    """A pair, images to explain, and a pool of others that references are drawn from.

    Attributes:
        student: in evaluation mode.
        base: in evaluation mode.
        images: as the models take them, ``(n, c, h, w)``.
        labels: their classes.
        pool: other images.
        pool_labels: their classes.
    """

    student: nn.Module
    base: nn.Module
    images: Tensor
    labels: Tensor
    pool: Tensor
    pool_labels: Tensor

    def pair(self, student: nn.Module | None = None, reference: Tensor | None = None) -> Pair:
        """The pair at all layers.

        Args:
            student: In place of the student.
            reference: Indices into the pool; None takes all of it.
        """
        student = student or self.student
        chosen = slice(None) if reference is None else reference
        layers = default_layers(student), default_layers(self.base)
        given = [(self.pool[chosen], self.pool_labels[chosen])]
        return Pair.named(student, layers[0], self.base, layers[1], given)


class SanityRow(NamedTuple):
    """What a check found for one method at one layer, or in the mean of all layers.

    Attributes:
        check: "parameters", "training", "labels", "inputs", "reference", "batch", "insertion" or "deletion".
        method: whose maps.
        setting: of the check, for instance the number of reference samples.
        layer: its name, or "mean of layers".
        mean: over images.
        low: lower end of the normal 95 % interval over images.
        high: upper end.
        spread: standard deviation over images.
        samples: images.
        left_out: images for which nothing is defined: one of the two maps is the same everywhere.
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


def demo_subject(explained: int = 64, pool: int = 256) -> SanitySubject:
    """The demo's embedded pair on decorrelated images."""
    models, planted = load_demo_models(), load_demo_images()
    inputs = normalise(planted.images[: pool + explained])
    labels = planted.labels[: pool + explained]
    return SanitySubject(
        models.student, models.base, inputs[pool:], labels[pool:], inputs[:pool], labels[:pool]
    )


def check_maps(
    subject: SanitySubject,
    methods: Mapping[str, MapMethod] = SANITY_METHODS,
    *,
    sizes: Sequence[int] = REFERENCE_SIZES,
    draws: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> list[SanityRow]:
    """Run all checks that compare maps with maps.

    Args:
        subject: Models and images.
        methods: By name.
        sizes: Of references and batches; the pool must hold two of the largest. Methods that look at each
            image alone are not asked.
        draws: Random weights, references and batchings of each kind; an image's value is their mean.
        report: Called with what is about to be done.

    Returns:
        A row for every check, method, setting and layer.

    Raises:
        ValueError: The pool is too small.

    Example:
        >>> rows = check_maps(demo_subject(8, 32), {"mine": METHODS["UniCAM, uniqueness"]}, sizes=[16])
        >>> next(row for row in rows if row.check == "labels").mean                  # it sees no labels
        1.0
    """
    if 2 * max(sizes) > len(subject.pool):
        raise ValueError(
            f"Two references of {max(sizes)} samples need a pool of {2 * max(sizes)}, "
            f"got {len(subject.pool)}."
        )
    layers = default_layers(subject.student)
    rows = []
    for name, method in methods.items():
        report(name)
        maps = distilled_maps(method, subject.pair(), subject.images, subject.labels)
        found: dict[tuple[str, str], Tensor] = {}
        for seed in range(draws):
            for stage, student in randomised(subject.student, seed):
                changed = distilled_maps(method, subject.pair(student), subject.images, subject.labels)
                _add(found, ("parameters", stage), correlations(maps, changed) / draws)
            _add(
                found, ("labels", "permuted"), correlations(maps, _mislabelled(method, subject, seed)) / draws
            )
            for size in sizes if _looks_at_others(method) else ():
                _add(
                    found, ("reference", str(size)), _between_references(method, subject, size, seed) / draws
                )
                half = subject._replace(images=subject.images[:BATCHED], labels=subject.labels[:BATCHED])
                _add(found, ("batch", str(size)), _between_batches(method, half, size, seed) / draws)
        found["inputs", "another image"] = correlations(maps, [m.roll(1, 0) for m in maps])
        for (check, setting), values in found.items():
            rows += summarise(check, name, setting, layers, values)
    return rows


def correlations(maps: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Spearman's rank correlation of the positions of two maps of each image at each layer.

    Args:
        maps: ``(n, 1, h, w)`` for each layer.
        others: Of the same shapes.

    Returns:
        ``(layers, n)``, float64; NaN where a map is the same everywhere.

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
    """The model with fresh weights from the top down to each part in turn: the last one is wholly random.

    Args:
        model: Whose parts are its direct children that hold parameters, in the order in which they run.
        seed: Of the weights.

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
    """A row for each layer and one for the mean of layers of ``(layers, n)`` values; NaN is left out."""
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
    """A method's distilled maps (or the student's own) of many images at every layer."""
    return [ours for ours, _ in maps_in_batches(method, pair, images, labels, batch)]


def _mislabelled(method: MapMethod, subject: SanitySubject, seed: int) -> list[Tensor]:
    """Maps with labels of images and reference permuted."""
    generator = torch.Generator().manual_seed(seed)
    labels, pool_labels = (
        given[torch.randperm(len(given), generator=generator)]
        for given in (subject.labels, subject.pool_labels)
    )
    permuted = subject._replace(labels=labels, pool_labels=pool_labels)
    return distilled_maps(method, permuted.pair(), permuted.images, permuted.labels)


def _between_references(method: MapMethod, subject: SanitySubject, size: int, seed: int) -> Tensor:
    """Correlation of each image's maps under two references that share no sample."""
    order = torch.randperm(len(subject.pool), generator=torch.Generator().manual_seed(seed))
    one, other = (
        distilled_maps(method, subject.pair(reference=chosen), subject.images, subject.labels)
        for chosen in (order[:size], order[size : 2 * size])
    )
    return correlations(one, other)


def _between_batches(method: MapMethod, subject: SanitySubject, size: int, seed: int) -> Tensor:
    """Correlation of each image's maps in two batches, without a reference.

    A quarter of a batch are explained images in random groups, the others are of the pool and not in both.
    """
    group, others = size // 4, size - size // 4
    count = len(subject.images) // group * group
    images, labels = subject.images[:count], subject.labels[:count]
    pair = replace(subject.pair(), reference=None)
    generator = torch.Generator().manual_seed(seed)
    of_pool = torch.randperm(len(subject.pool), generator=generator)
    runs = []
    for start in (0, others):
        company = of_pool[start : start + others]
        order = torch.randperm(count, generator=generator)
        parts = [
            method.maps(
                pair,
                torch.cat([images[chosen], subject.pool[company]]),
                torch.cat([labels[chosen], subject.pool_labels[company]]),
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
