"""The figures of a comparison: scores per layer, and maps side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.methods import upsample
from captum_kd.metrics import Score
from captum_kd.pictures import as_pictures
from captum_kd.visualization import plot_intervals, plot_maps

MOST_SERIES = 8  # that a figure can tell apart


def scores_figure(
    series: Mapping[str, Sequence[Score]],
    layers: Sequence[str],
    *,
    ylabel: str = "score",
    title: str | None = None,
) -> tuple[Figure, Any]:
    """Scores with their intervals; a dash marks the 95 % quantile of each null.

    Args:
        series: Name of a series to its score at each layer; at most 8 series.
        layers: Names on the horizontal axis.
        ylabel: Name of the vertical axis.
        title: Above the axes.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: No series, or more than 8.

    Example:
        >>> score = Score(0.5, 0.4, 0.6, 0.0, 0.1, 0.005, 99, "unbiased")
        >>> figure, axes = scores_figure({"RS student": [score]}, ["layer4"])
        >>> axes.lines[-1].get_ydata().tolist()
        [0.1]
    """
    if not 1 <= len(series) <= MOST_SERIES:
        raise ValueError(
            f"A figure can tell 1 to {MOST_SERIES} series apart, got {len(series)}: choose fewer quantities "
            "or students."
        )
    figure, axes = plot_intervals(
        {name: [(s.value, s.low, s.high) for s in scores] for name, scores in series.items()},
        layers,
        ylabel=ylabel,
        title=title,
    )
    for points, scores in zip(list(axes.containers), series.values(), strict=True):
        heights = [s.null_high for s in scores]
        axes.plot(points[0].get_xdata(), heights, "_", color="0.3", markersize=9, label="_null")
    return figure, axes


def maps_figure(
    images: Tensor,
    maps: Mapping[str, tuple[Tensor, Tensor]],
    sides: Mapping[str, tuple[str, str]],
    row_titles: Sequence[str],
    title: str,
) -> tuple[Figure, Any]:
    """Images with the two maps of every method, which share a scale.

    Args:
        images: As the models took them, ``(n, c, h, w)``; shown by :func:`~captum_kd.pictures.as_pictures`.
        maps: Method to its two maps, ``(n, 1, h', w')``, upsampled here.
        sides: Method to what its two maps are.
        row_titles: One per image.
        title: Above the figure.

    Returns:
        The figure and its axes, an array ``(n, 1 + 2 * methods)``.

    Example:
        >>> import torch
        >>> pair = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        >>> words = {"mine": ("student", "base")}
        >>> maps_figure(torch.rand(2, 3, 8, 8), {"mine": pair}, words, ["a", "b"], "layer4")[1].shape
        (2, 3)
    """
    size = (images.shape[2], images.shape[3])
    columns: dict[str, Tensor] = {}
    groups = []
    for method, pair in maps.items():
        names = [f"{method.replace(', ', chr(10))}\n{side}" for side in sides[method]]
        groups.append(names)
        columns.update({name: upsample(m, size) for name, m in zip(names, pair, strict=True)})
    return plot_maps(as_pictures(images), columns, shared=groups, row_titles=row_titles, title=title)
