"""Two sides of every layer: rows, columns and scales."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from captum_kd.visualization import plot_layers

IMAGES = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def constant(*values: float) -> torch.Tensor:
    """A constant map for each value."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, 3, 3)


ONE = {"mine": {"layer3": (constant(1, 2), constant(4, 1)), "layer4": (constant(9, 0), constant(8, 0))}}
TWO = {
    **ONE,
    "other": {"layer3": (constant(5, 1), constant(1, 1)), "layer4": (constant(1, 1), constant(1, 3))},
}


def values(axes: np.ndarray) -> list[list[float]]:
    return [[float(panel.images[0].get_array().mean()) for panel in row] for row in axes[:, 1:]]


def limits(axes: np.ndarray) -> list[list[float]]:
    return [[panel.images[0].get_clim()[1] for panel in row] for row in axes[:, 1:]]


def test_a_row_for_each_side_and_a_column_for_each_layer() -> None:
    figure, axes = plot_layers(IMAGES, ONE, row_titles=["Shirt", "Bag"], title="UniCAM")
    assert axes.shape == (4, 3)
    assert values(axes) == [[1, 9], [4, 8], [2, 0], [1, 0]]
    # Distilled and residual share a scale; layers and images do not.
    assert limits(axes) == [[4, 9], [4, 9], [2, 1e-30], [2, 1e-30]]
    assert [panel.get_ylabel() for panel in axes[:, 1]] == ["distilled", "residual"] * 2
    assert [panel.get_title() for panel in axes[0]] == ["image", "layer3", "layer4"]
    assert [axes[row, 0].get_ylabel() for row in (0, 2)] == ["Shirt", "Bag"]
    assert figure.get_suptitle() == "UniCAM"


def test_an_image_spans_the_rows_of_its_maps() -> None:
    figure, axes = plot_layers(IMAGES, TWO)
    assert axes.shape == (8, 3)
    for i, rows in enumerate((range(4), range(4, 8))):
        assert len({id(axes[row, 0]) for row in rows}) == 1
        assert np.array_equal(axes[rows[0], 0].images[0].get_array(), IMAGES[i].permute(1, 2, 0))
    # Two pictures, 16 maps, the row of the key and the key itself.
    assert len(figure.findobj(Axes)) == 2 + 16 + 2


def test_students_are_below_each_other_on_one_scale() -> None:
    _, axes = plot_layers(IMAGES, TWO)
    assert values(axes)[:4] == [[1, 9], [4, 8], [5, 1], [1, 1]]
    assert limits(axes)[:4] == [[5, 9]] * 4
    assert limits(axes)[4:] == [[2, 3]] * 4
    names = [panel.get_ylabel() for panel in axes[:4, 1]]
    assert names == ["mine\ndistilled", "mine\nresidual", "other\ndistilled", "other\nresidual"]
    _, axes = plot_layers(IMAGES, TWO, shared_scale=False)
    assert limits(axes)[:2] == values(axes)[:2]


def test_the_key_says_what_shares_a_scale() -> None:
    for options, text in (
        ({}, "one scale for both sides"),
        ({"shared_scale": False}, "highest in the panel"),
    ):
        figure, _ = plot_layers(IMAGES, ONE, **options)
        labels = [axes.get_xlabel().replace("\n", " ") for axes in figure.findobj(Axes)]
        assert [text in label for label in labels if label] == [True]


def test_maps_with_negative_values_are_centred_on_zero_everywhere() -> None:
    maps = {"mine": {"layer4": (constant(1, -2), constant(4, 1))}}
    _, axes = plot_layers(IMAGES, maps, sides=("student", "base"))
    assert [row[1].images[0].get_clim() for row in axes] == [(-4, 4), (-4, 4), (-2, 2), (-2, 2)]
    assert [row[1].get_ylabel() for row in axes] == ["student", "base"] * 2


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "no maps"),
        ({"mine": {}}, "no maps"),
        (
            {"mine": ONE["mine"], "b": {"layer4": (constant(1, 1),) * 2}},
            "'mine' has layer3, layer4 and 'b' has",
        ),
        ({"mine": {"layer4": (constant(1, 1), constant(1))}}, "'mine, layer4, residual' must have the shape"),
        (
            {"mine": {"layer4": (constant(1, torch.nan), constant(1, 1))}},
            "'mine, layer4, distilled' must be finite",
        ),
    ],
)
def test_bad_maps(maps: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_layers(IMAGES, maps)


@pytest.mark.parametrize("shape", [(1, 1, 5, 5), (1, 3, 4, 40), (2, 5, 40, 4)])
def test_hostile_sizes_are_drawn_without_a_warning(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    maps = {"mine": {"layer": (images[:, 0], torch.zeros(shape[0], 1, 1, 1))}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = plot_layers(images, maps)
        figure.canvas.draw()
    assert axes.shape == (2 * shape[0], 2)
