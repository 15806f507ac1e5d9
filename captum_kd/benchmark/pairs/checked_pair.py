"""One pair with the images that checks explain and take references from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.attr.pair import Pair
from captum_kd.datasets.demo_pair import load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import normalise
from captum_kd.models.architectures import default_layers


class CheckedPair(NamedTuple):
    """A student and its base model, images to explain, and a pool of other images for references.

    Attributes:
        student: The student, in evaluation mode.
        base: The base model, in evaluation mode.
        images: The images to explain, as the models take them, ``(n, c, h, w)``.
        labels: The classes of the images, ``(n,)``.
        pool: Other images, ``(m, c, h, w)``.
        pool_labels: The classes of the pool, ``(m,)``.
    """

    student: nn.Module
    base: nn.Module
    images: Tensor
    labels: Tensor
    pool: Tensor
    pool_labels: Tensor

    def pair(self, student: nn.Module | None = None, reference: Tensor | None = None) -> Pair:
        """The pair at all layers, with a reference from the pool.

        Args:
            student: A model that takes the student's place; None: the student.
            reference: The indices of the reference samples in the pool; None: the whole pool.
        """
        student = student or self.student
        chosen = slice(None) if reference is None else reference
        samples = [(self.pool[chosen], self.pool_labels[chosen])]
        return Pair.named(student, default_layers(student), self.base, default_layers(self.base), samples)

    def all_images(self) -> tuple[Tensor, Tensor]:
        """Pool and explained images as one set, with their classes."""
        return torch.cat([self.pool, self.images]), torch.cat([self.pool_labels, self.labels])


def checked_demo_pair(explained: int = 64, pool: int = 256) -> CheckedPair:
    """The demo's embedded pair on decorrelated images.

    Args:
        explained: The number of images to explain.
        pool: The number of other images.

    Example:
        >>> checked = checked_demo_pair(8, 32)
        >>> len(checked.images), len(checked.pool)
        (8, 32)
    """
    models, planted = load_demo_models(), load_demo_images()
    inputs = normalise(planted.images[: pool + explained])
    labels = planted.labels[: pool + explained]
    return CheckedPair(
        models.student, models.base, inputs[pool:], labels[pool:], inputs[:pool], labels[:pool]
    )
