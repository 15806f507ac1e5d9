"""Decoding whatever an image is stored as, and saying what is wrong where that fails."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from captum_kd.datasets.image_files import as_rgb, decoding_problem, read_rgb


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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 256, dtype=np.float32), np.arange(256)),
        (np.linspace(0, 0.5, 256, dtype=np.float32), np.rint(np.arange(256) / 2)),
        (np.linspace(-0.0001, 1.0001, 256, dtype=np.float32), np.arange(256)),
        (np.arange(256, dtype=np.float32), np.arange(256)),
        (np.arange(256, dtype=np.int32), np.arange(256)),
        (np.arange(256, dtype=np.int32) * 257, np.arange(256)),
        (np.arange(256, dtype=np.uint16) * 257, np.arange(256)),
        (np.zeros(256, np.uint16), np.zeros(256)),
        (np.arange(256) >= 128, np.repeat([0, 255], 128)),
    ],
)
def test_grey_levels_of_any_depth_come_out_right(values, expected, tmp_path):
    Image.fromarray(np.tile(values, (4, 1))).save(tmp_path / "image.tif")
    found = np.asarray(read_rgb(tmp_path / "image.tif"))
    assert found.shape == (4, 256, 3)
    assert np.abs(found.astype(int) - expected.reshape(1, -1, 1)).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.linspace(-1, 1, 16, dtype=np.float32), "from -1 to 1, but from 0 to 1, 255 or 65535 is needed"),
        (np.linspace(0, 9.5, 16, dtype=np.float32), r"from 0 to 9\.5, but"),
        (np.arange(16, dtype=np.float32) * 100, "from 0 to 1500, but"),
        (np.full(16, np.nan, np.float32), "NaN or infinite"),
        (np.arange(16, dtype=np.int32) - 5, "from -5 to 10, but"),
        (np.arange(16, dtype=np.int32) * 5000, "from 0 to 75000, but"),
        (np.arange(16, dtype=np.uint16), "from 0 to 15 in a 16-bit image, whose white is 65535"),
    ],
)
def test_other_ranges_are_refused_with_what_was_found(values, message, tmp_path):
    Image.fromarray(np.tile(values, (4, 1))).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=message):
        read_rgb(tmp_path / "image.tif")


def test_white_is_zero_of_many_bits_is_refused(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    levels = Image.fromarray(np.full((4, 4), 60000, np.uint16))
    levels.save(tmp_path / "image.tif", tiffinfo=tags)
    content = bytearray((tmp_path / "image.tif").read_bytes())
    entry = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    place = content.index(entry) + len(entry)
    content[place : place + 2] = b"\0\0"
    (tmp_path / "image.tif").write_bytes(content)
    with pytest.raises(ValueError, match="white is zero"):
        read_rgb(tmp_path / "image.tif")


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (39, 23)), (6, (23, 0)), (8, (0, 39))])
def test_images_are_upright_as_their_exif_data_says(extension, orientation, corner, tmp_path):
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"image.{extension}", exif=exif)
    found = read_rgb(tmp_path / f"image.{extension}")
    assert found.size == ((40, 24) if orientation in (1, 3) else (24, 40))
    assert found.getpixel(corner)[0] > 200
    assert found.getpixel((12, 12))[0] < 50


def test_broken_exif_data_keeps_no_image_from_being_read(tmp_path):
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "image.png", exif=b"Exif\0\0MM\0nonsense")
    assert read_rgb(tmp_path / "image.png").size == (4, 4)


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "YCbCr", "HSV", "RGBX"])
def test_rare_modes_become_rgb(mode):
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
    grey = Image.new("RGB", (4, 4), (102, 102, 102))
    image = (grey.convert(through) if through else grey).convert(mode)
    assert as_rgb(image).mode == "RGB"
    assert abs(as_rgb(image).getpixel((1, 1))[0] - 102) <= 1
