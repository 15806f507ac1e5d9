"""Image files: decoding, what is wrong with damaged ones, cropping, and data sets of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ORIENTATION = 0x0112  # tags of Exif and of TIFF
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SLACK = 1e-3  # by which rounding may leave the range from 0 to 1


def read_rgb(source: str | Path | io.BytesIO) -> Image.Image:
    """Decode an image to 8-bit RGB, whatever it is stored as; see :func:`as_rgb`.

    Args:
        source: A path or an open binary file.

    Returns:
        The image in Pillow's mode ``"RGB"``.

    Raises:
        ValueError: Its grey levels have a range that no format has.
        Exception: Whatever Pillow's decoder raises on a damaged file: mostly ``OSError``, for some formats
            ``SyntaxError``, ``ValueError`` and others.
    """
    with Image.open(source) as image:
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Turn an image into 8-bit RGB, upright.

    It is rotated and mirrored as its Exif data says. Transparency is dropped. Grey levels of more than 8 bits
    are scaled: of 16 bits from 65535; of 32-bit whole numbers from 255 where none is above that, otherwise
    from 65535; and of floating point numbers from 1, or from 255 where all are whole numbers.

    Args:
        image: An image of any of Pillow's modes.

    Returns:
        The image in mode ``"RGB"``.

    Raises:
        ValueError: The grey levels have none of these ranges; the message has theirs.

    Example:
        >>> as_rgb(Image.new("F", (2, 2), 0.4)).getpixel((0, 0))
        (102, 102, 102)
    """
    image = _upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled(image).convert("RGB")
    if image.mode in ("RGBa", "La", "PA"):  # from which Pillow has no direct way
        image = image.convert({"RGBa": "RGBA", "La": "LA", "PA": "RGBA"}[image.mode])
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # directly, Pillow warns of palettes
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
    except Exception:  # broken Exif data says nothing, and raises nearly anything
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _scaled(image: Image.Image) -> Image.Image:
    """Grey levels of more than 8 bits as 8 bits."""
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise ValueError("grey levels of more than 8 bits that count from white (white is zero) are not read")
    levels = np.asarray(image if image.mode == "F" else image.convert("I"))
    if not np.isfinite(levels).all():
        raise ValueError("some grey levels are NaN or infinite")
    least, most = levels.min().item(), levels.max().item()
    whole = image.mode != "F" or bool((levels == np.rint(levels)).all())
    of_16_bits = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    found = f"grey levels are from {least:g} to {most:g}"
    if of_16_bits and 0 < most <= 255:
        raise ValueError(
            f"{found} in a 16-bit image, whose white is 65535, so it would be black; save it in 8 bits"
        )
    if image.mode == "F" and least >= -_SLACK and most <= 1 + _SLACK:
        white = 1.0
    elif least < 0 or most > 65535 or not whole or (image.mode == "F" and most > 255):
        raise ValueError(f"{found}, but from 0 to 1, 255 or 65535 is needed; save it as an 8-bit image")
    else:
        white = 65535.0 if of_16_bits or most > 255 else 255.0
    if white == 65535:
        return image.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    return Image.fromarray(np.rint(np.clip(levels / white, 0, 1) * 255).astype(np.uint8))


def decoding_problem(decode: Callable[[], object]) -> str | None:
    """Say what keeps an image from being decoded.

    Args:
        decode: Decodes the image; what it returns does not matter.

    Returns:
        The name of the exception and its message, or None if nothing was raised.

    Example:
        >>> decoding_problem(lambda: read_rgb(io.BytesIO(b"text")))
        'UnidentifiedImageError: cannot identify image file'
    """
    try:
        decode()
    except Exception as error:  # decoders raise nearly anything on damaged files
        # Pillow's message ends in the path or the stream, which its reader knows already.
        return re.sub(r" '.*'$| <.*>$", "", f"{type(error).__name__}: {error}")
    return None


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, decoded when they are fetched.

    Args:
        paths: Paths of the image files.
        labels: Class index of each, int64, ``(n,)``.
        transform: Turns a PIL image (RGB) into a tensor.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, transform: Callable[[Image.Image], Tensor]
    ) -> None:
        # As strings, because every worker process copies the list, and paths take several times as much.
        self.paths = [str(path) for path in paths]
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        try:
            image = read_rgb(path)
        except Exception as error:
            raise OSError(f"{path} was readable when the data was loaded but is not now: {error}") from error
        return self.transform(image), int(self.labels[index])


def evaluation_crop(image_size: int, shorter_side: int | None = None) -> v2.Compose:
    """The usual evaluation of ImageNet models: resize the shorter side, then crop the centre.

    Args:
        image_size: Height and width of the result in pixels.
        shorter_side: Length of the shorter side before the crop, in pixels. None: 256/224 of ``image_size``.

    Returns:
        A transform of PIL images to float32 ``(3, image_size, image_size)`` with values in [0, 1].

    Example:
        >>> evaluation_crop(8)(Image.new("RGB", (30, 20))).shape
        torch.Size([3, 8, 8])
    """
    shorter = shorter_side or round(image_size * 256 / 224)
    return v2.Compose(
        [
            v2.Resize(shorter, antialias=True),
            v2.CenterCrop(image_size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
