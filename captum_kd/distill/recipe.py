"""The recipe: teacher, base model, assistants and students, fold by fold, in a folder that can be resumed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from captum_kd.datasets.dataset import ImageData
from captum_kd.datasets.load import class_splits, load_data
from captum_kd.distill.guidance import TECHNIQUES, Guidance, Technique
from captum_kd.distill.run_folder import (
    SPLITS_FILE,
    check_same_run,
    finish_stage,
    finished_stage,
    start_run,
    write_run,
)
from captum_kd.distill.training import TrainingSettings, predictions, train_classifier
from captum_kd.models.architectures import build_classifier, default_layers
from captum_kd.models.checkpoints import load_weights

_EXAMPLES = 4


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    Args:
        data: Name of a data set or path of an image folder.
        teacher: Its architecture; see :func:`build_classifier`.
        student: The student's and the base model's.
        techniques: One student is trained by each.
        assistants: Architectures between teacher and student: each is distilled from the one before it.
        folds: Folds of the cross-validation, each with its own teacher; 1 holds out a fifth once.
        seed: Of folds, weights, order and augmentation.
        image_size: Height and width in pixels; None takes the data set's own.
        limit: At most this many training images; None takes all.
        augment: Augment training images.
        pretrained: Start from the libraries' default weights.
        layers: The student's layers for attention and overhaul; empty takes its stages.
        teacher_layers: The teacher's, and the assistants'; empty takes their stages.
        weights: By technique, the weight of the teacher's part of the loss, if not the technique's default.
        temperature: Of response distillation; None takes the default.
        teacher_checkpoint: Weights to load in place of training a teacher.
        skip_unreadable: Leave out images that cannot be read.
        training: How every model is trained.

    Raises:
        ValueError: An unknown technique, none or one twice, a weight of another, or fewer than one fold.
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
    """One model of one fold: ``name`` is its folder, ``taught_by`` the name of its teacher's."""

    fold: int
    name: str
    architecture: str
    technique: Technique | None = None
    taught_by: str | None = None


def stages(recipe: Recipe) -> Iterator[Stage]:
    """The models of a recipe in the order in which they are trained.

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


def distil(
    recipe: Recipe, folder: Path, *, root: Path = Path("data"), report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train every model of a recipe, going on from where an earlier call with it was stopped.

    Args:
        recipe: What to train.
        folder: Where to: ``run.json``, ``splits.safetensors``, and a folder per fold and model with its
            ``model.safetensors`` and ``stage.json``.
        root: Where data sets with a name are, or are downloaded to.
        report: Called with a line after each model.

    Returns:
        What ``run.json`` holds.

    Raises:
        ValueError: A bad recipe or data set, or a folder that holds something else than this run.
        OSError: The folder cannot be written; finished models and epochs are intact.
    """
    check_same_run(folder, recipe)
    for architecture in dict.fromkeys([recipe.teacher, recipe.student, *recipe.assistants]):
        build_classifier(architecture, 2)  # an unknown name fails before anything is loaded or trained
    data = load_data(
        recipe.data,
        root=root,
        image_size=recipe.image_size,
        seed=recipe.seed,
        limit=recipe.limit,
        skip_unreadable=recipe.skip_unreadable,
        augment=recipe.augment,
    )
    splits = class_splits(data.labels, recipe.folds, recipe.seed, data.class_names)
    start_run(folder, recipe, data)
    if not (folder / SPLITS_FILE).exists():
        parts = {
            f"fold{i}.{part}": indices
            for i, split in enumerate(splits, start=1)
            for part, indices in zip(("train", "validation"), split, strict=True)
        }
        save_file(parts, folder / SPLITS_FILE)
    for stage in stages(recipe):
        record = finished_stage(folder, stage)
        if record is None:
            record = _train_stage(recipe, stage, data, splits[stage.fold - 1], folder)
            write_run(folder, recipe, data)
        report(
            f"fold {stage.fold}, {stage.name} ({stage.architecture}): test accuracy "
            f"{record['test']['accuracy']:.4f}"
        )
    return write_run(folder, recipe, data)


def load_stage(folder: Path, fold: int, name: str, architecture: str, num_classes: int) -> nn.Module:
    """A finished model of a run, in evaluation mode."""
    model = build_classifier(architecture, num_classes)
    load_weights(model, folder / f"fold{fold}" / name / "model.safetensors")
    return model.eval()


def _train_stage(
    recipe: Recipe, stage: Stage, data: ImageData, split: tuple[Tensor, Tensor], folder: Path
) -> dict[str, Any]:
    num_classes = len(data.class_names)
    seed = _stage_seed(recipe.seed, stage)
    torch.manual_seed(seed)
    model = build_classifier(stage.architecture, num_classes, pretrained=recipe.pretrained)
    history: list[dict[str, float]] = []
    if stage.name == "teacher" and recipe.teacher_checkpoint is not None:
        load_weights(model, Path(recipe.teacher_checkpoint))
    else:
        train_on: Dataset[Any] = data.train
        if stage.name == "teacher" and data.teacher_train is not None:
            train_on = data.teacher_train
        history = train_classifier(
            model,
            num_classes,
            Subset(train_on, split[0].tolist()),
            Subset(data.plain, split[1].tolist()),
            recipe.training,
            folder / f"fold{stage.fold}" / stage.name,
            guidance=_guidance(recipe, stage, data, model, folder),
            seed=seed,
            title=f"fold {stage.fold}, {stage.name}",
        )
    test = _test(model, data, recipe.training)
    return finish_stage(folder, stage, model, num_classes, history, test)


def _guidance(
    recipe: Recipe, stage: Stage, data: ImageData, model: nn.Module, folder: Path
) -> Guidance | None:
    if stage.technique is None or stage.taught_by is None:
        return None
    taught_by = next(s for s in stages(recipe) if s.name == stage.taught_by)
    teacher = load_stage(folder, stage.fold, taught_by.name, taught_by.architecture, len(data.class_names))
    layers: Sequence[str] = ()
    teacher_layers: Sequence[str] = ()
    if stage.technique != "response":
        own = recipe.layers if stage.name.startswith("student") else recipe.teacher_layers
        layers, teacher_layers = (
            named or default_layers(m) for named, m in ((own, model), (recipe.teacher_layers, teacher))
        )
    example = torch.stack([data.plain[i][0] for i in range(_EXAMPLES)])
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


def _test(model: nn.Module, data: ImageData, settings: TrainingSettings) -> dict[str, float]:
    """Accuracy on the test images and, where cues are planted, what the model follows."""
    predicted = predictions(model, data.test, settings)
    shares = {"accuracy": predicted == data.test_labels}
    if data.test_cues is not None:
        shares["cue_agreement"] = predicted == data.test_cues
    for name, variant in data.test_variants.items():
        shares[f"changed_{name}"] = predicted != predictions(model, variant, settings)
    return {name: round(hits.double().mean().item(), 4) for name, hits in shares.items()}


def _stage_seed(seed: int, stage: Stage) -> int:
    """A seed of its own for every model; the fold's base model and students start from the same weights."""
    kind = "student" if stage.name == "base" or stage.name.startswith("student") else stage.name
    return (zlib.crc32(f"{seed}/{stage.fold}/{kind}".encode()) % 1_000_003) % 2**20
