"""How FSS and RS behave at small n, how wide their intervals are, and whether RS of maps can be circular.

All is measured on the demo's embedded pair, and on images that neither model was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.attr import DeepUniCAM, UniCAM
from captum_kd.benchmark.pairs.checked_pair import CheckedPair
from captum_kd.functional import pairwise_distances, road
from captum_kd.functional.correlation import (
    Estimator,
    correlation_from_distances,
    semipartial_from_distances,
)
from captum_kd.functional.interval import confidence_interval_from_distances
from captum_kd.labels import embedding_rows
from captum_kd.metrics import relevance_score
from captum_kd.metrics.localization import RANDOM
from captum_kd.models.activations import layer_activations

SIZES = (8, 16, 32, 64, 128, 256)
KEPT_SHARE = 0.2
CIRCULARITY_BATCH = 32


class Curve(NamedTuple):
    """A score whose behaviour is measured.

    Attributes:
        quantity: "FSS", "RS" (of the student) or "RS distilled".
        estimator: "biased" or "unbiased".
    """

    quantity: str
    estimator: Estimator

    def name(self) -> str:
        """The name in figures and tables."""
        return f"{self.quantity}, {'biased' if self.estimator == 'biased' else 'bias-corrected'}"


CURVES = (
    Curve("FSS", "biased"),
    Curve("FSS", "unbiased"),
    Curve("RS", "biased"),
    Curve("RS", "unbiased"),
    Curve("RS distilled", "unbiased"),
)


class SizeRow(NamedTuple):
    """A score of random subsets of ``samples`` images.

    Attributes:
        quantity: "FSS", "RS" (of the student) or "RS distilled".
        estimator: "biased" or "unbiased".
        features: "pooled" or "flattened".
        samples: The number of images in a subset.
        mean: The mean over subsets.
        spread: The standard deviation over subsets, divided by the square root of the share of all images
            that a subset leaves out: large subsets of one set overlap, and would otherwise seem to agree.
        null: The mean after permuting the samples of one side.
        null_spread: The standard deviation after permuting.
        half_width: The mean half-width of the 95 % interval.
    """

    quantity: str
    estimator: str
    features: str
    samples: int
    mean: float
    spread: float
    null: float
    null_spread: float
    half_width: float


class CircularityRow(NamedTuple):
    """RS of false labels on images reduced by one kind of maps: 0 is honest.

    Attributes:
        maps: What the maps were made with.
        score: The mean over batches.
        error: The standard error of the mean.
        batches: The number of batches, each of 32 images.
    """

    maps: str
    score: float
    error: float
    batches: int


def score_sizes(
    checked: CheckedPair,
    layer: str = "layer4",
    *,
    sizes: Sequence[int] = SIZES,
    subsets: int = 40,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[SizeRow]:
    """Score random subsets of all images.

    Args:
        checked: The models and images; pool and explained images count as one set.
        layer: The name of the layer whose features are scored, globally pooled and flattened.
        sizes: The numbers of images in a subset; each smaller than the whole set.
        subsets: The number of subsets of each size.
        seed: The seed of subsets and permutations.
        report: Called with the name of each score.

    Returns:
        A row for every score, kind of features and size.

    Example:
        >>> from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
        >>> rows = score_sizes(checked_demo_pair(8, 32), sizes=[8], subsets=4)
        >>> len(rows)                                          # 5 scores, pooled and flattened
        10
    """
    images, labels = checked.all_images()
    label_distances = pairwise_distances(embedding_rows(None, labels))
    activations = [
        torch.cat(
            [layer_activations(m, [m.get_submodule(layer)], b).activations[0] for b in images.split(128)]
        )
        for m in (checked.student, checked.base)
    ]
    rows = []
    for features in ("pooled", "flattened"):
        student, base = (
            pairwise_distances(a.flatten(2).mean(2) if features == "pooled" else a) for a in activations
        )
        for curve in CURVES:
            report(f"{curve.name()}, {features}")
            matrices = {
                "FSS": (student, base),
                "RS": (student, label_distances),
                "RS distilled": (student, label_distances, base),
            }[curve.quantity]
            for size in sizes:
                found = list(_of_subsets(matrices, curve.estimator, size, subsets, seed))
                value, null, half_width = torch.tensor(found, dtype=torch.float64).T
                left_out = (1 - size / len(images)) ** 0.5
                rows.append(
                    SizeRow(
                        *curve,
                        features,
                        size,
                        value.mean().item(),
                        value.std().item() / left_out,
                        null.mean().item(),
                        null.std().item(),
                        half_width.mean().item(),
                    )
                )
    return rows


def circularity(
    checked: CheckedPair, layer: str = "layer3", *, batches: int = 5, seed: int = 0
) -> list[CircularityRow]:
    """RS of permuted labels, on images of which maps keep a fifth of the pixels.

    Permuted labels say nothing about the images, so a score above 0 comes from maps that know these labels.

    Args:
        checked: The models and images; the first images of the pool are scored, the rest is the reference.
        layer: The name of the layer of maps and features.
        batches: The number of scored batches, each of 32 images.
        seed: The seed of the permutation and of ROAD's noise.

    Returns:
        A row for each kind of maps.

    Raises:
        ValueError: There are too few images.
    """
    count = batches * CIRCULARITY_BATCH
    images, labels = checked.all_images()
    if len(images) < count + CIRCULARITY_BATCH:
        raise ValueError(
            f"{count} scored images and a reference of at least {CIRCULARITY_BATCH} others are needed, got "
            f"{len(images)} images."
        )
    false = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    reference = images[count:], false[count:]
    student, base = checked.student, checked.base
    explained = student.get_submodule(layer)
    alone = UniCAM(student, explained, base)
    referred = UniCAM(student, explained, base, reference=reference)
    recommended = DeepUniCAM(student, explained, base, reference=reference[0], class_evidence=False)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "labels, the batch itself": lambda x, target: alone.attribute(x, target),
        "labels, disjoint reference": lambda x, target: referred.attribute(x, target),
        "predictions, disjoint reference": lambda x, target: referred.attribute(x),
        "recommended, no class evidence": lambda x, target: recommended.attribute(x, relu_attributions=True),
        RANDOM: lambda x, target: torch.rand(len(x), 1, 7, 7, generator=torch.Generator().manual_seed(seed)),
    }
    rows = []
    for name, explain in ways.items():
        values = []
        for start in range(0, count, CIRCULARITY_BATCH):
            chosen = slice(start, start + CIRCULARITY_BATCH)
            inputs, target = images[chosen], false[chosen]
            keep = partial(road, share=KEPT_SHARE, generator=torch.Generator().manual_seed(seed))
            maps = explain(inputs, target)
            score = relevance_score(student, inputs, explained, target, attributions=maps, perturb_func=keep)
            assert isinstance(score, Tensor)
            values.append(score.item())
        found = torch.tensor(values)
        rows.append(CircularityRow(name, found.mean().item(), found.std().item() / batches**0.5, batches))
    return rows


def _of_subsets(
    matrices: Sequence[Tensor], estimator: Estimator, size: int, subsets: int, seed: int
) -> Iterator[tuple[float, float, float]]:
    """The score, the permuted score and the half-width of the interval, for each random subset."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(subsets):
        chosen = torch.randperm(len(matrices[0]), generator=generator)[:size]
        x, y, *given = (m[chosen][:, chosen] for m in matrices)
        order = torch.randperm(size, generator=generator)
        permuted = y[order][:, order]
        interval = confidence_interval_from_distances(x, y, *given, estimator=estimator)
        null = (
            semipartial_from_distances(x, permuted, *given)
            if given
            else correlation_from_distances(x, permuted, estimator)
        )
        yield interval.estimate.item(), null.item(), (interval.high - interval.low) / 2
