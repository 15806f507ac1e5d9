"""Images with maps beside them: what is drawn where, on which scale."""

from __future__ import annotations

import warnings
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from captum_kd.attr.methods import METHODS
from captum_kd.visualization import Outline, displayable, maps_figure, plot_maps, plot_models

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


def test_a_group_with_one_signed_column_shares_colours_too() -> None:
    signed, positive = torch.linspace(-1, 3, 36).reshape(1, 6, 6).expand(2, -1, -1), torch.ones(2, 6, 6)
    maps = {"a": signed, "b": positive, "alone": positive}
    figure, axes = plot_maps(IMAGES, maps, shared=[["a", "b"]])
    drawn = [panel.images[0] for panel in axes[0, 1:]]
    assert [image.get_clim() for image in drawn] == [(-3, 3), (-3, 3), (0, 1)]
    assert [image.get_cmap().name for image in drawn] == ["PuOr_r", "PuOr_r", "inferno"]
    bars = [a for a in figure.findobj(plt.Axes) if a.get_xlabel().startswith("highest")]
    assert sorted(len(bar.get_xticks()) for bar in bars) == [2, 3]


def test_negative_values_are_told_from_positive_ones_without_colour() -> None:
    signed = torch.linspace(-2, 2, 36).reshape(1, 6, 6).expand(2, -1, -1)
    _, axes = plot_maps(IMAGES, {"difference": signed, "map": signed.relu()})
    lines = axes[0, 1].collections
    assert [line.levels.tolist() for line in lines] == [[1.0], [-1.0]]
    assert [line.get_linestyle()[0][1] is None for line in lines] == [True, False]
    assert len(axes[0, 2].collections) == 0


def test_drawn_values_are_the_given_ones() -> None:
    maps = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(1))
    _, axes = plot_maps(IMAGES, {"map": maps})
    for row in range(2):
        assert np.array_equal(axes[row, 0].images[0].get_array(), IMAGES[row].permute(1, 2, 0))
        assert np.array_equal(axes[row, 1].images[0].get_array(), maps[row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opacity": 1.5}, "opacity must be None or from 0 to 1, got 1.5"),
        ({"row_titles": ["one"]}, "row_titles must be one for each of 2 images, got 1"),
        ({"maps": {}}, "no maps to draw"),
        ({"images": torch.zeros(0, 3, 6, 6), "maps": {}}, r"got \(0, 3, 6, 6\)"),
        ({"maps": {"map": torch.full((2, 6, 6), torch.nan)}}, "'map' must be finite"),
        ({"images": torch.full((2, 3, 6, 6), torch.inf)}, "Images must be finite"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    arguments = {"images": IMAGES, "maps": {"map": torch.zeros(2, 6, 6)}, **options}
    with pytest.raises(ValueError, match=message):
        plot_maps(arguments.pop("images"), arguments.pop("maps"), **arguments)


def test_models_share_one_scale_within_a_row() -> None:
    weak = torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1).expand(-1, 1, 3, 3)
    maps = {"teacher": weak, "base": weak / 2, "student": weak * 3}
    figure, axes = plot_models(IMAGES, maps, row_titles=["a", "b"], title="Grad-CAM, layer3")
    assert axes.shape == (2, 4)
    assert [a.get_title() for a in axes[0]] == ["image", "teacher", "base", "student"]
    assert [a.get_ylabel() for a in axes[:, 0]] == ["a", "b"]
    assert figure.get_suptitle() == "Grad-CAM, layer3"
    for row, top in zip(axes, (3, 12), strict=True):
        assert {panel.images[0].get_clim() for panel in row[1:]} == {(0, top)}
    assert np.asarray(axes[1, 2].images[0].get_array()) == pytest.approx(np.full((6, 6), 2.0))
    _, axes = plot_models(IMAGES, maps, shared_scale=False)
    assert [panel.images[0].get_clim()[1] for panel in axes[1, 1:]] == [4, 2, 12]


def test_maps_of_a_layer_are_resized_bilinearly() -> None:
    corners = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).expand(1, 1, 2, 2)
    _, axes = plot_models(torch.rand(1, 3, 4, 4), {"model": corners})
    weights = np.array([1.0, 0.75, 0.25, 0.0])  # of the first of two, at the centres of four pixels
    along = 1 - weights
    expected = 2 * along[:, None] + along[None]
    assert np.asarray(axes[0, 1].images[0].get_array()) == pytest.approx(expected)


def test_over_an_image_half_the_scale_is_enclosed() -> None:
    peaked = torch.zeros(2, 6, 6)
    peaked[:, 2:4, 2:4] = 1.0
    maps = {"strong": peaked, "weak": 0.4 * peaked}
    _, axes = plot_models(IMAGES, maps, opacity=0.6)
    under, over = axes[0, 1].images
    assert np.asarray(under.get_array()) == pytest.approx(
        np.tensordot(IMAGES[0], [0.299, 0.587, 0.114], axes=(0, 0))
    )
    assert (under.get_cmap().name, under.get_clim()) == ("gray", (0, 1))
    assert np.array_equal(over.get_array(), peaked[0])
    assert over.get_alpha() == 0.6
    assert axes[0, 2].images[1].get_clim() == (0, 1)
    (line,) = axes[0, 1].collections
    assert line.levels.tolist() == [0.5]
    assert len(axes[0, 2].collections) == 0  # nothing of the weak map reaches it


def test_both_maps_of_a_method_share_a_scale() -> None:
    maps = {"A": (torch.ones(2, 1, 3, 3), torch.full((2, 1, 3, 3), 5.0)), "B": (torch.ones(2, 1, 2, 2),) * 2}
    sides = {"A": ("student", "base"), "B": ("distilled", "residual")}
    _, axes = maps_figure(IMAGES, maps, sides)
    assert [a.get_title() for a in axes[0]] == [
        "image",
        "A\nstudent",
        "A\nbase",
        "B\ndistilled",
        "B\nresidual",
    ]
    assert [panel.images[0].get_clim()[1] for panel in axes[1, 1:]] == [5, 5, 1, 1]


def test_titles_of_neighbouring_columns_do_not_touch() -> None:
    maps = {name: (torch.ones(2, 1, 3, 3),) * 2 for name in METHODS}
    sides = {name: method.sides for name, method in METHODS.items()}
    figure, axes = maps_figure(IMAGES, maps, sides)
    figure.canvas.draw()
    extents = [panel.title.get_window_extent() for panel in axes[0]]
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))


def test_maps_of_several_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'mine' must have the shape \(2, 1, h, w\).*sum attributions"):
        plot_models(IMAGES, {"mine": torch.zeros(2, 8, 3, 3)})


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 3, 4, 64), (3, 4, 64, 4), (2, 2, 1, 1)])
@pytest.mark.parametrize("opacity", [None, 0.5])
def test_hostile_sizes_are_drawn_without_a_warning(shape: tuple[int, ...], opacity: float | None) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    maps = {"signed": images[:, :1], "zero": torch.zeros(shape[0], 1, 1, 1)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = plot_models(
            images, maps, opacity=opacity, row_titles=["A long name of a class"] * shape[0]
        )
        figure.canvas.draw()
    assert axes.shape == (shape[0], 3)
    assert np.asarray(axes[0, 0].images[0].get_array()) == pytest.approx(
        displayable(images)[0].permute(1, 2, 0).numpy()
    )
