"""The recipe of a distillation run: what is trained, on what, how and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from captum_kd.distill.guidance import TECHNIQUES, Technique
from captum_kd.distill.training import TrainingSettings


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    Args:
        data: Name of a data set, or path of an image folder.
        teacher: Architecture of the teacher; see :func:`~captum_kd.models.architectures.build_classifier`.
        student: Architecture of the students and of the base model.
        techniques: Techniques of distillation; each trains one student.
        assistants: Architectures between teacher and student: each is distilled from the one before it.
        folds: Folds of the cross-validation, each with its own teacher; 1 holds out a fifth once.
        seed: Seed of folds, weights, order and augmentation.
        image_size: Height and width in pixels; None takes the data set's own.
        limit: At most this many training images; None takes all.
        augment: Augment training images.
        pretrained: Start from the libraries' default weights.
        layers: The student's layers for attention and overhaul; empty takes its stages.
        teacher_layers: The layers of the teacher and the assistants; empty takes their stages.
        weights: Weight of the teacher's part of the loss, by technique; the technique's default where none is
            given.
        temperature: Temperature of response distillation; None takes the default.
        teacher_checkpoint: Weights to load instead of training a teacher.
        skip_unreadable: Leave out images that cannot be read.
        training: How every model is trained.

    Raises:
        ValueError: A technique is unknown or named twice, none is named, a weight is given for a technique
            that is not used, or there is less than one fold.
    """

    data: str
    teacher: str
    student: str
    techniques: tuple[Technique, ...] = ("response",)
    assistants: tuple[str, ...] = ()
    folds: int = 5
    seed: int = 0
    image_size: int | None = None
    limit: int | None = None
    augment: bool = True
    pretrained: bool = False
    layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float | None = None
    teacher_checkpoint: str | None = None
    skip_unreadable: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        for technique in self.techniques:
            if technique not in TECHNIQUES:
                raise ValueError(f"technique must be one of {TECHNIQUES}, got {technique!r}.")
        if not self.techniques or len(set(self.techniques)) < len(self.techniques):
            raise ValueError(f"techniques must name each technique once, got {self.techniques}.")
        if unused := sorted(set(self.weights) - set(self.techniques)):
            raise ValueError(f"weights are given for {unused}, which this recipe does not train by.")
        if self.folds < 1:
            raise ValueError(f"folds must be at least 1, got {self.folds}.")


class Stage(NamedTuple):
    """One model of one fold: ``name`` is its folder, ``taught_by`` the folder of its teacher."""

    fold: int
    name: str
    architecture: str
    technique: Technique | None = None
    taught_by: str | None = None


def stages(recipe: Recipe) -> Iterator[Stage]:
    """List the models of a recipe in the order in which they are trained.

    Example:
        >>> recipe = Recipe("cifar10", "resnet101", "resnet18", assistants=("resnet50",), folds=1)
        >>> for stage in stages(recipe):
        ...     print(stage.name, stage.architecture, stage.taught_by)
        teacher resnet101 None
        base resnet18 None
        assistant1-response resnet50 teacher
        student-response resnet18 assistant1-response
    """
    for fold in range(1, recipe.folds + 1):
        yield Stage(fold, "teacher", recipe.teacher)
        yield Stage(fold, "base", recipe.student)
        for technique in recipe.techniques:
            master = "teacher"
            for i, architecture in enumerate(recipe.assistants, start=1):
                name = f"assistant{i}-{technique}"
                yield Stage(fold, name, architecture, technique, master)
                master = name
            yield Stage(fold, f"student-{technique}", recipe.student, technique, master)
