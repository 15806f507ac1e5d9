"""Colours that can be told apart, measured by colorspacious, and inputs as pictures."""

from __future__ import annotations

from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch
from colorspacious import cspace_convert, deltaE
from matplotlib.colors import to_rgb

from captum_kd.visualization import (
    POSITIVE_COLOURS,
    SERIES_COLOURS,
    SERIES_MARKERS,
    SIGNED_COLOURS,
    displayable,
    series_style,
)
from captum_kd.visualization.style import luminance

BLINDNESS = ("deuteranomaly", "protanomaly", "tritanomaly")


def seen(colours: np.ndarray, kind: str | None) -> np.ndarray:
    """The colours as someone with complete colour blindness of this kind sees them (Machado et al. 2009)."""
    if kind is None:
        return colours
    return cspace_convert(colours, {"name": "sRGB1+CVD", "cvd_type": kind, "severity": 100}, "sRGB1").clip(
        0, 1
    )


def lightness(colours: np.ndarray) -> np.ndarray:
    return cspace_convert(colours, "sRGB1", "CIELab")[:, 0]


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_the_colours_of_maps_grow_lighter_with_the_value(kind: str | None) -> None:
    colours = matplotlib.colormaps[POSITIVE_COLOURS](np.linspace(0, 1, 64))[:, :3]
    steps = np.diff(lightness(seen(colours, kind)))
    assert steps.min() > 0.3
    assert lightness(seen(colours, kind))[[0, -1]] == pytest.approx([0, 98], abs=3)
    grey = luminance(torch.from_numpy(colours).reshape(1, 64, 3, 1).permute(0, 2, 1, 3))
    assert grey.diff(dim=1).min() > 0


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_signed_colours_are_light_at_zero_and_differ_by_sign(kind: str | None) -> None:
    colours = seen(matplotlib.colormaps[SIGNED_COLOURS](np.linspace(0, 1, 65))[:, :3], kind)
    light = lightness(colours)
    assert light.argmax() == pytest.approx(32, abs=1)
    assert light[32] > 95
    strong = slice(0, 16)  # beyond half the scale
    assert deltaE(colours[strong], colours[::-1][strong]).min() > 30


@pytest.mark.parametrize("kind", [None, *BLINDNESS])
def test_the_colours_of_series_differ(kind: str | None) -> None:
    colours = seen(np.array([to_rgb(colour) for colour in SERIES_COLOURS]), kind)
    assert min(deltaE(a, b) for a, b in combinations(colours, 2)) > 6


def test_series_that_can_be_drawn_together_differ_in_marker() -> None:
    assert len(set(SERIES_MARKERS)) == len(set(SERIES_COLOURS)) == 8
    assert [series_style(i) for i in range(8)] == list(zip(SERIES_COLOURS, SERIES_MARKERS, strict=True))
    assert series_style(9) == series_style(1)


def test_images_within_zero_and_one_are_shown_as_they_are() -> None:
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) / 2
    assert torch.equal(displayable(images), images)


def test_others_are_stretched_each_on_its_own() -> None:
    images = torch.stack([torch.tensor([-1.0, 0.0, 3.0]), torch.tensor([0.5, 0.6, 0.7])]).reshape(2, 1, 1, 3)
    shown = displayable(images)
    assert shown.shape == (2, 3, 1, 3)
    assert shown[:, 1, 0] == pytest.approx(torch.tensor([[0.0, 0.25, 1.0], [0.0, 0.5, 1.0]]))


def test_perturbed_images_keep_the_colours_of_their_originals() -> None:
    originals = torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 1, 1, 3)
    perturbed = torch.tensor([0.0, 0.0, 5.0]).reshape(1, 1, 1, 3)
    assert displayable(perturbed, like=originals)[0, 0, 0].tolist() == [0.5, 0.5, 1.0]
    # Imputation noise must not turn images within [0, 1] into others.
    inside = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)
    assert displayable(inside + 0.01, like=inside)[0, 0, 0].tolist() == pytest.approx([0.01, 0.51, 1.0])


def test_channels_and_integers() -> None:
    eight_bit = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert displayable(eight_bit)[0, 2, 0].tolist() == pytest.approx([0, 0.2, 1])
    two = torch.tensor([[0.0, 1.0], [0.5, 1.0]]).reshape(1, 2, 1, 2)
    assert displayable(two)[0, :, 0].tolist() == [[0.25, 1.0]] * 3


def test_a_constant_image_is_a_picture() -> None:
    assert displayable(torch.full((1, 3, 2, 2), 7.0)).tolist() == torch.zeros(1, 3, 2, 2).tolist()


def test_shapes_that_are_no_images() -> None:
    with pytest.raises(ValueError, match=r"\(n, c, h, w\).*got \(3, 4, 4\)"):
        displayable(torch.zeros(3, 4, 4))
