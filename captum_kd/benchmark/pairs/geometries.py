"""Planted-cue images in several geometries that share no layout.

A method that was chosen on one geometry may exploit its layout, for instance where item and cue lie within
the image. So the benchmark has several geometries, and reports how a method does on each.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from captum_kd.datasets.drawing import (
    CLUTTER_SIZE,
    ITEM_SIZE,
    background,
    clutter,
    coloured,
    free_places,
    shift,
    silhouettes,
    speckled,
    squares,
    two_coloured,
)
from captum_kd.datasets.planted_cue import (
    CUE_SIZE,
    NUM_CLASSES,
    Drawing,
    Omission,
    PlantedCues,
    cue_textures,
    plant_by,
    plant_cues,
)

CANVAS = 56
SIZES_CANVAS = 64
ITEM_SIZES = (18, 40)
CUE_SIZES = (8, 22)
SECOND_CUE_SIZE = 10
CLUTTER_COUNT = 12

# Images ``(n, 3, h, w)``, and the masks ``(n, h, w)`` of items and of cues.
Drawn = tuple[Tensor, Tensor, Tensor]


class Geometry(Protocol):
    """A function that plants cues, as :func:`~captum_kd.datasets.planted_cue.plant_cues` does."""

    def __call__(
        self, items: Tensor, labels: Tensor, *, agreement: float, omit: Omission = None, seed: int = 0
    ) -> PlantedCues:
        """Draw one image for each item."""


def grid(items: Tensor, cues: Tensor, omit: Omission, generator: torch.Generator) -> Drawn:
    """Four cells of 28 x 28 pixels: the item in one, the cue in another, a patch of clutter in the other two.

    An item fills its cell; cue and clutter lie anywhere within theirs.
    """
    n = len(items)
    image = background(n, CANVAS, generator)
    order = torch.rand(n, 4, generator=generator, dtype=torch.float64).argsort(1)
    cells = torch.stack((order // 2, order % 2), dim=2) * ITEM_SIZE
    image, item_mask = _draw_item(image, items, cells[:, 0], omit, generator)
    cue_at = cells[:, 1] + torch.randint(ITEM_SIZE - CUE_SIZE + 1, (n, 2), generator=generator)
    image, cue_mask = _draw_cue(image, cues, cue_at, omit, generator)
    for cell in (2, 3):
        place = cells[:, cell] + torch.randint(ITEM_SIZE - CLUTTER_SIZE + 1, (n, 2), generator=generator)
        image, _ = _draw_clutter(image, place, generator)
    return speckled(image, generator), item_mask, cue_mask


def sizes(items: Tensor, cues: Tensor, omit: Omission, generator: torch.Generator) -> Drawn:
    """Items of 18 to 40 pixels and cues of 8 to 22, each size drawn independently, on 64 x 64 pixels.

    A cue may be larger than the item. The two never overlap along one axis of the image, drawn at random.
    """
    n, canvas = len(items), SIZES_CANVAS
    image = background(n, canvas, generator)
    item_size = torch.randint(ITEM_SIZES[0], ITEM_SIZES[1] + 1, (n,), generator=generator)
    cue_size = torch.randint(CUE_SIZES[0], CUE_SIZES[1] + 1, (n,), generator=generator)
    item_at, cue_at = _apart(item_size, cue_size, canvas, generator)

    box = squares(item_at, item_size, canvas)
    item_mask = shift(_resized(silhouettes(items)[:, None], item_size), item_at, canvas)[:, 0] & box
    item = shift(_resized(coloured(items, generator), item_size), item_at, canvas)
    if omit != "item":
        image = torch.where(item_mask[:, None], item, image)

    # Textures keep the width of their stripes: a larger cue shows more of them.
    largest = CUE_SIZES[1]
    textures = torch.zeros(largest + 1, NUM_CLASSES, largest, largest, dtype=torch.bool)
    for size in range(CUE_SIZES[0], largest + 1):
        textures[size, :, :size, :size] = cue_textures(size)
    cue = two_coloured(textures[cue_size, cues], generator)
    cue_mask = squares(cue_at, cue_size, canvas)
    if omit != "cue":
        image = torch.where(cue_mask[:, None], shift(cue, cue_at, canvas), image)

    for _ in range(3):
        place = free_places(box | cue_mask, CLUTTER_SIZE, generator)
        image, _ = _draw_clutter(image, place, generator)
    return speckled(image, generator), item_mask, cue_mask


def cluttered(items: Tensor, cues: Tensor, omit: Omission, generator: torch.Generator) -> Drawn:
    """Twelve patches of clutter anywhere, even over item and cue; the masks are what remains visible.

    A patch that would leave less than half of the item or of the cue visible is left out.
    """
    n = len(items)
    image = background(n, CANVAS, generator)
    item_at = torch.randint(CANVAS - ITEM_SIZE + 1, (n, 2), generator=generator)
    image, item_mask = _draw_item(image, items, item_at, omit, generator)
    cue_at = free_places(squares(item_at, ITEM_SIZE, CANVAS), CUE_SIZE, generator)
    image, cue_mask = _draw_cue(image, cues, cue_at, omit, generator)
    whole = [mask.sum((1, 2)) for mask in (item_mask, cue_mask)]
    for _ in range(CLUTTER_COUNT):
        place = torch.randint(CANVAS - CLUTTER_SIZE + 1, (n, 2), generator=generator)
        drawn, patch = _draw_clutter(image, place, generator)
        left = [(mask & ~patch).sum((1, 2)) for mask in (item_mask, cue_mask)]
        fits = ((2 * left[0] >= whole[0]) & (2 * left[1] >= whole[1]))[:, None, None]
        image = torch.where(fits[:, None], drawn, image)
        item_mask, cue_mask = item_mask & ~(patch & fits), cue_mask & ~(patch & fits)
    return speckled(image, generator), item_mask, cue_mask


def two_cues(items: Tensor, cues: Tensor, omit: Omission, generator: torch.Generator) -> Drawn:
    """Two cues of one class, of 14 and 10 pixels, each in its own colours; the cue's mask covers both."""
    n = len(items)
    image = background(n, CANVAS, generator)
    item_at = torch.randint(CANVAS - ITEM_SIZE + 1, (n, 2), generator=generator)
    image, item_mask = _draw_item(image, items, item_at, omit, generator)
    taken = squares(item_at, ITEM_SIZE, CANVAS)
    cue_mask = torch.zeros_like(item_mask)
    for size in (CUE_SIZE, SECOND_CUE_SIZE):
        place = free_places(taken, size, generator)
        image, mask = _draw_cue(image, cues, place, omit, generator, size)
        taken, cue_mask = taken | mask, cue_mask | mask
    for _ in range(2):
        image, _ = _draw_clutter(image, free_places(taken, CLUTTER_SIZE, generator), generator)
    return speckled(image, generator), item_mask, cue_mask


def tint(items: Tensor, cues: Tensor, omit: Omission, generator: torch.Generator) -> Drawn:
    """The cue is a tint of the whole image, item included, so it has no location: its masks are empty.

    Without the cue an image has the mean of all tints.
    """
    n = len(items)
    # The background is grey before it is tinted; otherwise its own colour would hide the tint.
    image = background(n, CANVAS, generator)
    image = image.float().mean(1, keepdim=True).to(torch.int32).expand(-1, 3, -1, -1)
    item_at = torch.randint(CANVAS - ITEM_SIZE + 1, (n, 2), generator=generator)
    image, item_mask = _draw_item(image, items, item_at, omit, generator)
    taken = squares(item_at, ITEM_SIZE, CANVAS)
    for _ in range(3):
        image, _ = _draw_clutter(image, free_places(taken, CLUTTER_SIZE, generator), generator)
    tints = torch.tensor(_TINTS, dtype=torch.int32)
    chosen = tints.sum(0, keepdim=True) // len(tints) if omit == "cue" else tints[cues]
    image = image + chosen[:, :, None, None]
    return speckled(image, generator), item_mask, torch.zeros_like(item_mask)


# What is added to red, green and blue; any two tints are at least 40 apart.
_TINTS = (
    (40, 0, 0),
    (0, 40, 0),
    (0, 0, 40),
    (40, 40, 0),
    (0, 40, 40),
    (40, 0, 40),
    (-20, -20, -20),
    (40, 40, 40),
    (40, 0, -40),
    (-40, 0, 40),
)

_DRAWINGS: dict[str, Drawing] = {
    "grid": grid,
    "sizes": sizes,
    "clutter": cluttered,
    "two-cues": two_cues,
    "tint": tint,
}

GEOMETRIES: dict[str, Geometry] = {
    "free": plant_cues,
    **{name: partial(plant_by, drawing) for name, drawing in _DRAWINGS.items()},
}
"""The geometries by name; each is called like :func:`captum_kd.datasets.planted_cue.plant_cues`.

Example:
    >>> items = torch.full((4, 28, 28), 200, dtype=torch.uint8)
    >>> GEOMETRIES["sizes"](items, torch.arange(4), agreement=1.0, seed=3).images.shape
    torch.Size([4, 3, 64, 64])
"""


def _draw_item(
    image: Tensor, items: Tensor, place: Tensor, omit: Omission, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The image with an item, unless items are omitted, and the item's mask."""
    canvas = image.shape[-1]
    mask = shift(silhouettes(items)[:, None], place, canvas)[:, 0]
    item = shift(coloured(items, generator), place, canvas)
    return image if omit == "item" else torch.where(mask[:, None], item, image), mask


def _draw_cue(
    image: Tensor,
    cues: Tensor,
    place: Tensor,
    omit: Omission,
    generator: torch.Generator,
    size: int = CUE_SIZE,
) -> tuple[Tensor, Tensor]:
    """The image with a cue, unless cues are omitted, and the cue's mask."""
    canvas = image.shape[-1]
    mask = squares(place, size, canvas)
    cue = shift(two_coloured(cue_textures(size)[cues], generator), place, canvas)
    return image if omit == "cue" else torch.where(mask[:, None], cue, image), mask


def _draw_clutter(image: Tensor, place: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The image with a patch of clutter, and the patch's mask."""
    canvas = image.shape[-1]
    mask = squares(place, CLUTTER_SIZE, canvas)
    patch = shift(clutter(len(image), generator), place, canvas)
    return torch.where(mask[:, None], patch, image), mask


def _resized(patches: Tensor, size: Tensor) -> Tensor:
    """Square patches (n, c, s, s), each resized by nearest neighbour, from the top left corner."""
    source = patches.shape[-1]
    index = (torch.arange(ITEM_SIZES[1]) * source // size[:, None]).clamp_max(source - 1)
    sample = torch.arange(len(patches))[:, None, None]
    return patches.movedim(1, -1)[sample, index[:, :, None], index[:, None, :]].movedim(-1, 1)


def _apart(first: Tensor, second: Tensor, canvas: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of two squares that do not overlap: along an axis drawn at random, one comes after the other."""
    n = len(first)

    def below(limit: Tensor) -> Tensor:
        return torch.randint(2**40, (n,), generator=generator) % (limit + 1)

    slack = canvas - first - second
    one, other = below(slack), below(slack)
    before, total = torch.minimum(one, other), torch.maximum(one, other)
    swapped = torch.randint(2, (n,), generator=generator).bool()
    ahead = torch.where(swapped, second, first)
    along = torch.stack((before, total + ahead), dim=1)
    along = torch.where(
        swapped[:, None], along.flip(1), along
    )  # the places of (first, second) along the axis
    across = torch.stack((below(canvas - first), below(canvas - second)), dim=1)
    vertical = torch.randint(2, (n, 1), generator=generator).bool()
    top, left = torch.where(vertical, along, across), torch.where(vertical, across, along)
    return torch.stack((top[:, 0], left[:, 0]), 1), torch.stack((top[:, 1], left[:, 1]), 1)
