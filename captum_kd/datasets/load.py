"""Data sets by name or folder: what the distillation recipe trains and tests on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

from captum_kd.datasets.dataset import DataOptions, ImageData
from captum_kd.datasets.folders import load_asirra, load_image_folder, load_plant_village
from captum_kd.datasets.in_memory import load_cifar10, load_fashion_mnist, load_planted_cue
from captum_kd.datasets.splits import check_seed, class_splits

__all__ = ["DATA_SETS", "ImageData", "class_splits", "load_data"]

_LOADERS: dict[str, Callable[[Path, DataOptions], ImageData]] = {
    "cifar10": load_cifar10,
    "fashion-mnist": load_fashion_mnist,
    "planted-cue": load_planted_cue,
    "asirra": load_asirra,
    "plant-village": load_plant_village,
}

DATA_SETS: tuple[str, ...] = tuple(_LOADERS)
"""Names that :func:`load_data` knows. Case, hyphens and underscores do not matter."""


def load_data(
    data: str,
    *,
    root: Path = Path("data"),
    image_size: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    skip_unreadable: bool = False,
    augment: bool = True,
) -> ImageData:
    """Load a data set by its name, or a folder of images.

    ============= ==================================== ===== ===================================
    Name          Where it is                          Size  Augmentation
    ============= ==================================== ===== ===================================
    cifar10       downloaded to ``root``               32    crop after padding by 4, flip
    fashion-mnist downloaded to ``root``               28    crop after padding by 2, flip
    planted-cue   drawn from Fashion-MNIST             56    none
    asirra        ``root/PetImages/Cat`` and ``Dog``   224   crop, flip, rotation, colour jitter
    plant-village ``root/PlantVillage``, a folder per  224   crop, flip, rotation, colour jitter
                  class, or these below ``color/`` or
                  ``raw/color/``
    a folder      a sub-folder per class, or these     224   crop, flip, rotation, colour jitter
                  below ``train/`` and ``test/`` (or
                  ``val/``, or other usual names)
    ============= ==================================== ===== ===================================

    CIFAR10 and Fashion-MNIST come with their test split. Of a folder without ``test/`` or ``val/``, a fifth
    of each class is held out as the test images, chosen by ``seed``.

    Args:
        data: One of :data:`DATA_SETS`, or the path of a folder. A name takes precedence over a folder of that
            name: write ``./cifar10`` for the folder.
        root: Folder of the named data sets; downloads are written here.
        image_size: Height and width of the images in pixels. None: as in the table.
        seed: Seed of the held-out fifth, of the choice for ``limit`` and of planted cues.
        limit: Keep at most this many training images, as many of one class as of another. The test images
            stay as they are.
        skip_unreadable: Leave out images of a folder that cannot be read, instead of raising. ASIRRA's
            corrupt files are always left out.
        augment: Augment the training images.

    Returns:
        The data set.

    Raises:
        TypeError: ``limit`` or ``image_size`` is not an integer.
        ValueError: The name or folder is unknown, a folder has no usable layout, a class has too few images,
            images are unreadable, or ``image_size``, ``limit`` or ``seed`` is out of range.
        FileNotFoundError: A data set is not on disk and cannot be downloaded.

    Example:
        >>> import tempfile, torch
        >>> from torchvision.utils import save_image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for index in range(20):
        ...     path = Path(folder.name, "cat" if index % 2 else "dog", f"{index}.png")
        ...     path.parent.mkdir(exist_ok=True)
        ...     save_image(torch.rand(3, 40, 50), path)
        >>> data = load_data(folder.name, image_size=32)
        >>> data.class_names, len(data.train), len(data.test)
        (('cat', 'dog'), 16, 4)
        >>> image, label = data.train[0]
        >>> image.shape, label
        (torch.Size([3, 32, 32]), 0)
        >>> folder.cleanup()
    """
    check_seed(seed)
    if image_size is not None:
        if isinstance(image_size, bool) or not isinstance(image_size, int):
            raise TypeError(f"image_size is {image_size!r}; an integer needed")
        if image_size < 1:
            raise ValueError(f"image_size is {image_size} pixels; at least 1 needed")
    options = DataOptions(image_size, seed, limit, skip_unreadable, augment)
    if (name := _known_name(data)) is not None:
        return _LOADERS[name](Path(root).expanduser(), options)
    folder = Path(data).expanduser()
    if not data.strip() or not folder.is_dir():
        raise ValueError(_unknown(data, folder))
    return load_image_folder(folder, options)


def _plain_spelling(name: str) -> str:
    return re.sub(r"[-_\s]", "", name).lower()


def _known_name(data: str) -> str | None:
    names = {_plain_spelling(name): name for name in DATA_SETS} | {"petimages": "asirra"}
    return names.get(_plain_spelling(data))


def _unknown(data: str, folder: Path) -> str:
    """The message for a word that is neither a data set nor a folder, with near names."""
    fact = "that path is a file" if folder.is_file() else "no such folder exists"
    message = f"unknown data {data!r}: {fact}, and the data sets are {', '.join(DATA_SETS)}"
    spellings = {_plain_spelling(name): name for name in DATA_SETS} | {"petimages": "PetImages"}
    near = [spellings[match] for match in difflib.get_close_matches(_plain_spelling(data), spellings)]
    if folder.parent.is_dir() and folder.name:
        siblings = {path.name: str(path) for path in folder.parent.iterdir() if path.is_dir()}
        near += [siblings[match] for match in difflib.get_close_matches(folder.name, siblings)]
    return message + (f". Did you mean {' or '.join(near)}?" if near else "")
