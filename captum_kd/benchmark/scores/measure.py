"""What the trained models of the benchmark do, and their RS at each layer."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.benchmark.pairs.training import MODELS, load_model, model_path, words_seed
from captum_kd.benchmark.pairs.truth import predictions_and_features
from captum_kd.datasets.planted_cue import CUE_AGREEMENT, PlantedCues
from captum_kd.functional import pairwise_distances
from captum_kd.functional.correlation import correlation_from_distances, semipartial_from_distances
from captum_kd.labels import embedding_rows

STUDENTS = tuple(name for name in MODELS if name.startswith("student"))


class ModelRow(NamedTuple):
    """What one model does, and its RS at each layer.

    Attributes:
        geometry: The name of the images' geometry.
        seed: The seed of the training.
        model: The name of the model.
        accuracy: The accuracy on decorrelated images.
        cue_agreement: The share of decorrelated images for which it predicts the class of the cue.
        biased_accuracy: The accuracy on biased images, whose cues name the label in 95 of 100.
        relevance: RS of the labels on decorrelated images, by layer.
        cue_relevance: RS of the cues on decorrelated images, by layer.
        biased_relevance: RS of the labels on biased images, by layer.
    """

    geometry: str
    seed: int
    model: str
    accuracy: float
    cue_agreement: float
    biased_accuracy: float
    relevance: dict[str, float]
    cue_relevance: dict[str, float]
    biased_relevance: dict[str, float]


class PairRow(NamedTuple):
    """How much better one model is than another, and RS of what only it has.

    Attributes:
        geometry: The name of the images' geometry.
        seed: The seed of the training.
        student: The name of the first model.
        base: The name of the other model.
        gain: The gain in accuracy on decorrelated images.
        relevance: RS of distilled features on decorrelated images, by layer.
        biased_relevance: RS of distilled features on biased images, by layer.
    """

    geometry: str
    seed: int
    student: str
    base: str
    gain: float
    relevance: dict[str, float]
    biased_relevance: dict[str, float]

    def is_distillation(self) -> bool:
        """Whether this is a student with the base model that shares its initial weights."""
        return self.student in STUDENTS and self.base == "base_0"


def finished(models: Path) -> list[tuple[str, int, Path]]:
    """The name, seed and folder of every geometry and seed whose models are all trained."""
    found = []
    for geometry in GEOMETRIES:
        for folder in sorted((models / geometry).glob("seed*")):
            if all(model_path(folder, name).exists() for name in MODELS):
                found.append((geometry, int(folder.name.removeprefix("seed")), folder))
    return found


def measure_models(
    geometry: str, seed: int, folder: Path, items: Tensor, labels: Tensor, samples: int = 384
) -> tuple[list[ModelRow], list[PairRow]]:
    """Measure the models of one geometry and seed, and all ordered pairs of them.

    Args:
        geometry: One of :data:`~captum_kd.benchmark.pairs.geometries.GEOMETRIES`.
        seed: The seed of the training.
        folder: The folder with the trained models of this geometry and seed.
        items: Test items, uint8, ``(n, 28, 28)``; at least ``samples``.
        labels: The classes of the items, ``(n,)``.
        samples: The number of decorrelated images, and of biased ones.
    """
    random = torch.Generator().manual_seed(words_seed(geometry, seed, "relation"))
    chosen = torch.randperm(len(items), generator=random)[:samples]
    images = {
        kind: GEOMETRIES[geometry](
            items[chosen],
            labels[chosen],
            agreement=agreement,
            seed=words_seed(geometry, seed, "relation", kind),
        )
        for kind, agreement in (("decorrelated", 0.0), ("biased", CUE_AGREEMENT))
    }
    item = pairwise_distances(embedding_rows(None, labels[chosen]))
    cue = pairwise_distances(embedding_rows(None, images["decorrelated"].cues))
    rows, distances = [], {}
    for name in MODELS:
        model = load_model(folder, name)
        predicted, free = _run(model, images["decorrelated"])
        biased_predicted, biased = _run(model, images["biased"])
        distances[name] = {"decorrelated": free, "biased": biased}
        decorrelated = images["decorrelated"]
        scores = (
            {layer: correlation_from_distances(d, other).item() for layer, d in of_layers.items()}
            for of_layers, other in ((free, item), (free, cue), (biased, item))
        )
        rows.append(
            ModelRow(
                geometry,
                seed,
                name,
                _share(predicted, decorrelated.labels),
                _share(predicted, decorrelated.cues),
                _share(biased_predicted, images["biased"].labels),
                *scores,
            )
        )
    accuracy = {row.model: row.accuracy for row in rows}
    pairs = [
        PairRow(
            geometry,
            seed,
            student,
            base,
            accuracy[student] - accuracy[base],
            *(
                {
                    layer: semipartial_from_distances(d, item, distances[base][kind][layer]).item()
                    for layer, d in distances[student][kind].items()
                }
                for kind in ("decorrelated", "biased")
            ),
        )
        for student, base in permutations(MODELS, 2)
    ]
    return rows, pairs


def _run(model: nn.Module, planted: PlantedCues) -> tuple[Tensor, dict[str, Tensor]]:
    """The predicted classes, and distances of each stage's globally pooled features, named as in a ResNet."""
    predicted, features = predictions_and_features(model, planted, batch_size=128)
    # Architectures have their own names for their layers, so these are matched by their order.
    return predicted, {f"layer{i}": pairwise_distances(f) for i, f in enumerate(features, start=1)}


def _share(predicted: Tensor, classes: Tensor) -> float:
    return (predicted == classes).double().mean().item()
