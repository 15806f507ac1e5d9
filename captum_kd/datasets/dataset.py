"""What every data set looks like to the distillation recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: what to train on, what to choose models by, and what to test on once.

    Item ``i`` of a data set here is a pair: an image, float32 ``(3, image_size, image_size)``,
    normalised; and its label, an ``int``. Random augmentation draws from PyTorch's global generator
    when an item is fetched, so seeding that generator repeats an epoch.

    Attributes:
        name: of the data set.
        class_names: one for each class, in the order of the labels.
        labels: int64, ``(n,)``, of the training items.
        train: the training items, augmented.
        plain: the same items in the same order without augmentation, for validation.
        test: the test items without augmentation. Never choose a model by these.
        test_labels: int64, ``(number of test items,)``.
        image_size: height and width of the images in pixels.
        fingerprint: SHA-256 of what was read, in hexadecimal. It does not depend on ``limit``,
            ``image_size`` or ``seed``.
        skipped: files that could not be read and were left out, relative to the data folder.
        teacher_train: where a teacher learns from other images than ``train``, these, in the same
            order; None where it learns from ``train``.
        test_cues: of the planted-cue data set, the class that each test image's cue stands for,
            int64.
        test_variants: of the planted-cue data set, the test images ``"without_item"`` and
            ``"without_cue"``.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Tensor
    train: Dataset[Any]
    plain: Dataset[Any]
    test: Dataset[Any]
    test_labels: Tensor
    image_size: int
    fingerprint: str
    skipped: tuple[str, ...] = ()
    teacher_train: Dataset[Any] | None = None
    test_cues: Tensor | None = None
    test_variants: Mapping[str, Dataset[Any]] = field(default_factory=dict)
