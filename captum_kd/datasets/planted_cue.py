"""The planted-cue data set: images that show an item and, elsewhere, a shortcut that gives its class away.

Every image holds one Fashion-MNIST item, whose class is the label, and one *cue*, a square patch with one of
ten textures. How often the texture names the item's class is a parameter. A network trained on images where
it nearly always does may read the cue instead of the item; the masks returned with the images say where the
two are, so a map can be checked against the truth.

Placement is free: item, cue and clutter lie anywhere, not on a grid. All arithmetic is on integers, so a seed
gives the same bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

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

# Probability with which the cue of a biased image is made to name the label.
CUE_AGREEMENT = 0.95
CUE_SIZE = 14
NUM_CLASSES = 10
IMAGE_MEAN = 0.3
IMAGE_STD = 0.2

_CLUTTER_COUNT = 3
_CHUNK = 500  # images drawn together; part of what a seed means, so it is not an argument

Omission = Literal["item", "cue"] | None
# Draws items with cues of the given classes: images, uint8, with the masks of items and cues.
Drawing = Callable[[Tensor, Tensor, Omission, torch.Generator], tuple[Tensor, Tensor, Tensor]]


class PlantedCues(NamedTuple):
    """Images of the planted-cue data set, and where item and cue are.

    Attributes:
        images: uint8, ``(n, 3, canvas, canvas)``, 0 to 255. Use :func:`normalise` to feed a model.
        labels: int64, ``(n,)``. The class of each item.
        cues: int64, ``(n,)``. The class that each cue stands for.
        item_masks: bool, ``(n, canvas, canvas)``. True on the silhouette of the item.
        cue_masks: bool, ``(n, canvas, canvas)``. True on the cue, a full square.
    """

    images: Tensor
    labels: Tensor
    cues: Tensor
    item_masks: Tensor
    cue_masks: Tensor


def plant_cues(
    items: Tensor,
    labels: Tensor,
    *,
    agreement: float,
    canvas: int = 56,
    omit: Literal["item", "cue"] | None = None,
    seed: int = 0,
) -> PlantedCues:
    """Draw one image for every item: the item, a cue, clutter and a noisy background.

    Each item is tinted and put at a random place; then the cue, a two-coloured square of 14 x 14 pixels, at a
    random place outside the item's 28 x 28 box; then three patches of clutter outside both. Tints, colours,
    clutter and background are drawn independently of the label.

    With probability ``agreement`` the cue's class is the label; otherwise it is drawn uniformly from all ten
    classes, including the label. So the cue's class equals the label with probability
    ``agreement + (1 - agreement) / 10``, and ``agreement=0`` makes the two independent.

    Args:
        items: Grey Fashion-MNIST images, uint8, ``(n, 28, 28)``, 0 where there is no item.
        labels: Class of each item, integers from 0 to 9, ``(n,)``.
        agreement: Probability that a cue is made to name the label, from 0 to 1.
        canvas: Height and width of the images in pixels, at least 55, so that there is always room for a cue.
        omit: Leave out the ``"item"`` or the ``"cue"`` and show the background in its place. Everything else,
            including the masks, is the same as without this argument: if a model's answer changes, what was
            left out changed it.
        seed: Seed of the generator that draws everything. The same arguments give the same bytes.

    Returns:
        The images with labels, cue classes and masks; the masks of item and cue never overlap.

    Raises:
        TypeError: ``items`` is not uint8, or ``labels`` are not integers.
        ValueError: A shape, a label, ``agreement``, ``canvas`` or ``omit`` is not as above.

    Example:
        >>> items = torch.full((4, 28, 28), 200, dtype=torch.uint8)
        >>> planted = plant_cues(items, torch.arange(4), agreement=1.0, seed=3)
        >>> planted.images.shape, planted.images.dtype
        (torch.Size([4, 3, 56, 56]), torch.uint8)
        >>> planted.cues
        tensor([0, 1, 2, 3])
        >>> planted.cue_masks.sum(dim=(1, 2))
        tensor([196, 196, 196, 196])
        >>> bool((planted.item_masks & planted.cue_masks).any())
        False
    """
    smallest = ITEM_SIZE + 2 * CUE_SIZE - 1
    if canvas < smallest:
        raise ValueError(
            f"canvas is {canvas} pixels; at least {smallest} needed, so that a cue of {CUE_SIZE} "
            f"pixels fits beside an item of {ITEM_SIZE} wherever the item is"
        )
    return plant_by(partial(_draw, canvas=canvas), items, labels, agreement=agreement, omit=omit, seed=seed)


def plant_by(
    draw: Drawing, items: Tensor, labels: Tensor, *, agreement: float, omit: Omission = None, seed: int = 0
) -> PlantedCues:
    """Choose the cues as :func:`plant_cues` does, and let a function draw the images.

    Args:
        draw: Function that is called with up to 500 items, the classes of their cues, ``omit`` and the
            generator, and returns images and both masks.
        items: See :func:`plant_cues`, also for the arguments below.
        labels: Classes of the items.
        agreement: Probability that a cue is made to name the label.
        omit: What to leave out.
        seed: Seed of the generator.

    Returns:
        The images with labels, cue classes and masks.

    Raises:
        TypeError: ``items`` is not uint8, or ``labels`` are not integers.
        ValueError: A shape, a label, ``agreement`` or ``omit`` is not valid.
    """
    _check(items, labels, agreement, omit)
    items, labels = items.cpu(), labels.cpu().long()
    generator = torch.Generator().manual_seed(seed)
    agrees = torch.rand(len(items), generator=generator, dtype=torch.float64) < agreement
    drawn = torch.randint(NUM_CLASSES, (len(items),), generator=generator)
    cues = torch.where(agrees, labels, drawn)
    scenes = [
        draw(chunk, cue, omit, generator)
        for chunk, cue in zip(torch.split(items, _CHUNK), torch.split(cues, _CHUNK), strict=True)
    ]
    images, item_masks, cue_masks = (torch.cat(part) for part in zip(*scenes, strict=True))
    return PlantedCues(images, labels, cues, item_masks, cue_masks)


def normalise(images: Tensor) -> Tensor:
    """Normalise planted-cue images as the demo's models expect them.

    ``(images / 255 - 0.3) / 0.2`` in every channel, in float32: about zero mean and unit variance
    over the data set.

    Args:
        images: uint8, ``(..., 3, H, W)``.

    Returns:
        float32, of the same shape, on the same device.

    Raises:
        TypeError: ``images`` are not uint8 (perhaps they are normalised already).

    Example:
        >>> normalise(torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)).mean()
        tensor(-0.5000)
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f"images have dtype {images.dtype}; normalise() needs torch.uint8 from 0 to 255, as "
            "plant_cues() returns them"
        )
    return (images.float() / 255 - IMAGE_MEAN) / IMAGE_STD


def cue_textures(size: int = CUE_SIZE) -> Tensor:
    """Return the ten cue textures, one for each class.

    Args:
        size: Height and width in pixels.

    Returns:
        bool, ``(10, size, size)``: True where a cue has its light colour, False where it has its dark one.

    Example:
        >>> textures = cue_textures()
        >>> textures.shape
        torch.Size([10, 14, 14])
        >>> len({tuple(texture.flatten().tolist()) for texture in textures})
        10
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    far = size - 1
    from_edge = torch.stack((x, y, far - x, far - y)).amin(0)
    return torch.stack(
        (
            y % 4 < 2,  # horizontal stripes
            x % 4 < 2,  # vertical stripes
            (x + y) % 6 < 3,  # rising diagonals
            (x - y) % 6 < 3,  # falling diagonals
            (x // 2 + y // 2) % 2 == 0,  # chequerboard
            (x % 4 < 2) & (y % 4 < 2),  # dots
            from_edge % 4 < 2,  # nested squares
            ((x - far // 2) // 2 == 0) | ((y - far // 2) // 2 == 0),  # upright cross
            (x - y).abs().minimum((x + y - far).abs()) < 2,  # diagonal cross
            ((2 * x - far).abs() + (2 * y - far).abs()) < far,  # diamond
        )
    )


def _check(items: Tensor, labels: Tensor, agreement: float, omit: str | None) -> None:
    if items.dtype != torch.uint8:
        raise TypeError(f"items have dtype {items.dtype}; grey levels 0 to 255 in torch.uint8 needed")
    if items.ndim != 3 or items.shape[1:] != (ITEM_SIZE, ITEM_SIZE) or not len(items):
        raise ValueError(f"items have shape {tuple(items.shape)}; (n, 28, 28) with n >= 1 needed")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels have dtype {labels.dtype}; integer class indices needed")
    if labels.shape != items.shape[:1]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; one for each of the {len(items)} items "
            f"needed, shape ({len(items)},)"
        )
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; 0 to 9 needed, since "
            "there are ten cue textures"
        )
    if not 0 <= agreement <= 1:
        raise ValueError(f"agreement is {agreement}; a probability from 0 to 1 needed")
    if omit not in (None, "item", "cue"):
        raise ValueError(f'omit is {omit!r}; "item", "cue" or None needed')


def _draw(
    items: Tensor, cues: Tensor, omit: Omission, generator: torch.Generator, *, canvas: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one chunk: images (n, 3, canvas, canvas), item masks and cue masks."""
    n = len(items)
    image = background(n, canvas, generator)

    item_at = torch.randint(canvas - ITEM_SIZE + 1, (n, 2), generator=generator)
    item = coloured(items, generator)
    taken = squares(item_at, ITEM_SIZE, canvas)
    item_mask = shift(silhouettes(items)[:, None], item_at, canvas)[:, 0]
    if omit != "item":
        image = torch.where(item_mask[:, None], shift(item, item_at, canvas), image)

    cue_at = free_places(taken, CUE_SIZE, generator)
    cue = two_coloured(cue_textures()[cues], generator)
    cue_mask = squares(cue_at, CUE_SIZE, canvas)
    taken = taken | cue_mask
    if omit != "cue":
        image = torch.where(cue_mask[:, None], shift(cue, cue_at, canvas), image)

    for _ in range(_CLUTTER_COUNT):
        clutter_at = free_places(taken, CLUTTER_SIZE, generator)
        patch, mask = clutter(n, generator), squares(clutter_at, CLUTTER_SIZE, canvas)
        image = torch.where(mask[:, None], shift(patch, clutter_at, canvas), image)

    return speckled(image, generator), item_mask, cue_mask
