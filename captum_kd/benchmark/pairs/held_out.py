"""Images of items that no model was trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.benchmark.pairs.training import words_seed
from captum_kd.datasets.planted_cue import Omission, PlantedCues


class Counts(NamedTuple):
    """How many held-out images serve each purpose; no item serves two.

    Attributes:
        reference: The number of images that UniCAM takes distances to.
        scored: The number of images whose maps are scored.
        judged: The number of images on which the truth about models is checked.
        fitted: The number of images on which linear probes are fitted.
    """

    reference: int = 128
    scored: int = 256
    judged: int = 1024
    fitted: int = 1024


class HeldOut(NamedTuple):
    """Decorrelated images: their cues say nothing about the labels.

    Attributes:
        reference: The images that UniCAM takes distances to.
        scored: The images whose maps are scored.
        judged: The images on which the truth about models is checked.
        without_item: The judged images without their items.
        without_cue: The judged images without their cues.
        fitted: The images on which linear probes are fitted.
    """

    reference: PlantedCues
    scored: PlantedCues
    judged: PlantedCues
    without_item: PlantedCues
    without_cue: PlantedCues
    fitted: PlantedCues


def held_out(geometry: str, seed: int, items: Tensor, labels: Tensor, counts: Counts) -> HeldOut:
    """Draw decorrelated images of items in a seeded random order, each item for one purpose.

    Args:
        geometry: One of :data:`~captum_kd.benchmark.pairs.geometries.GEOMETRIES`.
        seed: The seed of the order and of the drawing.
        items: Items that no model was trained on, uint8, ``(n, 28, 28)``.
        labels: The classes of the items, ``(n,)``.
        counts: How many images serve each purpose.

    Returns:
        The images by purpose.

    Raises:
        ValueError: There are too few items.

    Example:
        >>> items, labels = torch.full((40, 28, 28), 200, dtype=torch.uint8), torch.arange(40) % 10
        >>> held_out("grid", 0, items, labels, Counts(10, 10, 10, 10)).scored.images.shape
        torch.Size([10, 3, 56, 56])
    """
    if len(items) < sum(counts):
        raise ValueError(f"{sum(counts)} held-out items are needed, got {len(items)}.")
    seeds = {name: words_seed(geometry, seed, "held out", name) for name in ("order", *Counts._fields)}
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seeds["order"]))
    chosen = dict(zip(Counts._fields, order[: sum(counts)].split(list(counts)), strict=True))

    def draw(purpose: str, omit: Omission = None) -> PlantedCues:
        rows = chosen[purpose]
        return GEOMETRIES[geometry](items[rows], labels[rows], agreement=0.0, omit=omit, seed=seeds[purpose])

    return HeldOut(
        draw("reference"),
        draw("scored"),
        draw("judged"),
        draw("judged", "item"),
        draw("judged", "cue"),
        draw("fitted"),
    )
