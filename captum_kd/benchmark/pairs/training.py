"""The models of the benchmark: for each geometry and seed a teacher, base models and distilled students."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from captum_kd.atomic import write_whole
from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.datasets.in_memory import TensorImages
from captum_kd.datasets.planted_cue import CUE_AGREEMENT, NUM_CLASSES, normalise
from captum_kd.datasets.splits import balanced_indices
from captum_kd.distill.guidance import Guidance, Technique
from captum_kd.distill.training import TrainingSettings, train_classifier
from captum_kd.models.architectures import build_classifier, default_layers
from captum_kd.models.checkpoints import load_weights, read_checkpoint

VALIDATION_COUNT = 256
TEMPERATURE = 4.0
WEIGHTS: dict[Technique, float] = {"response": 0.95}  # the others have the defaults of their losses


class Trained(NamedTuple):
    """How a model of the benchmark is made.

    Attributes:
        architecture: The name of its architecture.
        start: The word that seeds its initial weights; models of one word start alike.
        technique: The technique by which the teacher teaches it; None: it has no teacher.
    """

    architecture: str
    start: str
    technique: Technique | None = None


# Base model 0 and the students have the same architecture, initial weights, images and schedule.
MODELS: dict[str, Trained] = {
    "teacher": Trained("small_resnet16", "teacher"),
    "base_0": Trained("small_resnet8", "student"),
    "student_response": Trained("small_resnet8", "student", "response"),
    "student_attention": Trained("small_resnet8", "student", "attention"),
    "student_overhaul": Trained("small_resnet8", "student", "overhaul"),
    "base_1": Trained("small_resnet8", "other"),
    "base_wide": Trained("small_resnet12", "wide"),
    "base_regnet": Trained("small_regnet16", "regnet"),
}


@dataclass(frozen=True)
class Budget:
    """How long every model is trained.

    Attributes:
        images: The number of training images, each shown once per epoch.
        epochs: The number of passes over them.
        batch_size: The number of images per step.
    """

    images: int = 8000
    epochs: int = 6
    batch_size: int = 128

    def settings(self) -> TrainingSettings:
        """AdamW with one cycle of the learning rate, as in docs/distill.md."""
        return TrainingSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer="adamw",
            learning_rate=3e-3,
            weight_decay=0.01,
            schedule="one-cycle",
            accelerator="cpu",
        )


def train_models(
    geometry: str,
    seed: int,
    items: Tensor,
    labels: Tensor,
    folder: Path,
    budget: Budget | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Train the models of one geometry and seed that are not in the folder yet.

    The teacher learns from images whose cues say nothing about the label, all other models from images whose
    cues name the label in 95 of 100. If interrupted, the same call resumes after the last finished epoch.

    Args:
        geometry: One of :data:`~captum_kd.benchmark.pairs.geometries.GEOMETRIES`.
        seed: The seed of the choice of items, the drawing, the weights and the order.
        items: Training items, uint8, ``(n, 28, 28)``; more than the budget's number of images.
        labels: The classes of the items, ``(n,)``.
        folder: The folder of this geometry and seed; each model becomes a safetensors file in it.
        budget: How long to train; None: the default.
        report: Called with a line for each trained model.

    Raises:
        ValueError: The folder holds a model that was trained with other settings.
    """
    budget = budget or Budget()
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in MODELS if not is_trained(folder, name, geometry, seed, budget)]
    if not missing:
        return
    order = balanced_indices(labels, budget.images + VALIDATION_COUNT, seed)
    order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
    chosen, others = order[VALIDATION_COUNT:], order[:VALIDATION_COUNT]

    def images(word: str, indices: Tensor, agreement: float) -> TensorImages:
        planted = partial(
            GEOMETRIES[geometry],
            items[indices],
            labels[indices],
            agreement=agreement,
            seed=words_seed(geometry, seed, word),
        )
        return TensorImages(lambda: planted().images, labels[indices], normalise)

    biased = images("biased", chosen, CUE_AGREEMENT)
    neutral = images("neutral", chosen, 0.0)
    validation = images("validation", others, 0.0)
    for name in missing:
        kind = MODELS[name]
        start = words_seed(geometry, seed, kind.start)
        torch.manual_seed(start)
        model = build_classifier(kind.architecture, NUM_CLASSES)
        guidance = None
        if kind.technique is not None:
            teacher = load_model(folder, "teacher")
            example = torch.stack([validation[i][0] for i in range(4)])
            guidance = _guidance(kind.technique, model, teacher, example)
        unfinished = folder / f"{name}.unfinished"
        history = train_classifier(
            model,
            NUM_CLASSES,
            neutral if name == "teacher" else biased,
            validation,
            budget.settings(),
            unfinished,
            guidance=guidance,
            seed=start,
            title=f"{geometry}, seed {seed}, {name}",
        )
        facts = {"architecture": kind.architecture, "training": _facts(name, geometry, seed, budget)}
        tensors = {key: value.contiguous() for key, value in model.cpu().state_dict().items()}
        write_whole(model_path(folder, name), partial(save_file, tensors, metadata=facts))
        shutil.rmtree(unfinished)
        accuracy = history[-1]["validation_accuracy"]
        report(f"{geometry}, seed {seed}, {name}: accuracy {accuracy:.3f} on decorrelated images")


def load_model(folder: Path, name: str) -> nn.Module:
    """Load a trained model in evaluation mode.

    Args:
        folder: The folder of the geometry and seed.
        name: One of :data:`MODELS`.

    Raises:
        ValueError: The model is missing or cannot be read.
    """
    model = build_classifier(MODELS[name].architecture, NUM_CLASSES)
    load_weights(model, model_path(folder, name))
    return model.eval()


def model_path(folder: Path, name: str) -> Path:
    """The file of a trained model."""
    return folder / f"{name}.safetensors"


def is_trained(folder: Path, name: str, geometry: str, seed: int, budget: Budget) -> bool:
    """Whether the folder holds this model, trained with these settings.

    Raises:
        ValueError: The folder holds a model of this name that was trained with other settings.
    """
    path = model_path(folder, name)
    if not path.exists():
        return False
    facts = read_checkpoint(path).metadata
    wanted = _facts(name, geometry, seed, budget)
    if facts.get("training") != wanted:
        raise ValueError(
            f"{path} was trained with other settings: {facts.get('training')}, but {wanted} is needed. "
            "Choose another folder for the models, or remove the file."
        )
    return True


def words_seed(*words: object) -> int:
    """A seed for one purpose, made of the words that name it.

    Example:
        >>> words_seed("free", 0, "biased") != words_seed("free", 1, "biased")
        True
    """
    return zlib.crc32("/".join(map(str, words)).encode()) % 2**20


def _guidance(technique: Technique, student: nn.Module, teacher: nn.Module, example: Tensor) -> Guidance:
    return Guidance(
        technique,
        student,
        teacher,
        default_layers(student),
        default_layers(teacher),
        example,
        weight=WEIGHTS.get(technique),
        temperature=TEMPERATURE if technique == "response" else None,
    )


def _facts(name: str, geometry: str, seed: int, budget: Budget) -> str:
    facts = {"geometry": geometry, "seed": seed, "agreement": CUE_AGREEMENT, **asdict(budget)}
    return json.dumps({"model": name, **MODELS[name]._asdict(), **facts})
