"""What is compared: models with their layers, images and label embeddings."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from captum_kd.explain.images import ExplainedImages
from captum_kd.labels import LabelEmbeddings


class ComparisonInputs(NamedTuple):
    """Everything that :func:`captum_kd.compare` needs.

    Attributes:
        students: The students, by name.
        base: The base model.
        layers: Names of the students' layers.
        images: The images.
        base_layers: The base model's layers, paired with ``layers``; None: those of the same names.
        teacher: The teacher, or None.
        teacher_layers: The teacher's layers, paired with ``layers``; None: those of the same names.
        label_embeddings: None for one-hot.
        notes: Sentences for the report.
    """

    students: dict[str, nn.Module]
    base: nn.Module
    layers: list[str]
    images: ExplainedImages
    base_layers: list[str] | None = None
    teacher: nn.Module | None = None
    teacher_layers: list[str] | None = None
    label_embeddings: LabelEmbeddings | None = None
    notes: tuple[str, ...] = ()

    def models(self) -> list[tuple[nn.Module, list[str]]]:
        """List every model with the names of its layers."""
        found = [(student, self.layers) for student in self.students.values()]
        found.append((self.base, self.base_layers or self.layers))
        if self.teacher is not None:
            found.append((self.teacher, self.teacher_layers or self.layers))
        return found
