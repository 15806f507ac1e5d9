"""Two sides of every layer below each other (the paper's Figures 5, 7, 8 and A.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.visualization.grid import (
    TEXT_SIZE,
    AxesGrid,
    Scale,
    at_image_size,
    draw_key,
    draw_map,
    draw_picture,
    is_signed,
    joint_peaks,
    name_row,
    new_grid,
    peaks,
)
from captum_kd.visualization.maps import checked_titles
from captum_kd.visualization.style import displayable

# For each student and layer two maps (n, 1, h', w') at the layer's resolution: distilled and residual.
LayerPairs: TypeAlias = Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]
# The student, layer and side (0 or 1) of a panel.
Place: TypeAlias = tuple[str, str, int]


def plot_layers(
    images: Tensor,
    maps: LayerPairs,
    *,
    sides: tuple[str, str] = ("distilled", "residual"),
    shared_scale: bool = True,
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
) -> tuple[Figure, AxesGrid]:
    """Draw both sides of a method at each layer, as in the paper's Figure 5.

    There is a row for each side and a column for each layer.

    Args:
        images: Shape ``(n, c, h, w)``, shown as :func:`~captum_kd.visualization.displayable` says.
        maps: For each student and layer two maps, ``(n, 1, h', w')`` at the layer's resolution, which are
            resized here. All students have the same layers.
        sides: What the two maps are.
        shared_scale: Use one scale for the maps of an image at a layer, of both sides and all students.
            False: each panel has its own, which shows where a weak map is highest and hides that it is weak.
        row_titles: A title for each image.
        title: The title of the figure, for instance the method.

    Returns:
        The figure and its axes, an array ``(n * 2 * students, 1 + layers)``: for each image the first
        student's two rows, then the next one's. An image spans these rows, and its axes are in each.

    Raises:
        ValueError: There are no images or maps, students differ in their layers, maps do not fit the images
            or are not finite, or the number of row titles is not that of the images.

    Example:
        >>> import torch
        >>> pair = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        >>> figure, axes = plot_layers(torch.rand(2, 3, 8, 8), {"student": {"layer3": pair, "layer4": pair}})
        >>> axes.shape
        (4, 3)
    """
    drawn = resized_maps(images, maps, sides)
    signed = is_signed(*drawn.values())
    limits = {
        place: joint_peaks([m for (_, layer, _), m in drawn.items() if layer == place[1]])
        if shared_scale
        else peaks(values)
        for place, values in drawn.items()
    }

    def draw(panel: Axes, place: Place, i: int) -> None:
        draw_map(panel, drawn[place][i], Scale(float(limits[place][i]), signed))

    figure, axes, bars = draw_layers(images, maps, sides, draw, row_titles, title, keys=1)
    models = " and all students" if len(maps) > 1 else ""
    key = f"of the image at the layer: one scale for both sides{models}" if shared_scale else "in the panel"
    draw_key(bars[0], key, signed=signed, lines=signed)
    return figure, axes


def draw_layers(
    images: Tensor,
    maps: LayerPairs,
    sides: tuple[str, str],
    draw: Callable[[Axes, Place, int], None],
    row_titles: Sequence[str] | None,
    title: str | None,
    *,
    keys: int,
) -> tuple[Figure, AxesGrid, list[Axes]]:
    """Draw the grid of :func:`plot_layers`; ``draw(axes, place, number of the image)`` fills a panel."""
    pictures, titles = displayable(images), checked_titles(row_titles, images)
    layers = list(next(iter(maps.values())))
    rows = [(student, side) for student in maps for side in (0, 1)]
    figure, axes, bars = new_grid(
        len(rows) * len(images), len(layers), images.shape[2:], span=len(rows), keys=keys, title=title
    )
    for i, picture in enumerate(pictures):
        top = i * len(rows)
        draw_picture(axes[top, 0], picture)
        name_row(axes[top, 0], titles[i], images.shape[2:])
        for row, (student, side) in enumerate(rows, start=top):
            name = f"{student}\n{sides[side]}" if len(maps) > 1 else sides[side]
            name_row(axes[row, 1], name, images.shape[2:])
            for panel, layer in zip(axes[row, 1:], layers, strict=True):
                draw(panel, (student, layer, side), i)
    for panel, name in zip(axes[0], ["image", *layers], strict=True):
        panel.set_title(name, fontsize=TEXT_SIZE)
    return figure, axes, bars


def resized_maps(images: Tensor, maps: LayerPairs, sides: tuple[str, str]) -> dict[Place, Tensor]:
    """Resize every map to the images.

    Raises:
        ValueError: See :func:`plot_layers`.
    """
    layers = {student: list(pairs) for student, pairs in maps.items()}
    if not layers or not all(layers.values()):
        raise ValueError("There are no maps to draw.")
    first, expected = next(iter(layers.items()))
    for student, names in layers.items():
        if names != expected:
            raise ValueError(
                f"All students must have the same layers, but {first!r} has {', '.join(expected)} and "
                f"{student!r} has {', '.join(names)}."
            )
    return {
        (student, layer, side): at_image_size(values, images, f"{student}, {layer}, {sides[side]}")
        for student, pairs in maps.items()
        for layer, pair in pairs.items()
        for side, values in enumerate(pair)
    }
