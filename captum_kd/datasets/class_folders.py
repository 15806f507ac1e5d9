"""Folders with a sub-folder of images per class: the one reader of them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

# What splits are called, in any case, also with a word or a year behind: test_set, train2017.
_SPLITS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "holdout"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
}
_BEHIND = re.compile(r"[-_ ]?(set|data|images|split|\d{4})$")


class ListedImages(NamedTuple):
    """Image files and the index of the class of each."""

    paths: list[Path]
    labels: list[int]


def split_folders(folder: Path) -> dict[str, Path]:
    """Find the folders of a data set's splits.

    Args:
        folder: A folder with a folder for each split, such as ``train/``, ``valid/`` and ``Test/``, or with a
            sub-folder per class.

    Returns:
        The splits that there are, as "train", "test" and "val" (validation); empty if the sub-folders are
        classes. "train" may be a class, too, among trams and buses: it is a split only where no other
        sub-folder is there than splits.

    Raises:
        ValueError: Two folders are the same split, or splits of the same classes are beside other folders.
    """
    names = class_names_in(folder)
    kinds = {name: kind for name in names if (kind := _split(name)) is not None}
    if len(kinds) < len(names):
        _refuse_others_beside_splits(folder, kinds, [name for name in names if name not in kinds])
        return {}
    if "train" not in kinds.values() and not any(class_names_in(folder / name) for name in names):
        return {}
    splits: dict[str, Path] = {}
    for name, kind in kinds.items():
        if kind in splits:
            raise ValueError(
                f"{folder} has two folders of the same split, {splits[kind].name} and {name}. Name the one "
                "to use, or move the other."
            )
        splits[kind] = folder / name
    return splits


def _split(name: str) -> str | None:
    plain = _BEHIND.sub("", name.lower())
    return next((kind for kind, words in _SPLITS.items() if plain in words), None)


def _refuse_others_beside_splits(folder: Path, kinds: Mapping[str, str], others: Sequence[str]) -> None:
    """Refuse what is most likely splits, taken for classes because another folder is beside them."""
    below = [set(class_names_in(folder / name)) for name in kinds]
    if len(set(kinds.values())) > 1 and set.intersection(*below):
        raise ValueError(
            f"{folder} has splits of the same classes ({', '.join(kinds)}) beside other folders "
            f"({', '.join(others[:5])}), so it is neither a folder of splits nor one of classes. Name the "
            f"split to use, for instance {folder / next(iter(kinds))}, or move the others."
        )


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
