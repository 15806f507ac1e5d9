"""The planted-cue data set: images that show an item and, elsewhere, a shortcut that gives it away.

Every image holds one Fashion-MNIST item, whose class is the label, and one *cue*, a square patch
with one of ten textures. How often the texture names the item's class is a parameter. A network
trained where it nearly always does may read the cue in place of the item; the masks returned with
the images say where each of the two is, so a map can be checked against the truth.

Placement is free: item, cue and clutter lie anywhere, and nothing is aligned with a grid. All the
arithmetic is on integers, so a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

ITEM_SIZE = 28
# How often a biased image's cue is made to name the label.
CUE_AGREEMENT = 0.95
CUE_SIZE = 14
NUM_CLASSES = 10
IMAGE_MEAN = 0.3
IMAGE_STD = 0.2

_CLUTTER_SIZE = 9
_CLUTTER_COUNT = 3
_ITEM_THRESHOLD = 20  # grey level above which a pixel of an item belongs to its silhouette
_CHUNK = 500  # images drawn together; part of what a seed means, so it is not an argument

# Colours of items, cues and clutter are drawn from the same list, so colour says nothing.
_PALETTE = (
    (240, 120, 110),
    (245, 165, 90),
    (240, 210, 100),
    (170, 215, 110),
    (100, 205, 150),
    (95, 205, 215),
    (110, 165, 245),
    (155, 140, 245),
    (215, 130, 235),
    (245, 135, 185),
    (225, 225, 225),
    (200, 175, 145),
)


class PlantedCues(NamedTuple):
    """Images of the planted-cue data set and all that is known of them.

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
    """Draws one image for every item: the item, a cue, clutter and a noisy background.

    Each item is tinted and put at a random place; then the cue, a two-coloured square of 14 x 14
    pixels, at a random place outside the item's 28 x 28 box; then three patches of clutter outside
    both. Tints, colours, clutter and background are drawn without regard to the label.

    With probability ``agreement`` the cue's class is the label; otherwise it is drawn uniformly
    from all ten classes, the label among them. So the cue's class equals the label with
    probability ``agreement + (1 - agreement) / 10``, and ``agreement=0`` makes the two independent.

    Args:
        items: uint8, ``(n, 28, 28)``: grey Fashion-MNIST images, 0 where there is no item.
        labels: integers, ``(n,)``, each from 0 to 9.
        agreement: a probability, from 0 to 1.
        canvas: height and width of the images in pixels, at least 55, so that there is always
            room for a cue.
        omit: leave the ``"item"`` or the ``"cue"`` out and show the background in its place. All
            else, the masks included, is as without this argument: what a model then answers
            otherwise, it answers because of what was left out.
        seed: of the generator that draws everything. The same arguments give the same bytes.

    Returns:
        The images with labels, cue classes and masks; the masks of item and cue never overlap.

    Raises:
        TypeError: ``items`` is not uint8, or ``labels`` are not integers.
        ValueError: a shape, a label, ``agreement``, ``canvas`` or ``omit`` is not as above.

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
    _check(items, labels, agreement, canvas, omit)
    items, labels = items.cpu(), labels.cpu().long()
    generator = torch.Generator().manual_seed(seed)
    agrees = torch.rand(len(items), generator=generator, dtype=torch.float64) < agreement
    drawn = torch.randint(NUM_CLASSES, (len(items),), generator=generator)
    cues = torch.where(agrees, labels, drawn)
    scenes = [
        _draw(chunk, cue, canvas, omit, generator)
        for chunk, cue in zip(items.split(_CHUNK), cues.split(_CHUNK), strict=True)
    ]
    images, item_masks, cue_masks = (torch.cat(part) for part in zip(*scenes, strict=True))
    return PlantedCues(images, labels, cues, item_masks, cue_masks)


def normalise(images: Tensor) -> Tensor:
    """Turns planted-cue images into what the demo's models expect.

    ``(images / 255 - 0.3) / 0.2`` in every channel, in float32: about zero mean and unit variance
    over the data set.

    Args:
        images: uint8, ``(..., 3, H, W)``.

    Returns:
        float32, of the same shape, on the same device.

    Raises:
        TypeError: ``images`` are not uint8 (they may have been normalised before).

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


def cue_textures() -> Tensor:
    """The ten cue textures, one for each class.

    Returns:
        bool, ``(10, 14, 14)``: True where a cue has its light colour, False where its dark one.

    Example:
        >>> textures = cue_textures()
        >>> textures.shape
        torch.Size([10, 14, 14])
        >>> len({tuple(texture.flatten().tolist()) for texture in textures})
        10
    """
    y, x = torch.meshgrid(torch.arange(CUE_SIZE), torch.arange(CUE_SIZE), indexing="ij")
    far = CUE_SIZE - 1
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


def _check(items: Tensor, labels: Tensor, agreement: float, canvas: int, omit: str | None) -> None:
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
    smallest = ITEM_SIZE + 2 * CUE_SIZE - 1
    if canvas < smallest:
        raise ValueError(
            f"canvas is {canvas} pixels; at least {smallest} needed, so that a cue of {CUE_SIZE} "
            f"pixels fits beside an item of {ITEM_SIZE} wherever the item is"
        )
    if omit not in (None, "item", "cue"):
        raise ValueError(f'omit is {omit!r}; "item", "cue" or None needed')


def _draw(
    items: Tensor, cues: Tensor, canvas: int, omit: str | None, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one chunk: images (n, 3, canvas, canvas), item masks and cue masks."""
    n = len(items)
    image = _background(n, canvas, generator)

    item_at = torch.randint(canvas - ITEM_SIZE + 1, (n, 2), generator=generator)
    silhouette = items > _ITEM_THRESHOLD
    # Lifted grey levels, so that the dark parts of an item stand out from the background too.
    shade = (90 + items.int() * 165 // 255)[:, None]
    item = shade * _colours(n, generator)[:, :, None, None] // 255
    taken = _shift(torch.ones_like(silhouette)[:, None], item_at, canvas)[:, 0]
    item_mask = _shift(silhouette[:, None], item_at, canvas)[:, 0]
    if omit != "item":
        image = torch.where(item_mask[:, None], _shift(item, item_at, canvas), image)

    cue_at = _free_places(taken, CUE_SIZE, generator)
    cue = _two_coloured(cue_textures()[cues], generator)
    cue_mask = _shift(torch.ones_like(cue[:, :1], dtype=torch.bool), cue_at, canvas)[:, 0]
    taken = taken | cue_mask
    if omit != "cue":
        image = torch.where(cue_mask[:, None], _shift(cue, cue_at, canvas), image)

    for _ in range(_CLUTTER_COUNT):
        clutter_at = _free_places(taken, _CLUTTER_SIZE, generator)
        blocks = torch.randint(2, (n, 3, 3), generator=generator).bool()
        blocks = blocks.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
        clutter = _two_coloured(blocks, generator)
        mask = _shift(torch.ones_like(clutter[:, :1], dtype=torch.bool), clutter_at, canvas)
        image = torch.where(mask, _shift(clutter, clutter_at, canvas), image)

    grain = torch.randint(-10, 11, image.shape, generator=generator, dtype=torch.int32)
    return (image + grain).clamp(0, 255).to(torch.uint8), item_mask, cue_mask


def _background(n: int, canvas: int, generator: torch.Generator) -> Tensor:
    """Dull colours with soft clouds: int32, (n, 3, canvas, canvas)."""
    colour = torch.randint(40, 90, (n, 3, 1, 1), generator=generator, dtype=torch.int32)
    blur, block = 13, 7
    coarse = -(-(canvas + 2 * (blur - 1)) // block)
    clouds = torch.randint(-60, 61, (n, 1, coarse, coarse), generator=generator, dtype=torch.int32)
    clouds = clouds.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    for dim in (2, 3, 2, 3):
        total = clouds.cumsum(dim, dtype=torch.int32)
        size = total.shape[dim] - blur + 1
        # The window's sum as a difference of running totals; the first window starts one late.
        clouds = total.narrow(dim, blur - 1, size) - torch.cat(
            (torch.zeros_like(total.narrow(dim, 0, 1)), total.narrow(dim, 0, size - 1)), dim
        )
        clouds = clouds.div(blur, rounding_mode="floor")
    return colour + clouds[:, :, :canvas, :canvas]


def _colours(n: int, generator: torch.Generator) -> Tensor:
    palette = torch.tensor(_PALETTE, dtype=torch.int32)
    return palette[torch.randint(len(palette), (n,), generator=generator)]


def _two_coloured(texture: Tensor, generator: torch.Generator) -> Tensor:
    """Colours bool textures (n, s, s): one random colour and a dark shade of another."""
    light = _colours(len(texture), generator)[:, :, None, None]
    dark = _colours(len(texture), generator)[:, :, None, None] * 2 // 5
    return torch.where(texture[:, None], light, dark)


def _shift(patches: Tensor, places: Tensor, canvas: int) -> Tensor:
    """Puts square patches (n, c, s, s) on empty canvases (n, c, canvas, canvas), 0 elsewhere."""
    size = patches.shape[-1]
    offset = torch.arange(canvas) - places[:, :, None]  # (n, 2, canvas): place within the patch
    inside = (offset >= 0) & (offset < size)
    rows, columns = offset.clamp(0, size - 1).unbind(1)
    sample = torch.arange(len(patches))[:, None, None]
    shifted = patches.movedim(1, -1)[sample, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return shifted * (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def _free_places(taken: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One place (top, left) for each image, uniform over those where a square covers nothing taken.

    Args:
        taken: bool, (n, canvas, canvas).
        size: height and width of the square in pixels.
        generator: draws the places.

    Returns:
        int64, (n, 2).
    """
    total = torch.nn.functional.pad(taken.int(), (1, 0, 1, 0)).cumsum(1).cumsum(2)
    covered = (
        total[:, size:, size:] - total[:, :-size, size:]
        - total[:, size:, :-size] + total[:, :-size, :-size]
    )  # fmt: skip
    free = (covered == 0).flatten(1).cumsum(1)
    pick = torch.randint(2**40, (len(taken), 1), generator=generator) % free[:, -1:]
    index = torch.searchsorted(free, pick, right=True)[:, 0]
    return torch.stack((index // covered.shape[2], index % covered.shape[2]), dim=1)
