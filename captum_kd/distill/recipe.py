"""The recipe of a distillation run: what is trained, on what, how and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from captum_kd.distill.guidance import TECHNIQUES, Guidance, Technique
from captum_kd.distill.losses import ResponseLoss
from captum_kd.distill.numbers import check_number
from captum_kd.distill.training import TrainingSettings
from captum_kd.models.architectures import default_layers


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
        ValueError: A technique is unknown or named twice, or none is named; a number is out of range; a
            weight or a temperature is given for a technique that is not used; or a pair of layers is named
            twice, or a layer without its partner.
        TypeError: A number is none, or a text stands where a tuple of texts is needed.
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
        for name in ("techniques", "assistants", "layers", "teacher_layers"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a tuple of texts, got {getattr(self, name)!r}.")
        for technique in self.techniques:
            if technique not in TECHNIQUES:
                raise ValueError(f"technique must be one of {TECHNIQUES}, got {technique!r}.")
        if not self.techniques or len(set(self.techniques)) < len(self.techniques):
            raise ValueError(f"techniques must name each technique once, got {self.techniques}.")
        check_number("folds", self.folds, least=1, whole=True)
        check_number("seed", self.seed, least=0, below=2**32, whole=True)
        if self.image_size is not None:
            check_number("image_size", self.image_size, least=1, whole=True)
        if self.limit is not None:
            check_number("limit", self.limit, least=2, whole=True)
        self._check_teaching()
        self._check_layers()

    def _check_teaching(self) -> None:
        if unused := sorted(set(self.weights) - set(self.techniques)):
            raise ValueError(
                f"weights are given for {unused}, which this recipe does not train by (--weight); it trains "
                f"by {', '.join(self.techniques)}."
            )
        for technique, weight in self.weights.items():
            check_number("weight", weight, least=0, why=technique)
            if technique == "response":
                try:
                    ResponseLoss(weight=weight)
                except ValueError as error:
                    raise ValueError(f"{technique}: {error} (--weight)") from error
        if self.temperature is not None:
            check_number("temperature", self.temperature, above=0)
            if "response" not in self.techniques:
                raise ValueError(
                    "temperature is given, but no student of this recipe is trained by response "
                    f"(--temperature); it trains by {', '.join(self.techniques)}."
                )

    def _check_layers(self) -> None:
        if self.layers and self.teacher_layers and len(self.layers) != len(self.teacher_layers):
            raise ValueError(
                "layers and teacher_layers must pair up, got "
                f"{list(self.layers)} and {list(self.teacher_layers)} (--layers, --teacher-layers)."
            )
        named: list[object] = list(self.teacher_layers)
        if self.layers:
            named = list(zip(self.layers, self.teacher_layers or self.layers, strict=True))
        if len(set(named)) < len(named):
            raise ValueError(f"layers must name each pair once, got {named} (--layers, --teacher-layers).")


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


def guidance_of(
    recipe: Recipe, stage: Stage, model: nn.Module, teacher: nn.Module, example: Tensor
) -> Guidance:
    """Make what the teacher of a stage adds to its loss.

    Args:
        recipe: The recipe.
        stage: One of its stages that has a technique.
        model: The model of the stage.
        teacher: Its teacher.
        example: A few images.

    Returns:
        The loss, with the layers of the recipe or the models' stages.

    Raises:
        ValueError: The stage has no technique, a layer is not in its model, or layers do not go together.

    Example:
        >>> import torch
        >>> from captum_kd.models.small import small_resnet
        >>> recipe = Recipe("cifar10", "small_resnet8", "small_resnet4", ("attention",), folds=1)
        >>> *_, student = stages(recipe)
        >>> guidance_of(recipe, student, small_resnet(4), small_resnet(8), torch.randn(2, 3, 32, 32)).layers
        ['layer1', 'layer2', 'layer3', 'layer4']
    """
    if stage.technique is None:
        raise ValueError(f"{stage.name} is trained on labels alone.")
    layers: Sequence[str] = ()
    teacher_layers: Sequence[str] = ()
    if stage.technique != "response":
        own = recipe.layers if stage.name.startswith("student") else recipe.teacher_layers
        layers, teacher_layers = (
            named or default_layers(m) for named, m in ((own, model), (recipe.teacher_layers, teacher))
        )
    return Guidance(
        stage.technique,
        model,
        teacher,
        layers,
        teacher_layers,
        example,
        weight=recipe.weights.get(stage.technique),
        temperature=recipe.temperature if stage.technique == "response" else None,
    )
