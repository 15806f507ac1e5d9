"""Images with maps beside them: any maps, several methods, or several models (the paper's Figure 3)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
from captum_kd.visualization.style import displayable, luminance

TITLE_LENGTH = 17  # characters that fit the width of a panel


class Outline(NamedTuple):
    """A region that is drawn on every panel of a row.

    Attributes:
        masks: True within the region, ``(n, h, w)``.
        label: What the legend calls it.
        colour: The colour of the line, as Matplotlib takes it.
        style: The style of the line.
    """

    masks: Tensor
    label: str
    colour: str
    style: Literal["-", "--", ":"] = "-"


def plot_maps(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    shared: Sequence[Sequence[str]] = (),
    opacity: float | None = None,
    outlines: Sequence[Outline] = (),
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
    key: str | None = None,
) -> tuple[Figure, AxesGrid]:
    """Draw a row for each image: the image, then each map beside it.

    Args:
        images: Shape ``(n, c, h, w)``, shown as :func:`~captum_kd.visualization.displayable` says.
        maps: For each column title the maps, ``(n, h, w)``. A column with negative values gets diverging
            colours, centred on zero.
        shared: Groups of columns that share one colour scale within a row, so that their strengths can be
            compared; every other panel has its own. Scales start at zero.
        opacity: Draw each map over its image in grey, with this opacity from 0 to 1, and a line around what
            is above half the scale. None: draw the map alone.
        outlines: Regions to draw on every panel.
        row_titles: A title for each image.
        title: The title of the figure.
        key: What the colour bar says about its bright end. None: the panels that the scale holds for.

    Returns:
        The figure and its axes, an array ``(n, 1 + len(maps))``.

    Raises:
        ValueError: There are no images or maps; maps differ in number or size from the images, or are not
            finite; the opacity is outside 0 to 1; or the number of row titles is not that of the images.

    Example:
        >>> import torch
        >>> figure, axes = plot_maps(torch.rand(2, 3, 8, 8), {"student": torch.rand(2, 8, 8)})
        >>> axes.shape
        (2, 2)
    """
    for name, values in maps.items():
        if values.shape != (len(images), *images.shape[2:]):
            raise ValueError(
                f"Maps {name!r} have shape {tuple(values.shape)}, but images of shape {tuple(images.shape)} "
                f"need {(len(images), *images.shape[2:])}; LayerAttribution.interpolate resizes maps."
            )
    if opacity is not None and not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be None or from 0 to 1, got {opacity}.")
    pictures, titles = displayable(images), checked_titles(row_titles, images)
    drawn = {name: at_image_size(values, images, name) for name, values in maps.items()}
    scales = _scales(drawn, shared)
    signs = sorted({signed for _, signed in scales.values()})
    figure, axes, bars = new_grid(len(images), len(maps), images.shape[2:], keys=len(signs), title=title)
    grey = None if opacity is None else luminance(pictures)
    for row, picture in enumerate(pictures):
        draw_picture(axes[row, 0], picture)
        for panel, (name, values) in zip(axes[row, 1:], drawn.items(), strict=True):
            limits, signed = scales[name]
            scale = Scale(float(limits[row]), signed)
            draw_map(panel, values[row], scale, grey=None if grey is None else grey[row], opacity=opacity)
        for panel in axes[row]:
            _draw_outlines(panel, outlines, row)
        name_row(axes[row, 0], titles[row], images.shape[2:])
    for panel, name in zip(axes[0], ["image", *maps], strict=True):
        lines = [textwrap.fill(line, TITLE_LENGTH) for line in name.splitlines()]
        panel.set_title("\n".join(lines), fontsize=TEXT_SIZE)
    for bar, signed in zip(bars, signs, strict=True):
        draw_key(bar, key or _key(maps, shared), signed=signed, lines=signed or opacity is not None)
    if outlines:
        handles = [_line(o) for o in outlines]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), fontsize=TEXT_SIZE, frameon=False
        )
    return figure, axes


def plot_models(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    shared_scale: bool = True,
    opacity: float | None = None,
    outlines: Sequence[Outline] = (),
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
) -> tuple[Figure, AxesGrid]:
    """Draw one method's maps of several models at one layer, as in the paper's Figure 3.

    Args:
        images: Shape ``(n, c, h, w)``, shown as :func:`~captum_kd.visualization.displayable` says.
        maps: For each model its maps, ``(n, 1, h', w')`` at the layer's resolution, which are resized here;
            in the order of the columns, for instance teacher, base, student.
        shared_scale: Use one scale for all models within a row. False: each panel has its own, which shows
            where a weak map is highest and hides that it is weak.
        opacity: As for :func:`plot_maps`.
        outlines: Regions to draw on every panel.
        row_titles: A title for each image.
        title: The title of the figure, for instance the method and the layer.

    Returns:
        The figure and its axes, an array ``(n, 1 + models)``.

    Raises:
        ValueError: As for :func:`plot_maps`.

    Example:
        >>> import torch
        >>> maps = {"teacher": torch.rand(2, 1, 4, 4), "student": 3 * torch.rand(2, 1, 4, 4)}
        >>> figure, axes = plot_models(torch.rand(2, 3, 8, 8), maps, opacity=0.6)
        >>> axes[0, 1].images[1].get_clim() == axes[0, 2].images[1].get_clim()
        True
    """
    resized = {name: at_image_size(values, images, name) for name, values in maps.items()}
    return plot_maps(
        images,
        resized,
        shared=[list(maps)] if shared_scale else (),
        opacity=opacity,
        outlines=outlines,
        row_titles=row_titles,
        title=title,
        key="in the row: one scale for all models" if shared_scale else None,
    )


def maps_figure(
    images: Tensor,
    maps: Mapping[str, tuple[Tensor, Tensor]],
    sides: Mapping[str, tuple[str, str]],
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
) -> tuple[Figure, AxesGrid]:
    """Draw images with the two maps of every method at one layer; the two share a scale.

    Args:
        images: Shape ``(n, c, h, w)``, shown as :func:`~captum_kd.visualization.displayable` says.
        maps: For each method its two maps, ``(n, 1, h', w')``, which are resized here.
        sides: For each method what its two maps are.
        row_titles: A title for each image.
        title: The title of the figure.

    Returns:
        The figure and its axes, an array ``(n, 1 + 2 * methods)``.

    Raises:
        ValueError: As for :func:`plot_maps`.

    Example:
        >>> import torch
        >>> pair = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        >>> words = {"mine": ("student", "base")}
        >>> maps_figure(torch.rand(2, 3, 8, 8), {"mine": pair}, words, ["a", "b"], "layer4")[1].shape
        (2, 3)
    """
    columns: dict[str, Tensor] = {}
    groups = []
    for method, pair in maps.items():
        names = [f"{method}\n{side}" for side in sides[method]]
        groups.append(names)
        columns.update({name: at_image_size(m, images, name) for name, m in zip(names, pair, strict=True)})
    key = "in the row: one scale for the two maps of a method"
    return plot_maps(images, columns, shared=groups, row_titles=row_titles, title=title, key=key)


def checked_titles(row_titles: Sequence[str] | None, images: Tensor) -> Sequence[str]:
    """A title for each image, empty if none are given.

    Raises:
        ValueError: The number of titles is not that of the images.
    """
    if row_titles is None:
        return [""] * len(images)
    if len(row_titles) != len(images):
        raise ValueError(f"row_titles must be one for each of {len(images)} images, got {len(row_titles)}.")
    return row_titles


def _scales(maps: Mapping[str, Tensor], shared: Sequence[Sequence[str]]) -> dict[str, tuple[Tensor, bool]]:
    """The limits of each column in each row, and whether it has diverging colours."""
    if not maps:
        raise ValueError("There are no maps to draw.")
    scales = {name: (peaks(values), is_signed(values)) for name, values in maps.items()}
    for group in shared:
        together = [maps[name] for name in group]
        scales.update(dict.fromkeys(group, (joint_peaks(together), is_signed(*together))))
    return scales


def _key(maps: Mapping[str, Tensor], shared: Sequence[Sequence[str]]) -> str:
    if not shared:
        return "in the panel"
    return "in the row" if set(shared[0]) == set(maps) else "in the panel, or in the panels on one scale"


def _draw_outlines(panel: Axes, outlines: Sequence[Outline], row: int) -> None:
    for outline in outlines:
        mask = outline.masks[row].cpu().numpy().astype(float)
        panel.contour(mask, levels=[0.5], colors=outline.colour, linestyles=outline.style, linewidths=0.9)


def _line(outline: Outline) -> Line2D:
    return Line2D([], [], color=outline.colour, linestyle=outline.style, label=outline.label)
