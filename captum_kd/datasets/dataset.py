"""The form that every data set has for the distillation recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class DataOptions:
    """How a data set is loaded; see :func:`~captum_kd.datasets.load.load_data`."""

    image_size: int | None = None
    seed: int = 0
    limit: int | None = None
    skip_unreadable: bool = False
    augment: bool = True


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: what to train on, what to choose models by, and what to test on once.

    Item ``i`` of its parts is a pair: a normalised image, float32 ``(3, image_size, image_size)``, and its
    label, an ``int``. Random augmentation draws from PyTorch's global generator when an item is fetched, so
    seeding that generator repeats an epoch.

    Attributes:
        name: Name of the data set.
        class_names: Names of the classes, in the order of the labels.
        labels: Labels of the training items, int64, ``(n,)``.
        train: The training items, augmented.
        plain: The same items in the same order without augmentation, for validation.
        test: The test items without augmentation. Never choose a model by these.
        test_labels: Labels of the test items, int64, ``(number of test items,)``.
        image_size: Height and width of the images in pixels.
        fingerprint: SHA-256 of the data that was read, in hexadecimal. It does not depend on ``limit``,
            ``image_size`` or ``seed``.
        skipped: Files that could not be read and were left out, relative to the data folder.
        teacher_train: The images that a teacher learns from, in the same order, if they are not those of
            ``train``; otherwise None.
        test_cues: Planted-cue data only: the class that each test image's cue stands for, int64.
        test_variants: Planted-cue data only: the test images ``"without_item"`` and ``"without_cue"``.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Tensor
    train: Dataset[tuple[Tensor, int]]
    plain: Dataset[tuple[Tensor, int]]
    test: Dataset[tuple[Tensor, int]]
    test_labels: Tensor
    image_size: int
    fingerprint: str
    skipped: tuple[str, ...] = ()
    teacher_train: Dataset[tuple[Tensor, int]] | None = None
    test_cues: Tensor | None = None
    test_variants: Mapping[str, Dataset[tuple[Tensor, int]]] = field(default_factory=dict)
