"""Reading image files: what decodes them, and how they are made as large as a model wants them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_rgb(source: str | Path | io.BytesIO) -> Image.Image:
    """Decodes an image to 8-bit RGB, whatever it is stored as.

    16-bit grey levels are scaled to 8 bit (Pillow alone would clip them to white), transparency is
    dropped.

    Args:
        source: a path or an open binary file.

    Returns:
        The image in Pillow's mode ``"RGB"``.

    Raises:
        Exception: whatever Pillow's decoder raises on a damaged file: mostly ``OSError``, for some
            formats ``SyntaxError``, ``ValueError`` and others.
    """
    with Image.open(source) as image:
        if image.mode == "I" or image.mode.startswith("I;16"):
            return image.convert("I").point(lambda level: level * (1 / 257)).convert("L").convert("RGB")
        if "transparency" in image.info:
            return image.convert("RGBA").convert("RGB")  # directly, Pillow warns of palettes
        return image.convert("RGB")


def evaluation_crop(image_size: int, shorter_side: int | None = None) -> v2.Compose:
    """The usual evaluation of ImageNet models: resize the shorter side, then crop the centre.

    Args:
        image_size: height and width of the result in pixels.
        shorter_side: in pixels, before the crop. None: 256/224 of ``image_size``.

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


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted; hidden ones and what macOS adds to archives left out."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")


def image_paths(folder: Path) -> list[Path]:
    """Image files in a folder and those below it, sorted as by torchvision's ImageFolder.

    Links to folders are followed, each folder is entered once, so that links in a circle end.
    """
    found: list[Path] = []
    entered: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in sorted(files):
            path = os.path.join(where, name)
            # Links that lead nowhere are unreadable images; pipes and sockets are none.
            if name.lower().endswith(IMG_EXTENSIONS) and (os.path.isfile(path) or os.path.islink(path)):
                found.append(Path(path))
    return found
