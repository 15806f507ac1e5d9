"""compare() of token models: the same as of a model that gives the same activations as an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, LayerIntegratedGradients
from torch import Tensor, nn

from captum_kd import Comparison, compare
from captum_kd.attr.methods import METHODS
from captum_kd.comparison import features
from tests.networks import classes, images

SIDE = 4
REFERENCE = (images(12, seed=1), classes(12))


class Both(nn.Module):
    """Its layer `image` gives (n, c, h, w), its layer `tokens` the same as (n, 1 + h * w, c)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, 6, 3, stride=3)
        self.image, self.tokens = nn.Identity(), nn.Identity()
        self.mix = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.image(self.embed(x).tanh())
        x = self.tokens(torch.cat([torch.zeros(len(x), 1, 6), x.flatten(2).transpose(1, 2)], dim=1))
        x = as_image(x)
        return self.head((self.mix(x).tanh() * x).mean((2, 3)))


def as_image(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (SIDE, SIDE))


def compared(layer: str, methods: Any = (), **options: Any) -> Comparison:
    data = list(zip(images(24).split(8), classes(24).split(8), strict=True))
    options = {"permutations": 9, "progress": False, "reference": REFERENCE} | options
    return compare(Both(1), Both(2), [layer], data, methods=methods, teacher=Both(3), **options)


def test_tokens_have_the_scores_and_maps_of_the_image_they_are() -> None:
    methods: dict[str, Any] = {name: name for name in METHODS}
    methods["integrated gradients"] = LayerIntegratedGradients
    as_tokens = compared("tokens", methods, reshape_transform=as_image)
    expected = compared("image", methods)
    assert [{**row, "layer": ""} for row in as_tokens.rows] == [
        {**row, "layer": ""}
        | {key: pytest.approx(row[key]) for key in ("value", "low", "high", "null") if row[key] is not None}
        for row in expected.rows
    ]
    for method, maps in expected.maps["student"]["image"].items():
        for mine, theirs in zip(as_tokens.maps["student"]["tokens"][method], maps, strict=True):
            assert mine.shape == (8, 1, SIDE, SIDE)
            torch.testing.assert_close(mine, theirs, msg=method)
    assert as_tokens.settings.reshape_transform == "as_image"


def test_what_maps_keep_is_scored() -> None:
    options: dict[str, Any] = {"kept_share": 0.3, "shown": 0}
    row = compared("tokens", reshape_transform=as_image, **options).score(
        "RS kept by random maps, student", "tokens"
    )
    expected = compared("image", **options).score("RS kept by random maps, student", "image")
    assert row.value == pytest.approx(expected.value)


def test_features_on_disk_belong_to_a_transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, real = 0, features.compute_batch

    def counted(*given: Any) -> Any:
        nonlocal count
        count += 1
        return real(*given)

    monkeypatch.setattr(features, "compute_batch", counted)
    options: dict[str, Any] = {"cache": tmp_path, "shown": 0}
    first = compared("tokens", reshape_transform=as_image, **options)
    assert count == 3
    # Another function that does the same.
    again = compared("tokens", reshape_transform=lambda tokens: as_image(tokens), **options)
    assert count == 3
    assert again.rows == first.rows
    compared("tokens", reshape_transform=lambda tokens: as_image(tokens).relu(), **options)
    assert count == 6


def test_a_method_that_cannot_know_says_so() -> None:
    with pytest.raises(ValueError, match=r"LayerGradCam takes the second .* Name 'Grad-CAM' instead"):
        compared("tokens", {"mine": LayerGradCam}, reshape_transform=as_image)
    with pytest.raises(ValueError, match=r"gives activations of shape \(8, 17, 6\).* reshape_transform"):
        compared("tokens")
