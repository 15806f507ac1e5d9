"""Data sets that fit into memory: CIFAR10, Fashion-MNIST and the planted-cue set."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from captum_kd.datasets.dataset import DataOptions, ImageData
from captum_kd.datasets.planted_cue import CUE_AGREEMENT, NUM_CLASSES, normalise, plant_cues
from captum_kd.datasets.splits import balanced_indices

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package ``dataset-fashion-mnist`` keeps its four ``.gz`` files."""


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Images in memory, augmented and normalised batch by batch.

    A ``DataLoader`` fetches a whole batch at once (``__getitems__``). That takes microseconds per image, so
    leave its ``num_workers`` at 0: workers would only copy the images.

    Args:
        images: uint8, ``(n, 3, H, W)``, or grey ``(n, H, W)``; or a function that returns them, called when
            the first item is fetched.
        labels: int64, ``(n,)``.
        normalise: Turns uint8 ``(batch, 3, size, size)`` into the float32 that a model expects.
        padding: Pixels of black padding on each side for augmentation: images are flipped at random and
            cropped to their size at random. None: no augmentation.
        image_size: Resize images to this height and width in pixels; None keeps their size.

    Example:
        >>> images = torch.full((2, 8, 8), 255, dtype=torch.uint8)
        >>> dataset = TensorImages(images, torch.tensor([0, 1]), lambda batch: batch / 255)
        >>> image, label = dataset[1]
        >>> image.shape, label
        (torch.Size([3, 8, 8]), 1)
    """

    def __init__(
        self,
        images: Tensor | Callable[[], Tensor],
        labels: Tensor,
        normalise: Callable[[Tensor], Tensor],
        *,
        padding: int | None = None,
        image_size: int | None = None,
    ) -> None:
        self._source = images
        self.labels = labels
        self.normalise = normalise
        self.padding = padding
        self.image_size = image_size

    @cached_property
    def images(self) -> Tensor:
        """The uint8 images as given."""
        return self._source if isinstance(self._source, Tensor) else self._source()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """The items of a batch, as ``DataLoader`` asks for them."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = self.images[index]
        if batch.ndim == 3:
            batch = batch[:, None].expand(-1, 3, -1, -1)
        if self.padding is not None:
            batch = random_flips(random_crops(batch, self.padding))
        if self.image_size is not None and batch.shape[-2:] != (self.image_size, self.image_size):
            batch = transforms.resize(batch, [self.image_size, self.image_size], antialias=True)
        return list(zip(self.normalise(batch), self.labels[index].tolist(), strict=True))


def random_crops(images: Tensor, padding: int) -> Tensor:
    """Pad images with zeros and crop each at its own random place, back to its size.

    torchvision's ``RandomCrop`` takes one place for a whole batch; called on each image by itself, it costs
    more than the rest of the loading.

    Args:
        images: ``(n, C, H, W)``.
        padding: Pixels added on each side.

    Returns:
        Tensor like ``images``.
    """
    n, _, height, width = images.shape
    padded = transforms.pad(images, [padding])
    top, left = torch.randint(2 * padding + 1, (2, n))
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    # Indices around the slice put the channels last.
    crops: Tensor = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return crops.movedim(-1, 1)


def random_flips(images: Tensor) -> Tensor:
    """Mirror each image ``(n, C, H, W)`` left to right with probability 1/2."""
    flipped = torch.rand(len(images)) < 0.5
    return torch.where(flipped[:, None, None, None], transforms.horizontal_flip(images), images)


def load_cifar10(root: Path, options: DataOptions) -> ImageData:
    """CIFAR10, downloaded to ``root`` unless it is there."""
    train, test = (
        _read(
            partial(torchvision.datasets.CIFAR10, root, train=train, download=True),
            "CIFAR10",
            f"cifar-10-python.tar.gz (https://www.cs.toronto.edu/~kriz/cifar.html) into {root}",
        )
        for train in (True, False)
    )
    return _image_data(
        "cifar10",
        tuple(train.classes),
        *(torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous() for split in (train, test)),
        *(torch.tensor(split.targets) for split in (train, test)),
        normalise=partial(
            _standardise, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
        ),  # of the training split
        padding=4,
        options=options,
    )


def load_fashion_mnist(root: Path, options: DataOptions) -> ImageData:
    """Fashion-MNIST, downloaded to ``root`` unless it is there."""
    train, test = read_fashion_mnist(root)
    return _image_data(
        "fashion-mnist",
        tuple(train.classes),
        train.data,
        test.data,
        train.targets,
        test.targets,
        normalise=partial(_standardise, mean=(0.2860,) * 3, std=(0.3530,) * 3),  # of the training split
        padding=2,
        options=options,
    )


def load_planted_cue(root: Path, options: DataOptions) -> ImageData:
    """The planted-cue data set, drawn from Fashion-MNIST; never augmented, which could cut off a cue.

    Training cues agree with the label with probability 0.95 (:data:`CUE_AGREEMENT`); those of the teacher's
    training images, of validation and of test images are independent of it. Images are drawn when they are
    first fetched, about a millisecond each.
    """
    train, test = read_fashion_mnist(root)
    seed, image_size = options.seed, options.image_size
    chosen = slice(None) if options.limit is None else balanced_indices(train.targets, options.limit, seed)
    items, labels = train.data[chosen], train.targets[chosen]

    def scenes(
        items: Tensor,
        labels: Tensor,
        plus: int,
        agreement: float = 0.0,
        omit: Literal["item", "cue"] | None = None,
    ) -> TensorImages:
        draw = partial(_draw_images, items, labels, agreement=agreement, omit=omit, seed=seed + plus)
        return TensorImages(draw, labels, normalise, image_size=image_size)

    return ImageData(
        name="planted-cue",
        class_names=tuple(train.classes),
        labels=labels,
        train=scenes(items, labels, 2, agreement=CUE_AGREEMENT),
        plain=scenes(items, labels, 3),
        test=scenes(test.data, test.targets, 4),
        test_labels=test.targets,
        image_size=image_size or 56,
        fingerprint=_fingerprint("planted-cue", train.data, train.targets, test.data, test.targets),
        teacher_train=scenes(items, labels, 1),
        test_cues=_neutral_cues(len(test.targets), seed + 4),
        test_variants={
            "without_item": scenes(test.data, test.targets, 4, omit="item"),
            "without_cue": scenes(test.data, test.targets, 4, omit="cue"),
        },
    )


def read_fashion_mnist(
    root: Path,
) -> tuple[torchvision.datasets.FashionMNIST, torchvision.datasets.FashionMNIST]:
    """Read the training and the test split of Fashion-MNIST.

    Args:
        root: The files are in ``root/FashionMNIST/raw``. Missing ones are unpacked from the Debian package
            ``dataset-fashion-mnist`` if it is installed, otherwise downloaded.

    Returns:
        torchvision's two data sets: ``data`` is uint8 ``(n, 28, 28)``, ``targets`` int64 ``(n,)``.

    Raises:
        FileNotFoundError: The data is not there and cannot be downloaded.
        ValueError: A file is damaged.
    """
    raw = root / "FashionMNIST" / "raw"
    names = [filename for filename, _ in torchvision.datasets.FashionMNIST.resources]
    for name in names:
        packed, unpacked = DEBIAN_FASHION_MNIST / name, raw / Path(name).stem
        if packed.exists() and not unpacked.exists():
            _unpack(packed, unpacked)
    where = f"{', '.join(names)} (https://github.com/zalandoresearch/fashion-mnist) into {raw}"
    train, test = (
        _read(
            partial(torchvision.datasets.FashionMNIST, root, train=train, download=True),
            "Fashion-MNIST",
            where,
            [raw / Path(name).stem for name in names],
        )
        for train in (True, False)
    )
    return train, test


def _unpack(packed: Path, unpacked: Path) -> None:
    """Unpack a .gz file, so that the result appears whole or not at all.

    Debian repacks the files, so the ``.gz`` themselves would fail torchvision's MD5 check; unpacked files,
    torchvision takes as they are. gzip's own checksums are verified here.
    """
    unpacked.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=unpacked.parent) as folder,
        gzip.open(packed) as source,
        open(Path(folder) / unpacked.name, "wb") as target,
    ):
        shutil.copyfileobj(source, target)
        target.close()
        os.replace(target.name, unpacked)


def _read(open_data: Callable[[], Any], name: str, where: str, unpacked: Sequence[Path] = ()) -> Any:
    """Open a torchvision data set and turn its failures into advice.

    Args:
        open_data: Returns the data set. Not typed further: torchvision's data sets share no class with
            ``data`` and ``targets``.
        name: Name of the data set.
        where: Which files a user has to put where.
        unpacked: Files that torchvision reads without checking them; if they exist, an error came from one
            of them.

    Returns:
        The data set.
    """
    try:
        return open_data()
    except (URLError, ConnectionError, TimeoutError, RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if unpacked and all(path.exists() for path in unpacked):
            # Left behind, for instance, by a process that was stopped while it unpacked.
            raise ValueError(
                f"{name} in {unpacked[0].parent} is damaged ({reason}); delete that folder so that it is "
                "made anew"
            ) from error
        raise FileNotFoundError(
            f"{name} is not on disk and could not be downloaded. Put {where}, or choose another "
            f"folder with root (--root). The download failed with: {reason}"
        ) from error


def _image_data(
    name: str,
    class_names: tuple[str, ...],
    images: Tensor,
    test_images: Tensor,
    labels: Tensor,
    test_labels: Tensor,
    *,
    normalise: Callable[[Tensor], Tensor],
    padding: int,
    options: DataOptions,
) -> ImageData:
    fingerprint = _fingerprint(name, images, labels, test_images, test_labels)
    size, native_size = options.image_size, images.shape[-1]
    if options.limit is not None:
        chosen = balanced_indices(labels, options.limit, options.seed)
        images, labels = images[chosen], labels[chosen]
    return ImageData(
        name=name,
        class_names=class_names,
        labels=labels,
        train=TensorImages(
            images, labels, normalise, padding=padding if options.augment else None, image_size=size
        ),
        plain=TensorImages(images, labels, normalise, image_size=size),
        test=TensorImages(test_images, test_labels, normalise, image_size=size),
        test_labels=test_labels,
        image_size=size or native_size,
        fingerprint=fingerprint,
    )


def _standardise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    scaled: Tensor = transforms.to_dtype(images, torch.float32, scale=True)
    standardised: Tensor = transforms.normalize(scaled, list(mean), list(std))
    return standardised


def _draw_images(
    items: Tensor, labels: Tensor, *, agreement: float, omit: Literal["item", "cue"] | None, seed: int
) -> Tensor:
    return plant_cues(items, labels, agreement=agreement, omit=omit, seed=seed).images


def _neutral_cues(count: int, seed: int) -> Tensor:
    """The cues that ``plant_cues`` chooses with agreement 0, without drawing any image."""
    generator = torch.Generator().manual_seed(seed)
    torch.rand(count, generator=generator, dtype=torch.float64)  # whether each cue is made to agree
    return torch.randint(NUM_CLASSES, (count,), generator=generator)


def _fingerprint(name: str, *tensors: Tensor) -> str:
    digest = hashlib.sha256(name.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
