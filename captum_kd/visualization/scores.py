"""Scores per layer with their intervals (the paper's Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_kd.metrics import Score
from captum_kd.visualization.style import SERIES_COLOURS, series_style

MOST_SERIES = len(SERIES_COLOURS)  # the number of series that a figure can tell apart


def plot_intervals(
    values: Mapping[str, Sequence[tuple[float, float, float]]],
    groups: Sequence[str],
    *,
    ylabel: str,
    title: str | None = None,
    lines: Mapping[str, float] | None = None,
) -> tuple[Figure, Axes]:
    """Draw points with intervals: one series per method, one group per layer.

    Args:
        values: For each series one ``(value, low, high)`` per group.
        groups: The names on the horizontal axis.
        ylabel: The name of the quantity.
        title: The title of the axes.
        lines: The heights of horizontal lines by label, for instance of a ceiling.

    Returns:
        The figure and its axes.

    Example:
        >>> figure, axes = plot_intervals({"maps": [(0.3, 0.2, 0.4)]}, ["layer1"], ylabel="separation")
        >>> axes.get_ylabel()
        'separation'
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.7 / max(len(values), 1)
    for i, (name, points) in enumerate(values.items()):
        colour, marker = series_style(i)
        x = np.arange(len(groups)) + (i - (len(values) - 1) / 2) * width
        centre, low, high = np.array(points).T
        axes.errorbar(
            x,
            centre,
            yerr=np.array([centre - low, high - centre]).clip(min=0),
            fmt=marker,
            color=colour,
            capsize=2,
            markersize=5,
            label=name,
        )
    axes.axhline(0, color="0.4", linewidth=0.8)
    for name, height in (lines or {}).items():
        axes.axhline(height, color="0.4", linewidth=0.8, linestyle=":")
        axes.annotate(
            name, (1, height), xycoords=("axes fraction", "data"), fontsize=8, ha="right", va="bottom"
        )
    axes.set_xticks(np.arange(len(groups)), groups)
    label_axes(axes, ylabel, title)
    return figure, axes


def scores_figure(
    series: Mapping[str, Sequence[Score]],
    layers: Sequence[str],
    *,
    ylabel: str = "score",
    title: str | None = None,
) -> tuple[Figure, Axes]:
    """Draw scores with their intervals; a dash marks the 95 % quantile of each null.

    Args:
        series: For each series its score at each layer; at most 8 series.
        layers: The names on the horizontal axis.
        ylabel: The name of the vertical axis.
        title: The title of the axes.

    Returns:
        The figure and its axes.

    Raises:
        ValueError: There are no series, or more than 8.

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
    null = Line2D([], [], color="0.3", marker="_", linestyle="", markersize=9, label="95 % of the null")
    draw_legend(axes, [*axes.get_legend_handles_labels()[0], null])
    return figure, axes


def label_axes(axes: Axes, ylabel: str, title: str | None) -> None:
    """Write names, draw a legend beside the axes, and leave out the box around them."""
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    draw_legend(axes, axes.get_legend_handles_labels()[0])
    if title:
        axes.set_title(title, fontsize=10)


def draw_legend(axes: Axes, handles: Sequence[Artist]) -> None:
    """Draw a legend beside the axes."""
    axes.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
