"""Image files: decoding, what is wrong with damaged ones, cropping, and data sets of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_rgb(source: str | Path | io.BytesIO) -> Image.Image:
    """Decode an image to 8-bit RGB, whatever it is stored as.

    16-bit grey levels are scaled to 8 bits (Pillow alone would clip them to white); transparency is dropped.

    Args:
        source: A path or an open binary file.

    Returns:
        The image in Pillow's mode ``"RGB"``.

    Raises:
        Exception: Whatever Pillow's decoder raises on a damaged file: mostly ``OSError``, for some formats
            ``SyntaxError``, ``ValueError`` and others.
    """
    with Image.open(source) as image:
        if image.mode == "I" or image.mode.startswith("I;16"):
            return image.convert("I").point(lambda level: level * (1 / 257)).convert("L").convert("RGB")
        if "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")  # directly, Pillow warns of palettes
        return image.convert("RGB")


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
