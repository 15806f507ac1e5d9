"""The figures of a comparison show its own images and maps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from captum_kd.attr.methods import upsample
from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from captum_kd.visualization import displayable
from tests.networks import Network, classes, images, pair

METHODS = ("Grad-CAM", "UniCAM, uniqueness")
LAYERS = ("first_relu", "second_relu", "head")


@pytest.fixture(scope="module")
def several() -> Comparison:
    student, base = pair()
    return compare(
        {"one": student, "two": Network(seed=9).eval()},
        base,
        LAYERS,
        [(images(40), classes(40))],
        methods=METHODS,
        shown=3,
        permutations=9,
        progress=False,
    )


def drawn(panel: Any) -> np.ndarray:
    return np.asarray(panel.images[0].get_array())


def test_models(several: Comparison) -> None:
    figure, axes = several.plot_models("Grad-CAM", "second_relu", images=[2, 0])
    assert figure.get_suptitle() == "Grad-CAM, second_relu"
    assert [panel.get_title() for panel in axes[0]] == ["image", "base", "one", "two"]
    maps = {name: several.maps[name]["second_relu"]["Grad-CAM"] for name in ("one", "two")}
    for row, i in zip(axes, (2, 0), strict=True):
        assert drawn(row[0]) == pytest.approx(displayable(several.images)[i].permute(1, 2, 0).numpy())
        for panel, values in zip(row[1:], (maps["two"][1], maps["one"][0], maps["two"][0]), strict=True):
            assert drawn(panel) == pytest.approx(upsample(values, (12, 12))[i].numpy(), abs=1e-6)
        assert len({panel.images[0].get_clim() for panel in row[1:]}) == 1
    _, axes = several.plot_models(students=["two"], opacity=0.5)
    assert axes.shape == (3, 3)
    assert len(axes[0, 1].images) == 2


def test_layers(several: Comparison) -> None:
    figure, axes = several.plot_layers("UniCAM, uniqueness", students=["two"], images=[1])
    assert figure.get_suptitle() == "UniCAM, uniqueness"
    assert [panel.get_title() for panel in axes[0]] == ["image", "first_relu", "second_relu"]
    for column, layer in enumerate(LAYERS[:2], start=1):
        for side in (0, 1):
            values = upsample(several.maps["two"][layer]["UniCAM, uniqueness"][side], (12, 12))[1]
            assert drawn(axes[side, column]) == pytest.approx(values.numpy(), abs=1e-6)
    _, axes = several.plot_layers("Grad-CAM", ["second_relu"])
    assert axes.shape == (3 * 2 * 2, 2)
    assert axes[0, 1].get_ylabel() == "one\nstudent"


def test_kept(several: Comparison) -> None:
    _, axes = several.plot_kept("UniCAM, uniqueness", "second_relu", share=0.25, students=["one"], images=[1])
    assert axes.shape == (2, 2)
    for row in axes:
        assert (drawn(row[0]) == drawn(row[1])).all(axis=-1).sum() == 36
    again = several.plot_kept("UniCAM, uniqueness", "second_relu", share=0.25, students=["one"], images=[1])[
        1
    ]
    assert np.array_equal(drawn(again[0, 1]), drawn(axes[0, 1]))


def test_what_is_wrong_is_said(several: Comparison) -> None:
    unknown = r"method must be one of 'Grad-CAM', 'UniCAM, uniqueness', got 'LRP'.*compare\(methods=\[...\]\)"
    for call, message in (
        (
            lambda: several.plot_models("UniCAM, uniqueness"),
            "distilled and residual maps of a pair.*'Grad-CAM'",
        ),
        (lambda: several.plot_models("LRP"), unknown),
        (lambda: several.plot_layers("LRP"), unknown),
        (lambda: several.plot_kept("LRP"), unknown),
        (lambda: several.plot_models(layer="head"), "layer must be one of .*got 'head'"),
        (lambda: several.plot_layers("Grad-CAM", ["head"]), "layer must be one of .*got 'head'"),
        (lambda: several.plot_kept("Grad-CAM", "head"), "layer must be one of .*got 'head'"),
        (lambda: several.plot_layers("Grad-CAM", students=["three"]), "student must be one of .*got 'three'"),
        (lambda: several.plot_layers("Grad-CAM", images=[3]), "images must be numbers from 0 to 2, got 3"),
        (lambda: several.plot_layers("Grad-CAM", []), "no maps to draw"),
        (lambda: several.plot_maps(), "student is needed"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_without_a_method_of_one_model_the_error_names_compare(several: Comparison) -> None:
    pairs_only = replace(several, sides={"UniCAM, uniqueness": ("distilled", "residual")})
    with pytest.raises(ValueError, match=r"Pass one to compare, for instance compare\(methods=\['Grad-CAM'"):
        pairs_only.plot_models("UniCAM, uniqueness")


@pytest.mark.parametrize("figure", ["plot_models", "plot_layers", "plot_kept", "plot_maps"])
def test_without_maps_there_is_no_figure(several: Comparison, figure: str) -> None:
    comparison = replace(several, images=torch.zeros(0, 3, 12, 12), maps={"one": {}, "two": {}})
    arguments = ("head", "one") if figure == "plot_maps" else ("Grad-CAM",)
    with pytest.raises(ValueError, match="no maps to plot"):
        getattr(comparison, figure)(*arguments)
