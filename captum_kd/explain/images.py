"""The images that models are compared on: a folder, a list of files, or a data set of torchvision."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import rgb_to_grayscale

from captum_kd.datasets.class_folders import class_names_in, list_images, split_folders
from captum_kd.datasets.image_files import ImageFiles, as_rgb, decoding_problem, read_rgb

CHECKED_AT_ONCE = 64
_FEW_CLASSES = 1000  # up to which indices may leave any gaps
_FILE_COLUMNS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img",
)
_CLASS_COLUMNS = ("class", "label", "labels", "target", "category", "class_name", "class_id", "label_id", "y")
Transform = Callable[[Image.Image], Tensor]


class ExplainedImages(NamedTuple):
    """Images with their classes.

    Attributes:
        dataset: Items ``(image, class index)`` in random order; images are float ``(c, h, w)``, as the models
            take them.
        names: What each image is called.
        class_names: Names in the order of the class indices.
        name: Name of the data.
        skipped: Files that could not be read: ``{"file": ..., "reason": ...}``.
        folder: The folder of images, whose sub-folders are classes or splits; None for other sources.
        notes: Sentences for the report: what was decided about the images.
    """

    dataset: Dataset[tuple[Tensor, int]]
    names: list[str]
    class_names: tuple[str, ...]
    name: str
    skipped: list[dict[str, str]]
    folder: Path | None = None
    notes: tuple[str, ...] = ()


class _Listed(NamedTuple):
    """Images of a source before any is read.

    Attributes:
        names: What each image is called.
        labels: The class index of each.
        class_names: Names in the order of the class indices.
        decode: Decodes the image of an index.
        choose: Makes a data set of some of them, by their indices.
        notes: Sentences for the report: what was decided about the source.
    """

    names: list[str]
    labels: list[int]
    class_names: tuple[str, ...]
    decode: Callable[[int], Image.Image]
    choose: Callable[[list[int], Transform], Dataset[tuple[Tensor, int]]]
    notes: tuple[str, ...] = ()


def find_images(
    source: str,
    transform: Transform,
    *,
    class_names: Sequence[str] | None = None,
    root: Path = Path("data"),
    limit: int = 512,
    seed: int = 0,
) -> ExplainedImages:
    """Find images and draw some of them at random.

    Args:
        source: A folder with a sub-folder per class; a text file with a line ``path,class`` per image (comma,
            tab or space; paths relative to the file); or the name of a data set in ``torchvision.datasets``,
            whose test split is taken.
        transform: Turns a PIL image (RGB) into a tensor.
        class_names: Names of the models' outputs in their order. None: the folders' names, sorted.
        root: Folder of torchvision's data sets; downloads are written here.
        limit: Draw at most this many images.
        seed: Seed of the drawing.

    Returns:
        The images that could be read, in random order.

    Raises:
        ValueError: There is no such source, it holds no images, no image can be read, or a class is not one
            of ``class_names``.

    Example:
        >>> import tempfile
        >>> from captum_kd.datasets.image_files import evaluation_crop
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in ("cat", "dog"):
        ...     Path(folder.name, name).mkdir()
        ...     Image.new("RGB", (30, 20)).save(Path(folder.name, name, "1.png"))
        >>> found = find_images(folder.name, evaluation_crop(16))
        >>> found.class_names, sorted(found.names)
        (('cat', 'dog'), ['cat/1.png', 'dog/1.png'])
        >>> folder.cleanup()
    """
    if not source.strip():
        raise ValueError("--images is empty. Give a folder, a list of files or the name of a data set.")
    path = Path(source).expanduser()
    if path.is_dir():
        listed = _from_folder(path, class_names)
    elif path.is_file():
        listed = _from_list(path, class_names)
    else:
        listed = _from_torchvision(source, root, class_names)
    order = torch.randperm(len(listed.names), generator=torch.Generator().manual_seed(seed)).tolist()
    chosen, skipped = _readable(listed, order, limit)
    if not chosen:
        reason = f" The first: {skipped[0]['file']} ({skipped[0]['reason']})." if skipped else ""
        raise ValueError(f"--images: none of the {len(order)} images in {source} can be read.{reason}")
    return ExplainedImages(
        listed.choose(chosen, transform),
        [listed.names[i] for i in chosen],
        listed.class_names,
        path.name or source,
        skipped,
        path if path.is_dir() else None,
        listed.notes,
    )


def in_grey(images: ExplainedImages) -> ExplainedImages:
    """Return the same images with one channel in place of three."""
    return images._replace(dataset=_GreyImages(images.dataset))


class _GreyImages(Dataset[tuple[Tensor, int]]):
    def __init__(self, coloured: Dataset[tuple[Tensor, int]]) -> None:
        self.coloured = coloured

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.coloured[index]
        return rgb_to_grayscale(image), label


def _readable(listed: _Listed, order: list[int], limit: int) -> tuple[list[int], list[dict[str, str]]]:
    """The first ``limit`` images of an order that can be read, and those before them that cannot."""
    chosen: list[int] = []
    skipped: list[dict[str, str]] = []
    with ThreadPoolExecutor() as executor:
        for start in range(0, len(order), CHECKED_AT_ONCE):
            indices = order[start : start + CHECKED_AT_ONCE]
            problems = executor.map(lambda i: decoding_problem(lambda: listed.decode(i)), indices)
            for index, problem in zip(indices, problems, strict=True):
                if len(chosen) == limit:
                    return chosen, skipped
                if problem is None:
                    chosen.append(index)
                else:
                    skipped.append({"file": listed.names[index], "reason": problem})
    return chosen, skipped


def _files(paths: list[Path], names: list[str], labels: list[int], class_names: tuple[str, ...]) -> _Listed:
    def choose(indices: list[int], transform: Transform) -> ImageFiles:
        return ImageFiles([paths[i] for i in indices], torch.tensor(labels)[indices], transform)

    return _Listed(names, labels, class_names, lambda index: read_rgb(paths[index]), choose)


def _from_folder(folder: Path, class_names: Sequence[str] | None) -> _Listed:
    try:
        splits = split_folders(folder)
    except ValueError as error:
        raise ValueError(f"--images: {error}") from error
    chosen = next((name for name in ("test", "val", "train") if name in splits), None)
    notes = () if chosen is None else (_note_of_split(folder, splits, chosen),)
    folder = folder if chosen is None else splits[chosen]
    found = class_names_in(folder)
    paths, indices = list_images(folder, found)
    if not paths:
        loose = sum(path.suffix.lower() in IMG_EXTENSIONS for path in folder.iterdir())
        hint = f" There are {loose} images in the folder itself: name their classes in a text file."
        raise ValueError(
            f"--images: {folder} holds no images ({', '.join(IMG_EXTENSIONS)}) in a sub-folder per class."
            + (hint if loose else "")
        )
    class_names = tuple(class_names or found)
    labels = [
        _class_index(found[index], class_names, f"the folder {folder / found[index]}") for index in indices
    ]
    return _files(
        paths, [path.relative_to(folder).as_posix() for path in paths], labels, class_names
    )._replace(notes=notes)


def _note_of_split(folder: Path, splits: Mapping[str, Path], chosen: str) -> str:
    others = [path.name for name, path in splits.items() if name != chosen]
    beside = f" (beside {', '.join(others)})" if others else ""
    known = (
        " No other split is there, so the models may have been trained on them." if chosen == "train" else ""
    )
    return f"The images are those of {splits[chosen].name}{beside} in {folder}.{known}"


def _from_list(path: Path, class_names: Sequence[str] | None) -> _Listed:
    try:
        # Spreadsheets write a byte order mark.
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--images: {path} is neither a folder nor a text file: {error}.") from error
    entries: list[tuple[str, str]] = []
    notes: tuple[str, ...] = ()
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#"):
            continue
        separator = next((mark for mark in ("\t", ",", " ") if mark in line), None)
        file, _, word = line.rpartition(separator) if separator else (line, "", "")
        if not file.strip() or not word.strip():
            raise ValueError(
                f"--images: line {number} of {path} must be a path and a class, as in 'cats/1.png,cat'; got "
                f"{line!r}."
            )
        file, word = file.strip().strip('"'), word.strip().strip('"')
        if not entries and not notes and _is_header(path, number, file, word):
            notes = (f"Line {number} of {path}, {line!r}, was taken for the header.",)
            continue
        entries.append((file, word))
    if not entries:
        raise ValueError(f"--images: {path} lists no images; a line is a path and a class: 'cats/1.png,cat'.")
    words = [word for _, word in entries]
    names = _listed_classes(path, words) if class_names is None else tuple(class_names)
    labels = [_class_index(word, names, f"a line of {path}") for word in words]
    files = [file for file, _ in entries]
    return _files([path.parent / file for file in files], files, labels, names)._replace(notes=notes)


def _is_header(path: Path, number: int, file: str, word: str) -> bool:
    """Whether the first line of a list names its columns.

    Raises:
        ValueError: It is neither a header nor an image.
    """
    if file.lower().endswith(IMG_EXTENSIONS) or (path.parent / file).is_file():
        return False
    if file.lower() in _FILE_COLUMNS and word.lower() in _CLASS_COLUMNS:
        return True
    raise ValueError(
        f"--images: line {number} of {path} begins with {file!r}, which is no image. If it is a header, "
        "remove it or write # before it; the columns must be a path and a class."
    )


def _listed_classes(path: Path, words: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes of a list: indices stand for classes without names."""
    different = sorted(set(words))
    numbers = [word for word in different if _is_number(word)]
    if not numbers:
        return tuple(different)
    others = [word for word in different if not word.isdecimal()]
    if others:
        raise ValueError(
            f"--class-names: {path} has the classes {numbers[0]!r} and {others[0]!r}, and a list must have "
            "either names or indices from 0. Give the names of the models' outputs in their order with "
            "--class-names."
        )
    if any(len(word) > 9 for word in different) or (
        (highest := max(map(int, different))) >= _FEW_CLASSES and len(different) <= highest // 2
    ):
        raise ValueError(
            f"--class-names: {path} has the class {max(different, key=len)!r}, but only "
            f"{len(different)} different classes. With gaps that large, "
            "give the names of the models' outputs in their order with "
            "--class-names."
        )
    return tuple(map(str, range(highest + 1)))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return word.lower().strip("+-") not in ("nan", "inf", "infinity")


def _from_torchvision(source: str, root: Path, class_names: Sequence[str] | None) -> _Listed:
    known = {name.lower(): name for name in torchvision.datasets.__all__}
    wanted = re.sub(r"[-_\s]", "", source).lower()
    if wanted not in known:
        near = [known[match] for match in difflib.get_close_matches(wanted, known)]
        path = Path(source).expanduser()
        if path.parent.is_dir():
            siblings = {p.name: str(p) for p in path.parent.iterdir()}
            near += [siblings[match] for match in difflib.get_close_matches(path.name, siblings)]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"--images: {source!r} is no folder, no list of files and no data set of torchvision.{hint}"
        )
    dataset = _open_torchvision(known[wanted], root)
    first = dataset[0]
    if not isinstance(first[0], Image.Image) or not isinstance(first[1], int):
        raise ValueError(
            f"--images: {known[wanted]} gives {type(first[0]).__name__} and {type(first[1]).__name__}, but "
            "images with one class each are needed."
        )
    labels = _targets(dataset)
    own = getattr(dataset, "classes", None)
    names = tuple(class_names or own or map(str, range(max(labels) + 1)))
    if max(labels) >= len(names):
        raise ValueError(
            f"--class-names: {known[wanted]} has class {max(labels)}, but there are {len(names)} names."
        )
    return _Listed(
        [f"{known[wanted]} {i}" for i in range(len(labels))],
        labels,
        names,
        lambda index: _picture(dataset, index),
        partial(_TorchvisionImages, dataset, labels),
    )


class _TorchvisionImages(Dataset[tuple[Tensor, int]]):
    """Some items of a torchvision data set."""

    def __init__(self, dataset: Any, labels: list[int], indices: list[int], transform: Transform) -> None:
        self.dataset, self.labels, self.indices, self.transform = dataset, labels, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.indices[index]
        return self.transform(_picture(self.dataset, item)), self.labels[item]


def _picture(dataset: Any, index: int) -> Image.Image:
    return as_rgb(dataset[index][0])


def _open_torchvision(name: str, root: Path) -> Any:
    """The test split; without one, the validation split; without splits, the whole data set."""
    build = getattr(torchvision.datasets, name)
    accepted = inspect.signature(build).parameters
    options: dict[str, Any] = {"download": True} if "download" in accepted else {}
    attempts: list[dict[str, Any]] = [{"train": False}] if "train" in accepted else []
    attempts = attempts or ([{"split": "test"}, {"split": "val"}] if "split" in accepted else [{}])
    problems = []
    for attempt in attempts:
        try:
            return build(root, **attempt, **options)
        except Exception as error:  # whatever a download or a parser raises
            problems.append(str(error) or type(error).__name__)
    raise ValueError(
        f"--images: torchvision's {name} is not in {root} and could not be downloaded: {problems[0]}. Put "
        "its files there, or say where they are with --root."
    )


def _targets(dataset: Any) -> list[int]:
    """The class of every item, without decoding the images if the data set keeps a list."""
    for attribute in ("targets", "labels", "_labels", "y"):
        listed = getattr(dataset, attribute, None)
        if listed is not None and len(listed) == len(dataset):
            return [int(label) for label in listed]
    return [int(dataset[i][1]) for i in range(len(dataset))]


def _class_index(word: str, class_names: Sequence[str], where: str) -> int:
    if word in class_names:
        if class_names.count(word) > 1:
            raise ValueError(
                f"--class-names: {word!r}, the class of {where}, is the name of "
                f"{class_names.count(word)} outputs. Make the names different."
            )
        return class_names.index(word)
    if word.isdecimal() and int(word) < len(class_names):
        return int(word)
    near = difflib.get_close_matches(word, class_names)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(
        f"--class-names: {word!r}, the class of {where}, is not one of the {len(class_names)} class names."
        + hint
    )
