"""Decoding whatever an image is stored as, and saying what is wrong where that fails."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from captum_kd.datasets.image_files import decoding_problem, read_rgb


@pytest.fixture
def gradient():
    """Grey levels from 0 to 255."""
    return np.tile(np.arange(256, dtype=np.uint8), (40, 1))


@pytest.mark.parametrize("kind", ["L", "LA", "1", "P", "CMYK", "RGBA", "I;16", "tiff"])
def test_whatever_an_image_is_stored_as_it_becomes_rgb(kind, gradient, tmp_path):
    path = tmp_path / ("image.tif" if kind in ("CMYK", "tiff") else "image.png")
    if kind in ("I;16", "tiff"):
        Image.fromarray(gradient.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(gradient).convert("RGB").convert(kind).save(path)
    image = read_rgb(path)
    assert image.mode == "RGB"
    if kind != "1":
        expected = np.repeat(gradient[..., None], 3, axis=2)
        tolerance = 26 if kind == "P" else 1  # a palette's "web" colours lie 51 apart
        assert np.abs(np.asarray(image).astype(int) - expected).mean() <= tolerance


def test_a_palette_with_transparency_keeps_its_colours_and_pillow_does_not_warn(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "image.png", transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(tmp_path / "image.png").getpixel((1, 1)) == (10, 200, 30)


def test_a_problem_is_named_without_its_path(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "whole.png")
    assert decoding_problem(lambda: read_rgb(tmp_path / "whole.png")) is None
    (tmp_path / "damaged.png").write_bytes(b"nothing")
    message = "UnidentifiedImageError: cannot identify image file"
    assert decoding_problem(lambda: read_rgb(tmp_path / "damaged.png")) == message
    assert decoding_problem(lambda: read_rgb(io.BytesIO(b"nothing"))) == message
    missing = decoding_problem(lambda: read_rgb(tmp_path / "missing.png"))
    assert missing == "FileNotFoundError: [Errno 2] No such file or directory:"
