"""Folders of images, one sub-folder a class: ASIRRA, PlantVillage and a user's own."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from tqdm import tqdm

from captum_kd.datasets.dataset import ImageData
from captum_kd.datasets.image_files import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    class_folders,
    evaluation_crop,
    image_paths,
    read_rgb,
)
from captum_kd.datasets.splits import balanced_indices, class_splits

_DEFAULT_SIZE = 224
_NAMED_FILES = 5  # how many unreadable files a message names


class FolderImages(Dataset[tuple[Tensor, int]]):
    """Image files, decoded when they are fetched.

    Args:
        paths: of the image files.
        labels: int64, ``(n,)``.
        transform: turns a PIL image into a tensor.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, transform: Callable[[Image.Image], Tensor]
    ) -> None:
        # As strings, since a worker process copies the list, and paths weigh several times as much.
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


def training_transform(image_size: int) -> v2.Compose:
    """The paper's augmentation: random resized crop, flip, rotation by 15 degrees, colour jitter.

    Args:
        image_size: height and width of the result in pixels.

    Returns:
        A transform of PIL images to float32 ``(3, image_size, image_size)``, normalised by
        ImageNet's mean and standard deviation.
    """
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(15),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            _normalise(),
            v2.ToPureTensor(),
        ]
    )


def plain_transform(image_size: int) -> v2.Compose:
    """The usual evaluation of ImageNet models: resize the shorter side, then crop the centre.

    Args:
        image_size: height and width of the result in pixels. The shorter side is resized to
            256/224 of it.

    Returns:
        A transform like :func:`training_transform`, without randomness.
    """
    return v2.Compose([evaluation_crop(image_size), _normalise()])


def load_asirra(
    root: Path,
    *,
    image_size: int | None,
    seed: int,
    limit: int | None,
    skip_unreadable: bool,
    augment: bool,
) -> ImageData:
    """ASIRRA, the Kaggle cats and dogs: ``PetImages/Cat`` and ``PetImages/Dog`` in ``root``.

    Some of its files are known to be corrupt, so they are always left out and counted. Arguments
    as of ``load_data``.
    """
    del skip_unreadable
    classes = ("Cat", "Dog")
    candidates = (root / "PetImages", root)
    folder = next((path for path in candidates if all((path / name).is_dir() for name in classes)), None)
    if folder is None:
        raise ValueError(
            f"no Cat and Dog folders in {root / 'PetImages'} or {root}; unpack Microsoft's "
            f"'Kaggle Cats and Dogs Dataset' so that {root / 'PetImages' / 'Cat'} exists, or choose "
            "another folder with root (--root)"
        )
    return _load(
        "asirra", folder, classes, image_size=image_size, seed=seed, limit=limit, skip=True, augment=augment
    )


def load_plant_village(
    root: Path,
    *,
    image_size: int | None,
    seed: int,
    limit: int | None,
    skip_unreadable: bool,
    augment: bool,
) -> ImageData:
    """PlantVillage: folders such as ``Apple___Apple_scab``; arguments as of ``load_data``.

    They are looked for in ``root/PlantVillage``, then in ``root``; in each first below
    ``raw/color``, then below ``color``, then directly. Folders without ``_`` in their name hold no
    class of this data set and are left out.
    """
    below = [base / sub for base in (root / "PlantVillage", root) for sub in ("raw/color", "color", "")]
    for folder in below:
        names = class_folders(folder) if folder.is_dir() else []
        if sum("___" in name for name in names) >= 2:
            return _load(
                "plant-village",
                folder,
                [name for name in names if "_" in name],
                image_size=image_size,
                seed=seed,
                limit=limit,
                skip=skip_unreadable,
                augment=augment,
            )
    raise ValueError(
        f"no folders named like Apple___Apple_scab in {', '.join(str(folder) for folder in below)}; put the "
        f"data set's class folders into {root / 'PlantVillage'}, choose another folder with root (--root), "
        "or, where classes are named otherwise, give the folder itself as the data"
    )


def load_image_folder(
    folder: Path,
    *,
    image_size: int | None,
    seed: int,
    limit: int | None,
    skip_unreadable: bool,
    augment: bool,
) -> ImageData:
    """A folder with one sub-folder a class, or with ``train/`` and ``test/`` of that kind.

    Where there is ``train/`` but no ``test/``, ``val/`` takes its place; beside ``test/``, ``val/``
    is not read, since cross-validation takes its validation images from the training images. All
    else is as of ``load_data``.
    """
    names = class_folders(folder)
    test_folder = None
    # "train" may also be a class, among trams and buses.
    if "train" in names and set(names) <= {"train", "test", "val"}:
        test_folder = next((folder / name for name in ("test", "val") if name in names), None)
        names = class_folders(folder / "train")
        train_folder = folder / "train"
    else:
        train_folder = folder
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise ValueError(
            f"{train_folder} needs a sub-folder of images for each of at least 2 classes; it has {found}"
        )
    return _load(
        folder.resolve().name,
        train_folder,
        names,
        test_folder=test_folder,
        image_size=image_size,
        seed=seed,
        limit=limit,
        skip=skip_unreadable,
        augment=augment,
    )


@dataclass(frozen=True)
class _Checked:
    """The readable images below a folder, and what is known of all of them."""

    paths: list[Path]
    labels: Tensor
    unreadable: list[tuple[Path, str]]  # and why
    digest: str


def _load(
    name: str,
    folder: Path,
    class_names: Sequence[str],
    *,
    test_folder: Path | None = None,
    image_size: int | None,
    seed: int,
    limit: int | None,
    skip: bool,
    augment: bool,
) -> ImageData:
    top = folder if test_folder is None else folder.parent
    train = _check_images(folder, class_names, top)
    test = None
    if test_folder is not None:
        unknown = sorted(set(class_folders(test_folder)) - set(class_names))
        if unknown:
            raise ValueError(
                f"{test_folder} has classes that {folder} has not: {', '.join(unknown)}; the classes "
                f"there are {', '.join(class_names)}"
            )
        test = _check_images(test_folder, class_names, top)

    unreadable = train.unreadable + (test.unreadable if test else [])
    skipped = tuple(str(path.relative_to(top)) for path, _ in unreadable)
    if unreadable:
        named = ", ".join(skipped[:_NAMED_FILES]) + (", ..." if len(skipped) > _NAMED_FILES else "")
        count = f"{len(skipped)} unreadable image{'s' * (len(skipped) != 1)} in {top}"
        if not skip:
            raise ValueError(
                f"{count}: {named} ({unreadable[0][1]}). Repair or remove them, or leave them out with "
                "skip_unreadable=True (--skip-unreadable)"
            )
        warnings.warn(f"left out {count}: {named}", UserWarning, stacklevel=4)
    counts = torch.bincount(train.labels, minlength=len(class_names)).tolist()
    for class_name, count in zip(class_names, counts, strict=True):
        if not count:
            raise ValueError(
                f"class folder {folder / class_name} holds no readable image; files that end in "
                f"{', '.join(IMG_EXTENSIONS)} are images. Add some or remove the folder"
            )
    if test is not None and not test.paths:
        raise ValueError(f"{test_folder} holds no readable image; add some or remove it")

    paths, labels = train.paths, train.labels
    if test is not None:
        test_paths, test_labels = test.paths, test.labels
    else:
        try:
            kept, held_out = class_splits(labels, folds=1, seed=seed, class_names=class_names)[0]
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        test_paths, test_labels = [paths[index] for index in held_out.tolist()], labels[held_out]
        paths, labels = [paths[index] for index in kept.tolist()], labels[kept]
    if limit is not None:
        chosen = balanced_indices(labels, limit, seed)
        paths, labels = [paths[index] for index in chosen.tolist()], labels[chosen]

    size = image_size or _DEFAULT_SIZE
    plain = plain_transform(size)
    digests = [train.digest] + ([test.digest] if test else [])
    return ImageData(
        name=name,
        class_names=tuple(class_names),
        labels=labels,
        train=FolderImages(paths, labels, training_transform(size) if augment else plain),
        plain=FolderImages(paths, labels, plain),
        test=FolderImages(test_paths, test_labels, plain),
        test_labels=test_labels,
        image_size=size,
        fingerprint=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        skipped=skipped,
    )


def _normalise() -> v2.Normalize:
    return v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))


def _check_images(folder: Path, class_names: Sequence[str], top: Path) -> _Checked:
    """Reads and decodes every image once, so that a damaged file is found before the training."""
    files, labels = [], []
    for label, class_name in enumerate(class_names):
        found = image_paths(folder / class_name)
        files += found
        labels += [label] * len(found)
    with ThreadPoolExecutor() as executor, warnings.catch_warnings():
        # Pillow warns of oddities in files that it does read, such as broken Exif data.
        warnings.simplefilter("ignore")
        checks = list(
            tqdm(
                executor.map(_check_image, files),
                desc=f"Checking {folder.name}",
                total=len(files),
                disable=None,  # where there is no terminal
                leave=False,
            )
        )
    digest = hashlib.sha256()
    for path, (contents, _) in zip(files, checks, strict=True):
        digest.update(f"{path.relative_to(top).as_posix()}\n{contents}\n".encode(errors="surrogateescape"))
    return _Checked(
        paths=[path for path, (_, problem) in zip(files, checks, strict=True) if problem is None],
        labels=torch.tensor(
            [label for label, (_, problem) in zip(labels, checks, strict=True) if problem is None],
            dtype=torch.int64,
        ),
        unreadable=[
            (path, problem) for path, (_, problem) in zip(files, checks, strict=True) if problem is not None
        ],
        digest=digest.hexdigest(),
    )


def _check_image(path: Path) -> tuple[str, str | None]:
    """The size and SHA-256 of a file's contents, and what is wrong with it if it is no image."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        return "unreadable", f"{type(error).__name__}: {error}"
    digest = f"{len(contents)} {hashlib.sha256(contents).hexdigest()}"
    if not contents:
        return digest, "the file is empty"
    try:
        read_rgb(io.BytesIO(contents))
    except Exception as error:  # decoders raise nearly anything on damaged files
        return digest, f"{type(error).__name__}: {error}"
    return digest, None
