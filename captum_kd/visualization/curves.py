"""Learning curves over folds (the paper's Figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from captum_kd.visualization.scores import label_axes
from captum_kd.visualization.style import series_style


def plot_curves(
    curves: Mapping[str, Sequence[Sequence[float]]],
    *,
    ylabel: str,
    title: str | None = None,
) -> tuple[Figure, Axes]:
    """Draw learning curves: the mean over folds, with a band of one standard deviation on either side.

    Args:
        curves: For each series one curve per fold, a value per epoch. The folds of a series are cut to the
            shortest.
        ylabel: The name of the quantity.
        title: The title of the axes.

    Returns:
        The figure and its axes.

    Example:
        >>> figure, axes = plot_curves({"student": [[0.5, 0.7], [0.6, 0.8]]}, ylabel="accuracy")
        >>> axes.get_xlabel()
        'epoch'
    """
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, folds) in enumerate(curves.items()):
        length = min(map(len, folds))
        values = np.array([fold[:length] for fold in folds])
        epochs, mean = np.arange(1, length + 1), values.mean(axis=0)
        colour, marker = series_style(i)
        axes.plot(epochs, mean, color=colour, marker=marker, markersize=4, label=name)
        if len(folds) > 1:
            spread = values.std(axis=0, ddof=1)
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(axes, ylabel, title)
    return figure, axes
