"""Figures. Each function returns ``(figure, axes)`` and neither shows nor saves anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

# Perceptually uniform, readable in grey and with colour blindness; zero is the neutral end or middle.
POSITIVE_COLOURS = "inferno"
SIGNED_COLOURS = "PuOr_r"


class Outline(NamedTuple):
    """A region drawn on every panel of a row: its masks ``(n, h, w)``, and how."""

    masks: Tensor
    label: str
    colour: str
    style: Literal["-", "--", ":"] = "-"


def plot_maps(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    shared: Sequence[Sequence[str]] = (),
    outlines: Sequence[Outline] = (),
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
) -> tuple[Figure, Any]:
    """One row per image: the image, then each map beside it.

    Args:
        images: Shape ``(n, 3, h, w)``, values in [0, 1].
        maps: Column title to maps of shape ``(n, h, w)``. A column with negative values gets the diverging
            colours, centred on zero.
        shared: Groups of columns that share one colour scale within a row, so that their strengths can be
            compared; every other panel has its own. Scales start at zero.
        outlines: Regions to draw on every panel.
        row_titles: One per image.
        title: Above the figure.

    Returns:
        The figure and its axes, an array ``(n, 1 + len(maps))``.

    Raises:
        ValueError: Maps of another number or size than the images.

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
    columns = 1 + len(maps)
    figure = Figure(figsize=(1.35 * columns, 1.38 * len(images) + 0.9), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    peaks = {name: values.detach().abs().amax(dim=(1, 2)).cpu() for name, values in maps.items()}
    for group in shared:
        joint = torch.stack([peaks[name] for name in group]).amax(0)
        peaks.update(dict.fromkeys(group, joint))
    for row, image in enumerate(images):
        axes[row, 0].imshow(image.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy())
        for column, (name, values) in enumerate(maps.items(), start=1):
            signed = bool((values < 0).any())
            limit = max(float(peaks[name][row]), 1e-30)
            axes[row, column].imshow(
                values[row].detach().float().cpu().numpy(),
                cmap=SIGNED_COLOURS if signed else POSITIVE_COLOURS,
                vmin=-limit if signed else 0,
                vmax=limit,
            )
        for panel in axes[row]:
            _draw_outlines(panel, outlines, row)
            panel.set_xticks([])
            panel.set_yticks([])
        if row_titles is not None:
            axes[row, 0].set_ylabel(row_titles[row], fontsize=8)
    for panel, name in zip(axes[0], ["image", *maps], strict=True):
        panel.set_title(name, fontsize=8)
    if outlines:
        handles = [_line(o) for o in outlines]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False
        )
    if title:
        figure.suptitle(title, fontsize=10)
    return figure, axes


def plot_intervals(
    values: Mapping[str, Sequence[tuple[float, float, float]]],
    groups: Sequence[str],
    *,
    ylabel: str,
    title: str | None = None,
    lines: Mapping[str, float] | None = None,
) -> tuple[Figure, Any]:
    """Points with intervals: one series per method, one group per layer.

    Args:
        values: Series name to one ``(value, low, high)`` per group.
        groups: Names on the horizontal axis.
        ylabel: Name of the quantity.
        title: Above the axes.
        lines: Labelled horizontal lines, for instance a ceiling.

    Returns:
        The figure and its axes.

    Example:
        >>> figure, axes = plot_intervals({"maps": [(0.3, 0.2, 0.4)]}, ["layer1"], ylabel="separation")
        >>> axes.get_ylabel()
        'separation'
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    markers, colours = "osD^vPX*", _distinct_colours()
    width = 0.7 / max(len(values), 1)
    for i, (name, points) in enumerate(values.items()):
        x = np.arange(len(groups)) + (i - (len(values) - 1) / 2) * width
        centre, low, high = np.array(points).T
        axes.errorbar(
            x,
            centre,
            yerr=np.array([centre - low, high - centre]).clip(min=0),
            fmt=markers[i % len(markers)],
            color=colours[i % len(colours)],
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
    _label(axes, ylabel, title)
    return figure, axes


def plot_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    ylabel: str,
    title: str | None = None,
) -> tuple[Figure, Any]:
    """Learning curves: the mean over folds, and a band of one standard deviation on either side.

    Args:
        curves: Series name to one curve per fold, a value per epoch. Folds of a series are cut to the
            shortest.
        ylabel: Name of the quantity.
        title: Above the axes.

    Returns:
        The figure and its axes.

    Example:
        >>> figure, axes = plot_curves({"student": [[0.5, 0.7], [0.6, 0.8]]}, ylabel="accuracy")
        >>> axes.get_xlabel()
        'epoch'
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    markers, colours = "osD^vPX*", _distinct_colours()
    for i, (name, folds) in enumerate(curves.items()):
        length = min(map(len, folds))
        values = np.array([fold[:length] for fold in folds])
        epochs, mean = np.arange(1, length + 1), values.mean(axis=0)
        colour = colours[i % len(colours)]
        axes.plot(epochs, mean, color=colour, marker=markers[i % len(markers)], markersize=4, label=name)
        if len(folds) > 1:
            spread = values.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, ylabel, title)
    return figure, axes


def _label(axes: Any, ylabel: str, title: str | None) -> None:
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    if title:
        axes.set_title(title, fontsize=10)


def _draw_outlines(panel: Any, outlines: Sequence[Outline], row: int) -> None:
    for outline in outlines:
        mask = outline.masks[row].cpu().numpy().astype(float)
        panel.contour(mask, levels=[0.5], colors=outline.colour, linestyles=outline.style, linewidths=0.9)


def _line(outline: Outline) -> Any:
    return Line2D([], [], color=outline.colour, linestyle=outline.style, label=outline.label)


def _distinct_colours() -> list[str]:
    """Okabe and Ito's colours, distinct under all common kinds of colour blindness."""
    return ["#999999", "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#000000"]
