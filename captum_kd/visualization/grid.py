"""The grid that pictures and maps are drawn in: its geometry, a panel, and the key to its colours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from captum_kd.visualization.style import POSITIVE_COLOURS, SIGNED_COLOURS

# Axes in rows and columns.
AxesGrid: TypeAlias = NDArray[np.object_]

PANEL_WIDTH = 1.35  # inches, as are those that follow
KEY_HEIGHT = 0.7
KEY_WIDTH = 2.0
TEXT_SIZE = 8  # points


class Scale(NamedTuple):
    """The values that a panel's colours span: zero to ``limit``, or ``-limit`` to ``limit`` if signed."""

    limit: float
    signed: bool = False


def new_grid(
    rows: int, columns: int, size: Sequence[int], *, span: int = 1, keys: int = 0, title: str | None = None
) -> tuple[Figure, AxesGrid, list[Axes]]:
    """Make empty panels beside a first column of pictures.

    Args:
        rows: The number of rows of panels.
        columns: The number of columns of panels, without the first.
        size: The height and width of the images in pixels, which give the panels their shape.
        span: The number of rows that a picture of the first column spans.
        keys: The number of colour bars below.
        title: The title of the figure.

    Returns:
        The figure; its axes, an array ``(rows, 1 + columns)``, with the axes of a picture in each row that
        it spans; and the axes of the colour bars.
    """
    first = min(span, 2)
    shape = min(max(size[0] / size[1], 0.3), 3)
    width = max(PANEL_WIDTH * (first + columns), 3.6, (KEY_WIDTH + 0.8) * keys)
    height = PANEL_WIDTH * shape * rows + 0.45 + KEY_HEIGHT * bool(keys) + 0.3 * bool(title)
    figure = Figure(figsize=(width, height), layout="constrained")
    # Nested, or the layout would give all columns the margins of the widest.
    heights = [PANEL_WIDTH * shape * rows + 0.3] + [KEY_HEIGHT] * bool(keys)
    outer = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    grid = outer[0].subgridspec(rows, 1 + columns, width_ratios=[first] + [1] * columns)
    axes = np.empty((rows, 1 + columns), dtype=object)
    for row in range(rows):
        if row % span == 0:
            axes[row : row + span, 0] = figure.add_subplot(grid[row : row + span, 0])
            axes[row, 0].set_anchor("N" if span > 1 else "C")
        axes[row, 1:] = [figure.add_subplot(grid[row, column]) for column in range(1, columns + 1)]
    for panel in axes.flat:
        panel.set_xticks([])
        panel.set_yticks([])
    bars = _bars(figure.add_subplot(outer[1]), width, keys) if keys else []
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, axes, bars


def _bars(host: Axes, width: float, keys: int) -> list[Axes]:
    """Axes for colour bars side by side in one row; the layout ignores their text."""
    host.set_axis_off()
    slot, bars = min(KEY_WIDTH + 0.9, width / keys), []
    for i in range(keys):
        centre = width / 2 + (i - (keys - 1) / 2) * slot
        bar = host.inset_axes(((centre - KEY_WIDTH / 2) / width, 0.78, KEY_WIDTH / width, 0.12))
        bar.set_in_layout(False)
        bars.append(bar)
    return bars


def name_row(panel: Axes, name: str, size: Sequence[int]) -> None:
    """Write a name to the left of a panel: horizontally if images of this height and width are low."""
    low = size[0] < 0.6 * size[1]
    horizontal: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"} if low else {}
    panel.set_ylabel(name, fontsize=TEXT_SIZE, **horizontal)


def fill(text: str, width: float) -> str:
    """Break small text into lines of at most this many inches."""
    return textwrap.fill(text, int(width / 0.066))


def draw_picture(panel: Axes, picture: Tensor) -> None:
    """Draw a picture ``(3, h, w)`` with values in [0, 1]."""
    panel.imshow(picture.permute(1, 2, 0).numpy())


def draw_map(
    panel: Axes, values: Tensor, scale: Scale, *, grey: Tensor | None = None, opacity: float | None = None
) -> None:
    """Draw a map ``(h, w)``, alone or over a grey picture.

    Over a picture, and in signed colours, a line encloses what is above half the scale, and a dashed line
    what is below minus half of it. The lines are needed because grey print mixes the brightness of the map
    with that of the picture, and because both ends of the signed colours are dark.
    """
    limit = max(scale.limit, 1e-30)
    if grey is not None:
        panel.imshow(grey.numpy(), cmap="gray", vmin=0, vmax=1)
    panel.imshow(
        values.numpy(),
        cmap=SIGNED_COLOURS if scale.signed else POSITIVE_COLOURS,
        vmin=-limit if scale.signed else 0,
        vmax=limit,
        alpha=None if grey is None else opacity,
    )
    if grey is None and not scale.signed:
        return
    enclose(panel, values, limit / 2)
    enclose(panel, values, -limit / 2, style="--")


def enclose(panel: Axes, values: Tensor, level: float, *, style: str = "-", width: float = 0.9) -> None:
    """Draw a line along ``level`` that is visible on any background: white, with a black edge."""
    # Matplotlib warns about a level that no value crosses.
    if float(values.min()) < level < float(values.max()):
        lines = panel.contour(
            values.numpy(), levels=[level], colors="white", linewidths=width, linestyles=style
        )
        lines.set_path_effects([withStroke(linewidth=width + 1, foreground="black")])


def draw_key(bar: Axes, highest: str, *, signed: bool, lines: bool) -> None:
    """Draw a colour bar that says what bright means; maps have no unit, so its ends are words."""
    low, colours = (-1, SIGNED_COLOURS) if signed else (0, POSITIVE_COLOURS)
    bar.figure.colorbar(ScalarMappable(Normalize(low, 1), colours), cax=bar, orientation="horizontal")
    bar.set_xticks([-1, 0, 1] if signed else [0, 1], ["−highest", "0", "highest"][0 if signed else 1 :])
    bar.tick_params(labelsize=TEXT_SIZE - 1, length=2)
    if lines:
        highest += "; lines: half of that" + (", dashed: negative" if signed else "")
    bar.set_xlabel(fill(f"highest {highest}", KEY_WIDTH + 0.7), fontsize=TEXT_SIZE - 1)


def at_image_size(maps: Tensor, images: Tensor, name: str) -> Tensor:
    """Resize the maps of a layer to the images.

    Args:
        maps: Shape ``(n, 1, h', w')`` or ``(n, h', w')``.
        images: Shape ``(n, c, h, w)``.
        name: What messages call the maps.

    Returns:
        The maps, float32, of shape ``(n, h, w)``.

    Raises:
        ValueError: The maps have another shape, differ in number from the images, or are not finite.
    """
    maps = maps.unsqueeze(1) if maps.dim() == 3 else maps
    if maps.dim() != 4 or maps.shape[1] != 1 or len(maps) != len(images):
        raise ValueError(
            f"Maps {name!r} must have the shape ({len(images)}, 1, h, w) for {len(images)} images, got "
            f"{tuple(maps.shape)}; sum attributions of several channels first."
        )
    # In double precision, since rounding would rank the pixels of a constant map.
    maps = maps.detach().cpu().double()
    if not maps.isfinite().all():
        raise ValueError(f"Maps {name!r} must be finite, but some values are NaN or infinite.")
    resized: Tensor = LayerAttribution.interpolate(maps, tuple(images.shape[2:]), interpolate_mode="bilinear")
    return resized[:, 0].float()


def peaks(maps: Tensor) -> Tensor:
    """The largest absolute value of each map ``(n, h, w)``: shape ``(n,)``."""
    return maps.abs().flatten(1).amax(dim=1)


def is_signed(*maps: Tensor) -> bool:
    """Whether any value is negative."""
    return any(bool((m < 0).any()) for m in maps)


def joint_peaks(maps: Sequence[Tensor]) -> Tensor:
    """The largest absolute value in several maps of each image: shape ``(n,)``."""
    return torch.stack([peaks(m) for m in maps]).amax(dim=0)
