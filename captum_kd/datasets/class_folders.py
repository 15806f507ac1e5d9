"""Folders with a sub-folder of images per class: the one reader of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

SPLITS = ("train", "test", "val")


class ListedImages(NamedTuple):
    """Image files and the index of the class of each."""

    paths: list[Path]
    labels: list[int]


def split_folders(folder: Path) -> dict[str, Path]:
    """Find the folders of a data set's splits.

    Args:
        folder: A folder with ``train/`` and perhaps ``test/`` and ``val/``, or with a sub-folder per class.

    Returns:
        The splits that there are, by name; empty if the sub-folders are classes. "train" may be a class, too,
        among trams and buses: it is a split only where no other sub-folder is there than splits.
    """
    names = class_names_in(folder)
    if "train" in names and set(names) <= set(SPLITS):
        return {name: folder / name for name in names}
    return {}


def class_names_in(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted, without hidden ones and those that macOS adds to archives."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")


def list_images(folder: Path, class_names: Sequence[str]) -> ListedImages:
    """List the image files of the classes of a folder.

    Args:
        folder: A folder with a sub-folder per class.
        class_names: The sub-folders to list; a missing one has no images.

    Returns:
        The files, class by class, with indices into ``class_names``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("dog/1.png", "dog/2.jpg", "cat/1.png", "cat/notes.txt"):
        ...         Path(folder, name).parent.mkdir(exist_ok=True)
        ...         Path(folder, name).touch()
        ...     found = list_images(Path(folder), class_names_in(Path(folder)))
        >>> [path.name for path in found.paths], found.labels
        (['1.png', '1.png', '2.jpg'], [0, 1, 1])
    """
    paths: list[Path] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        found = _image_paths(folder / class_name)
        paths += found
        labels += [label] * len(found)
    return ListedImages(paths, labels)


def _image_paths(folder: Path) -> list[Path]:
    """Image files in a folder and those below it, sorted as by torchvision's ImageFolder.

    Links to folders are followed, but each folder is entered once, so that links in a circle end.
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
