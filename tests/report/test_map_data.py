"""Maps as bytes, and pictures as data URLs."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from captum_kd.report.map_data import grid, picture_url, viewer_data


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6),
    st.booleans(),
)
def test_a_map_comes_back_within_half_a_step(numbers: list[float], signed: bool) -> None:
    values = torch.tensor(numbers).reshape(2, 3)
    values = values if signed else values.abs()
    found = grid(values, signed)
    assert found["size"] == [2, 3]
    peak = values.abs().max().item()
    assert found["peak"] == peak
    levels = np.frombuffer(base64.b64decode(found["values"]), np.uint8).astype(float)
    if peak == 0:
        assert not len(levels)
        return
    steps = 127 if signed else 255
    back = (levels - 128 if signed else levels) / steps * peak
    assert np.abs(back - values.flatten().double().numpy()).max() <= peak / steps * 0.5001


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_has_no_peak(value: float) -> None:
    assert grid(torch.tensor([[0.5, value]]), False) == {"size": [1, 2], "peak": None, "values": ""}


@pytest.mark.parametrize("size", [(4, 7), (4, 28), (28, 7), (28, 28)])
def test_maps_and_images_keep_their_height_and_width(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 2, 1, *size, generator=torch.Generator().manual_seed(0))
    layers = {"student": {"layer4": {"mine": (maps[0], maps[1])}}}
    for height, width in ((28, 28), (20, 28), (28, 20)):
        images = torch.rand(2, 3, height, width)
        data = viewer_data(images, [("a", ""), ("b", "")], layers, {"mine": ("student", "base")})
        assert [image["size"] for image in data["images"]] == [[height, width]] * 2
        pairs = data["students"][0]["layers"][0]["methods"][0]["pairs"]
        for i in range(2):
            for side in (0, 1):
                assert pairs[i][side]["size"] == list(size)
                values = np.frombuffer(base64.b64decode(pairs[i][side]["values"]), np.uint8).reshape(size)
                found = torch.from_numpy(values / 255 * pairs[i][side]["peak"])
                assert found == pytest.approx(maps[side, i, 0], abs=1 / 500)


def test_a_method_is_signed_where_either_map_is() -> None:
    pair = torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    for place, signed in ((None, False), (0, True), (1, True)):
        maps = tuple(m.clone() for m in pair)
        if place is not None:
            maps[place][1, 0, 0, 0] = -1
        sides = {"mine": ("student", "base")}
        data = viewer_data(torch.rand(2, 3, 4, 4), [("a", "")] * 2, {"s": {"l": {"mine": maps}}}, sides)
        assert data["students"][0]["layers"][0]["methods"][0]["signed"] is signed


def test_colours_are_matplotlibs() -> None:
    data = viewer_data(torch.rand(0, 3, 4, 4), [], {}, {})
    for key, name in (("positive", "inferno"), ("signed", "PuOr_r")):
        table = np.frombuffer(base64.b64decode(data["colours"][key]), np.uint8).reshape(256, 3)
        assert (table == matplotlib.colormaps[name](range(256), bytes=True)[:, :3]).all()


@pytest.mark.parametrize(("size", "kind", "tolerance"), [(16, "png", 0.5 / 255), (256, "jpeg", 0.05)])
def test_a_picture_comes_back(size: int, kind: str, tolerance: float) -> None:
    ramp = torch.linspace(0, 1, size)
    picture = torch.stack(
        [ramp.expand(size, size), ramp.reshape(-1, 1).expand(size, size), ramp.flip(0).expand(size, size)]
    )
    head, content = picture_url(picture).split(",")
    assert head == f"data:image/{kind};base64"
    read = imread(io.BytesIO(base64.b64decode(content)), format=kind)
    read = read[..., :3] if kind == "png" else read / 255
    assert np.abs(read - picture.permute(1, 2, 0).numpy()).max() <= tolerance + 1e-6
