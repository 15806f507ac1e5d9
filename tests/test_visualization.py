"""Figures: what is drawn where, on which scale."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from captum_kd.visualization import Outline, plot_curves, plot_intervals, plot_maps

IMAGES = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_groups_share_a_scale_and_others_do_not() -> None:
    weak, strong = torch.full((2, 6, 6), 0.1), torch.full((2, 6, 6), 2.0)
    maps = {"distilled": weak, "residual": strong, "alone": weak}
    figure, axes = plot_maps(IMAGES, maps, shared=[["distilled", "residual"]])
    assert isinstance(figure, Figure)
    assert axes.shape == (2, 4)
    limits = [axes[0, i].images[0].get_clim() for i in range(1, 4)]
    assert limits == [(0, 2), (0, 2), (0, pytest.approx(0.1))]
    assert [a.get_title() for a in axes[0]] == ["image", "distilled", "residual", "alone"]


def test_signed_maps_are_centred_on_zero_and_zero_maps_are_drawn() -> None:
    signed = torch.linspace(-1, 3, 36).reshape(1, 6, 6).expand(2, -1, -1)
    _, axes = plot_maps(IMAGES, {"difference": signed, "nothing": torch.zeros(2, 6, 6)})
    assert axes[0, 1].images[0].get_clim() == (-3, 3)
    assert axes[0, 2].images[0].get_array().max() == 0


def test_outlines_titles_and_no_open_figures() -> None:
    mask = torch.zeros(2, 6, 6, dtype=torch.bool)
    mask[:, 1:4, 1:4] = True
    before = plt.get_fignums()
    figure, axes = plot_maps(
        IMAGES,
        {"map": torch.rand(2, 6, 6)},
        outlines=[Outline(mask, "item", "white")],
        row_titles=["first", "second"],
        title="Title",
    )
    assert plt.get_fignums() == before
    assert all(len(panel.collections) == 1 for panel in axes.flat)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["item"]
    assert axes[1, 0].get_ylabel() == "second"


def test_maps_must_fit_the_images() -> None:
    with pytest.raises(ValueError, match=r"'map' have shape \(2, 3, 3\).*need \(2, 6, 6\).*interpolate"):
        plot_maps(IMAGES, {"map": torch.zeros(2, 3, 3)})


def test_intervals_are_drawn_as_given() -> None:
    _, axes = plot_intervals(
        {"a": [(1.0, 0.5, 1.25), (2.0, 1.0, 3.0)], "b": [(0.0, 0.0, 0.0)] * 2},
        ["layer1", "layer2"],
        ylabel="separation",
        lines={"ceiling": 4.0},
    )
    (bars,) = axes.containers[0].lines[2]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[0.5, 1.25], [1.0, 3.0]]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    assert [t.get_text() for t in axes.texts] == ["ceiling"]


def test_curves_show_mean_and_spread_over_folds() -> None:
    _, axes = plot_curves(
        {"student": [[0.5, 0.75, 0.9], [0.25, 0.5]], "base": [[0.5, 0.5]]}, ylabel="accuracy"
    )
    mean, base = axes.lines
    assert mean.get_xdata().tolist() == [1, 2]
    assert mean.get_ydata().tolist() == [0.375, 0.625]
    assert base.get_ydata().tolist() == [0.5, 0.5]
    (band,) = axes.collections
    spread = np.std([0.5, 0.25], ddof=1)
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.375 - spread)
    assert heights.max() == pytest.approx(0.625 + spread)
