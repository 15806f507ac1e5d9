"""Data sets in folders with a sub-folder per class: ASIRRA, PlantVillage and a user's own."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from tqdm import tqdm

from captum_kd.datasets.class_folders import class_names_in, list_images, split_folders
from captum_kd.datasets.dataset import DataOptions, ImageData
from captum_kd.datasets.image_files import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFiles,
    decoding_problem,
    evaluation_crop,
    read_rgb,
)
from captum_kd.datasets.splits import balanced_indices, class_splits

_DEFAULT_SIZE = 224
_NAMED_FILES = 5  # how many unreadable files a message names


def training_transform(image_size: int) -> v2.Compose:
    """The paper's augmentation: random resized crop, flip, rotation by 15 degrees, colour jitter.

    Args:
        image_size: Height and width of the result in pixels.

    Returns:
        A transform of PIL images to float32 ``(3, image_size, image_size)``, normalised by ImageNet's mean
        and standard deviation.
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
        image_size: Height and width of the result in pixels. The shorter side is resized to 256/224 of it.

    Returns:
        A transform like :func:`training_transform`, without randomness.
    """
    return v2.Compose([evaluation_crop(image_size), _normalise()])


def load_asirra(root: Path, options: DataOptions) -> ImageData:
    """ASIRRA, the Kaggle cats and dogs: ``PetImages/Cat`` and ``PetImages/Dog`` in ``root``.

    Some of its files are known to be corrupt, so unreadable files are always left out and counted.
    """
    classes = ("Cat", "Dog")
    candidates = (root / "PetImages", root)
    folder = next((path for path in candidates if all((path / name).is_dir() for name in classes)), None)
    if folder is None:
        raise ValueError(
            f"no Cat and Dog folders in {root / 'PetImages'} or {root}; unpack Microsoft's "
            f"'Kaggle Cats and Dogs Dataset' so that {root / 'PetImages' / 'Cat'} exists, or choose "
            "another folder with root (--root)"
        )
    return _load("asirra", folder, classes, replace(options, skip_unreadable=True))


def load_plant_village(root: Path, options: DataOptions) -> ImageData:
    """PlantVillage: folders such as ``Apple___Apple_scab``.

    They are looked for in ``root/PlantVillage``, then in ``root``; in each first below ``raw/color``, then
    below ``color``, then directly. Folders without ``_`` in their name are no classes of this data set and
    are left out.
    """
    below = [base / sub for base in (root / "PlantVillage", root) for sub in ("raw/color", "color", "")]
    for folder in below:
        names = class_names_in(folder) if folder.is_dir() else []
        if sum("___" in name for name in names) >= 2:
            return _load("plant-village", folder, [name for name in names if "_" in name], options)
    raise ValueError(
        f"no folders named like Apple___Apple_scab in {', '.join(str(folder) for folder in below)}; put the "
        f"data set's class folders into {root / 'PlantVillage'}, choose another folder with root (--root), "
        "or, where classes are named otherwise, give the folder itself as the data"
    )


def load_image_folder(folder: Path, options: DataOptions) -> ImageData:
    """A folder with a sub-folder per class, or with such folders below ``train/`` and ``test/``.

    If there is ``train/`` but no ``test/``, ``val/`` takes its place. If there is ``test/``, ``val/`` is not
    read, because cross-validation takes its validation images from the training images.
    """
    splits = split_folders(folder)
    train_folder = splits.get("train", folder)
    names = class_names_in(train_folder)
    if len(names) < 2:
        found = f"only {names[0]!r}" if names else "none"
        raise ValueError(
            f"{train_folder} needs a sub-folder of images for each of at least 2 classes; it has {found}"
        )
    test_folder = splits.get("test", splits.get("val"))
    return _load(folder.resolve().name, train_folder, names, options, test_folder)


@dataclass(frozen=True)
class _Checked:
    """The readable images of a folder, and what is known of all of them."""

    paths: list[Path]
    labels: Tensor
    unreadable: list[tuple[Path, str]]  # and why
    digest: str


def _load(
    name: str,
    folder: Path,
    class_names: Sequence[str],
    options: DataOptions,
    test_folder: Path | None = None,
) -> ImageData:
    top = folder if test_folder is None else folder.parent
    train = _check_images(folder, class_names, top)
    test = None
    if test_folder is not None:
        unknown = sorted(set(class_names_in(test_folder)) - set(class_names))
        if unknown:
            raise ValueError(
                f"{test_folder} has classes that {folder} does not have: {', '.join(unknown)}; the "
                f"classes there are {', '.join(class_names)}"
            )
        test = _check_images(test_folder, class_names, top)

    unreadable = train.unreadable + (test.unreadable if test else [])
    skipped = tuple(str(path.relative_to(top)) for path, _ in unreadable)
    if unreadable:
        named = ", ".join(skipped[:_NAMED_FILES]) + (", ..." if len(skipped) > _NAMED_FILES else "")
        count = f"{len(skipped)} unreadable image{'s' * (len(skipped) != 1)} in {top}"
        if not options.skip_unreadable:
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
            kept, held_out = class_splits(labels, folds=1, seed=options.seed, class_names=class_names)[0]
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        test_paths, test_labels = [paths[index] for index in held_out.tolist()], labels[held_out]
        paths, labels = [paths[index] for index in kept.tolist()], labels[kept]
    if options.limit is not None:
        chosen = balanced_indices(labels, options.limit, options.seed)
        paths, labels = [paths[index] for index in chosen.tolist()], labels[chosen]

    size = options.image_size or _DEFAULT_SIZE
    plain = plain_transform(size)
    digests = [train.digest] + ([test.digest] if test else [])
    return ImageData(
        name=name,
        class_names=tuple(class_names),
        labels=labels,
        train=ImageFiles(paths, labels, training_transform(size) if options.augment else plain),
        plain=ImageFiles(paths, labels, plain),
        test=ImageFiles(test_paths, test_labels, plain),
        test_labels=test_labels,
        image_size=size,
        fingerprint=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        skipped=skipped,
    )


def _normalise() -> v2.Normalize:
    return v2.Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))


def _check_images(folder: Path, class_names: Sequence[str], top: Path) -> _Checked:
    """Read and decode every image once, so that a damaged file is found before the training."""
    files, labels = list_images(folder, class_names)
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
    return digest, decoding_problem(lambda: read_rgb(io.BytesIO(contents)))
