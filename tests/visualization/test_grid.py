"""Maps of a layer are resized to the images in both dimensions, wherever they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_kd.functional import road
from captum_kd.visualization import (
    displayable,
    maps_figure,
    plot_kept,
    plot_layers,
    plot_maps,
    plot_models,
)
from captum_kd.visualization.grid import at_image_size

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 3, 28, 28, generator=GENERATOR)
# Maps that differ from the images in both dimensions, in height only, in width only, and not at all.
SIZES = [(4, 7), (4, 28), (28, 7), (28, 28)]


def pair(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ours, theirs = torch.rand(2, 2, 1, *size, generator=generator)
    return ours, theirs


def resized(maps: Tensor) -> np.ndarray:
    large = interpolate(maps.double(), (28, 28), mode="bilinear", align_corners=False)
    return large[:, 0].numpy()


def drawn(panel: Any) -> np.ndarray:
    return np.asarray(panel.images[0].get_array())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dimensions", [3, 4])
def test_maps_get_the_size_of_the_images(size: tuple[int, int], dimensions: int) -> None:
    maps, _ = pair(size)
    found = at_image_size(maps if dimensions == 4 else maps[:, 0], IMAGES, "mine")
    assert found.shape == (2, 28, 28)
    assert found.numpy() == pytest.approx(resized(maps), abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_figures_of_layers_show_resized_maps(size: tuple[int, int]) -> None:
    maps = pair(size)
    expected = [resized(side) for side in maps]
    _, models = plot_models(IMAGES, {"student": maps[0], "base": maps[1]})
    _, methods = maps_figure(IMAGES, {"mine": maps}, {"mine": ("student", "base")})
    _, layers = plot_layers(IMAGES, {"student": {"layer4": maps}})
    for i in range(2):
        for side in (0, 1):
            for panel in (models[i, 1 + side], methods[i, 1 + side], layers[2 * i + side, 1]):
                assert drawn(panel) == pytest.approx(expected[side][i], abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_kept_pixels_are_those_of_resized_maps(size: tuple[int, int]) -> None:
    maps = pair(size)
    _, axes = plot_kept(IMAGES, {"student": {"layer4": maps}}, share=0.25, seed=3)
    for side in (0, 1):
        large = torch.from_numpy(resized(maps[side])).float()
        fed = road(IMAGES, large, share=0.25, generator=torch.Generator().manual_seed(3))
        pictures = displayable(fed, like=IMAGES).permute(0, 2, 3, 1).numpy()
        for i in range(2):
            assert drawn(axes[2 * i + side, 1]) == pytest.approx(pictures[i], abs=1e-6)


@pytest.mark.parametrize("size", SIZES[:3])
def test_maps_that_should_have_the_size_of_the_images_are_refused_otherwise(size: tuple[int, int]) -> None:
    message = rf"\(2, {size[0]}, {size[1]}\).*need \(2, 28, 28\)"
    with pytest.raises(ValueError, match=message):
        plot_maps(IMAGES, {"mine": pair(size)[0][:, 0]})
