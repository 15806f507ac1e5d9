"""The parts of planted-cue images, drawn in integers, so that a seed gives the same bytes everywhere.

Images are int32 ``(n, 3, canvas, canvas)`` while they are drawn; places are ``(top, left)``, ``(n, 2)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

ITEM_SIZE = 28
CLUTTER_SIZE = 9
_ITEM_THRESHOLD = 20  # grey level above which a pixel of an item belongs to its silhouette

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


def silhouettes(items: Tensor) -> Tensor:
    """True on the pixels that belong to an item, of the shape of ``items``."""
    return items > _ITEM_THRESHOLD


def coloured(items: Tensor, generator: torch.Generator) -> Tensor:
    """Grey items (n, s, s), each in a random colour: int32, (n, 3, s, s)."""
    # Lifted grey levels, so that the dark parts of an item stand out from the background too.
    shade = (90 + items.int() * 165 // 255)[:, None]
    return shade * colours(len(items), generator)[:, :, None, None] // 255


def clutter(n: int, generator: torch.Generator) -> Tensor:
    """Patches of random blocks in two colours: int32, (n, 3, 9, 9)."""
    blocks = torch.randint(2, (n, 3, 3), generator=generator).bool()
    return two_coloured(blocks.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2), generator)


def speckled(image: Tensor, generator: torch.Generator) -> Tensor:
    """The finished image, uint8, with a grain of -10 to 10."""
    grain = torch.randint(-10, 11, image.shape, generator=generator, dtype=torch.int32)
    return (image + grain).clamp(0, 255).to(torch.uint8)


def background(n: int, canvas: int, generator: torch.Generator) -> Tensor:
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


def colours(n: int, generator: torch.Generator) -> Tensor:
    """Draw n colours of the palette: int32, (n, 3)."""
    palette = torch.tensor(_PALETTE, dtype=torch.int32)
    return palette[torch.randint(len(palette), (n,), generator=generator)]


def two_coloured(texture: Tensor, generator: torch.Generator) -> Tensor:
    """Colour bool textures (n, s, s): one random colour and a dark shade of another."""
    light = colours(len(texture), generator)[:, :, None, None]
    dark = colours(len(texture), generator)[:, :, None, None] * 2 // 5
    return torch.where(texture[:, None], light, dark)


def shift(patches: Tensor, places: Tensor, canvas: int) -> Tensor:
    """Put square patches (n, c, s, s) on empty canvases (n, c, canvas, canvas), 0 elsewhere."""
    size = patches.shape[-1]
    offset = torch.arange(canvas) - places[:, :, None]  # (n, 2, canvas): place within the patch
    inside = (offset >= 0) & (offset < size)
    rows, columns = offset.clamp(0, size - 1).unbind(1)
    sample = torch.arange(len(patches))[:, None, None]
    shifted = patches.movedim(1, -1)[sample, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
    return shifted * (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def squares(places: Tensor, size: int | Tensor, canvas: int) -> Tensor:
    """True on one square per image, of one size for all or one each: bool, (n, canvas, canvas)."""
    offset = torch.arange(canvas) - places[:, :, None]
    end = size if isinstance(size, int) else size[:, None, None]
    inside = (offset >= 0) & (offset < end)
    return inside[:, 0, :, None] & inside[:, 1, None, :]


def free_places(taken: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one place (top, left) per image, uniformly among those where a square covers nothing taken.

    Args:
        taken: True where something lies already, bool, (n, canvas, canvas).
        size: Height and width of the square in pixels.
        generator: Draws the places.

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
