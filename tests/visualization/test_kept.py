"""Images reduced to what maps keep."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from captum_kd.functional import road
from captum_kd.visualization import displayable, plot_kept

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(2, 3, 8, 10, generator=GENERATOR)
MAPS = {
    "mine": {
        "layer3": (torch.rand(2, 1, 4, 5, generator=GENERATOR), torch.rand(2, 1, 4, 5, generator=GENERATOR)),
        "layer4": (torch.rand(2, 1, 2, 3, generator=GENERATOR), torch.zeros(2, 1, 2, 3)),
    }
}


def test_panels_show_what_a_model_is_fed() -> None:
    _, axes = plot_kept(IMAGES, MAPS, share=0.3, seed=5)
    assert axes.shape == (4, 3)
    for column, layer in enumerate(("layer3", "layer4"), start=1):
        for side in (0, 1):
            fed = road(
                IMAGES, MAPS["mine"][layer][side], share=0.3, generator=torch.Generator().manual_seed(5)
            )
            pictures = displayable(fed, like=IMAGES).permute(0, 2, 3, 1)
            for i in range(2):
                drawn = np.asarray(axes[2 * i + side, column].images[0].get_array())
                assert drawn == pytest.approx(pictures[i].numpy(), abs=1e-6)
                original = axes[2 * i, 0].images[0].get_array()
                assert (drawn == original).all(axis=-1).sum() == round(0.3 * 80)


def test_the_kept_pixels_are_enclosed() -> None:
    _, axes = plot_kept(IMAGES, MAPS, share=0.3)
    assert all(len(panel.collections) == 1 for panel in axes[:, 1:].flat)
    _, axes = plot_kept(IMAGES, MAPS, share=1)
    assert all(len(panel.collections) == 0 for panel in axes[:, 1:].flat)
    assert np.array_equal(axes[0, 1].images[0].get_array(), axes[0, 0].images[0].get_array())


def test_pixels_that_no_map_ranked_are_said() -> None:
    half = torch.zeros(2, 1, 8, 10)
    half[:, :, :2, :4] = torch.rand(2, 1, 2, 4, generator=GENERATOR) + 0.1  # 8 of the 16 that are kept
    maps = {"mine": {"layer4": (half, torch.zeros(2, 1, 1, 1)), "layer3": MAPS["mine"]["layer3"]}}
    _, axes = plot_kept(IMAGES, maps, share=0.2)
    assert [panel.get_xlabel() for panel in axes[:2, 1]] == [
        "50 % of these at random",
        "100 % of these at random",
    ]
    assert [panel.get_xlabel() for panel in axes[:2, 2]] == ["", ""]


def test_the_share_is_said_and_checked() -> None:
    figure, _ = plot_kept(IMAGES, MAPS, share=0.125)
    assert isinstance(figure, Figure)
    assert "12.5 % of the pixels" in figure.get_supxlabel().replace("\n", " ")
    with pytest.raises(ValueError, match="share"):
        plot_kept(IMAGES, MAPS, share=1.2)
    with pytest.raises(TypeError, match="floating point"):
        plot_kept(torch.zeros(2, 3, 8, 10, dtype=torch.uint8), MAPS)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 3, 4, 40), (2, 5, 40, 4)])
def test_hostile_sizes_are_drawn_without_a_warning(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    maps = {"mine": {"layer": (images[:, 0], torch.zeros(shape[0], 1, 1, 1))}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = plot_kept(images, maps, share=0)
        figure.canvas.draw()
    assert axes.shape == (2 * shape[0], 2)
