"""Does RS predict how good a model is, or what it relies on? Over all trained models of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.benchmark.pairs.training import MODELS, load_model, model_path, words_seed
from captum_kd.datasets.in_memory import read_fashion_mnist
from captum_kd.datasets.planted_cue import CUE_AGREEMENT, PlantedCues, normalise
from captum_kd.functional import pairwise_distances
from captum_kd.functional.correlation import correlation_from_distances, semipartial_from_distances
from captum_kd.labels import embedding_rows
from captum_kd.models.activations import layer_activations
from captum_kd.models.architectures import default_layers

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


class Coefficient(NamedTuple):
    """A rank correlation over models, with its bootstrap interval.

    Attributes:
        question: What is correlated with what.
        layer: The layer of the score.
        within: The mean of Spearman's correlations within each geometry and seed.
        low: The lower end of the percentile interval over models, redrawn within each geometry and seed.
        high: The upper end.
        pooled: Spearman's correlation over all points.
        points: The number of models or pairs.
        groups: The number of groups, each a geometry and seed.
    """

    question: str
    layer: str
    within: float
    low: float
    high: float
    pooled: float
    points: int
    groups: int


class Relation(NamedTuple):
    """What was found over many models.

    Attributes:
        models: A row for each model.
        pairs: A row for each ordered pair of models.
        coefficients: The rank correlations.
    """

    models: list[ModelRow]
    pairs: list[PairRow]
    coefficients: list[Coefficient]


def relate_finished(models: Path, root: Path, report: Callable[[str], None] = print) -> Relation:
    """Measure all finished models of the localization benchmark, and correlate what was measured.

    Args:
        models: The folder of all trained models.
        root: The folder that holds Fashion-MNIST, or that it is downloaded to.
        report: Called with the name of each geometry and seed.

    Raises:
        ValueError: There is no geometry and seed whose models are all trained.
    """
    folders = finished(models)
    if not folders:
        raise ValueError(
            f"{models} has no geometry and seed whose models are all trained; "
            "captum-kd benchmark localization --size full trains them."
        )
    test = read_fashion_mnist(root)[1]
    rows, pairs = [], []
    for geometry, seed, folder in folders:
        report(f"{geometry}, seed {seed}")
        more_rows, more_pairs = relate(geometry, seed, folder, test.data, test.targets)
        rows += more_rows
        pairs += more_pairs
    return Relation(rows, pairs, coefficients(rows, pairs))


def finished(models: Path) -> list[tuple[str, int, Path]]:
    """The name, seed and folder of every geometry and seed whose models are all trained."""
    found = []
    for geometry in GEOMETRIES:
        for folder in sorted((models / geometry).glob("seed*")):
            if all(model_path(folder, name).exists() for name in MODELS):
                found.append((geometry, int(folder.name.removeprefix("seed")), folder))
    return found


def relate(
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


def coefficients(rows: Sequence[ModelRow], pairs: Sequence[PairRow], draws: int = 499) -> list[Coefficient]:
    """Correlate scores with what models do.

    Args:
        rows: The rows of all models.
        pairs: The rows of their pairs.
        draws: The number of bootstrap samples of models.

    Returns:
        A coefficient for each question and layer.
    """
    layers = list(rows[0].relevance)
    found = []
    by_model: dict[str, Callable[[ModelRow, str], tuple[float, float]]] = {
        "RS, accuracy": lambda r, layer: (r.relevance[layer], r.accuracy),
        "RS, predicts the cue": lambda r, layer: (r.relevance[layer], r.cue_agreement),
        "RS of cues, predicts the cue": lambda r, layer: (r.cue_relevance[layer], r.cue_agreement),
        "RS on biased images, accuracy": lambda r, layer: (r.biased_relevance[layer], r.accuracy),
        "RS on biased images, predicts the cue": lambda r, layer: (
            r.biased_relevance[layer],
            r.cue_agreement,
        ),
        "RS on biased images, accuracy on them": lambda r, layer: (
            r.biased_relevance[layer],
            r.biased_accuracy,
        ),
    }
    for question, values in by_model.items():
        for layer in layers:
            points = [((r.geometry, r.seed), (r.model,), values(r, layer)) for r in rows]
            found.append(_coefficient(question, layer, points, draws))
    by_pair: dict[str, Callable[[PairRow, str], float]] = {
        "RS distilled": lambda p, layer: p.relevance[layer],
        "RS distilled on biased images": lambda p, layer: p.biased_relevance[layer],
    }
    distilled = [pair for pair in pairs if pair.is_distillation()]
    for question, value in by_pair.items():
        for name, some in (("students", distilled), ("all pairs", pairs)):
            for layer in layers:
                pairs_points = [
                    (
                        (p.geometry, p.seed),
                        (p.student,) if name == "students" else (p.student, p.base),
                        (value(p, layer), p.gain),
                    )
                    for p in some
                ]
                found.append(_coefficient(f"{question}, gain ({name})", layer, pairs_points, draws))
    return found


def _coefficient(
    question: str,
    layer: str,
    points: Sequence[tuple[tuple[str, int], tuple[str, ...], tuple[float, float]]],
    draws: int,
) -> Coefficient:
    """The coefficient of points, each with its group and the models it belongs to."""
    groups: dict[tuple[str, int], list[tuple[tuple[str, ...], tuple[float, float]]]] = {}
    for group, models, point in points:
        groups.setdefault(group, []).append((models, point))
    generator = torch.Generator().manual_seed(0)
    within, drawn = [], []
    for members in groups.values():
        values = torch.tensor([point for _, point in members], dtype=torch.float64).T
        within.append(_spearman(values))
        names = sorted({name for models, _ in members for name in models})
        takes_part = torch.tensor([[names.index(name) for name in models] for models, _ in members])
        of_group = []
        for _ in range(draws):
            times = torch.randint(len(names), (len(names),), generator=generator).bincount(
                minlength=len(names)
            )
            # A pair comes as often as both of its models.
            of_group.append(_spearman(values.repeat_interleave(times[takes_part].prod(1), dim=1)))
        drawn.append(of_group)
    every = torch.tensor([point for _, _, point in points], dtype=torch.float64).T
    means = torch.tensor(drawn, dtype=torch.float64).nanmean(0)
    low, high = means.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = torch.tensor(within, dtype=torch.float64).nanmean().item()
    return Coefficient(question, layer, mean, low, high, _spearman(every), len(points), len(groups))


def _spearman(values: Tensor) -> float:
    if values.shape[1] < 2:
        return math.nan
    # As scipy.stats.spearmanr, which takes three times as long for its p-value.
    with np.errstate(invalid="ignore"):  # the correlation of a draw that repeats a single point is NaN
        return float(np.corrcoef(rankdata(values.numpy(), axis=1))[0, 1])


@torch.no_grad()
def _run(model: torch.nn.Module, planted: PlantedCues) -> tuple[Tensor, dict[str, Tensor]]:
    """The predicted classes, and distances of each stage's globally pooled features, named as in a ResNet."""
    layers = [model.get_submodule(name) for name in default_layers(model)]
    names = [f"layer{i}" for i in range(1, len(layers) + 1)]  # architectures are matched by order
    found = [layer_activations(model, layers, normalise(images)) for images in planted.images.split(128)]
    pooled = (
        torch.cat([a.flatten(2).mean(2) for a in parts])
        for parts in zip(*(f.activations for f in found), strict=True)
    )
    distances = {name: pairwise_distances(f) for name, f in zip(names, pooled, strict=True)}
    return torch.cat([f.output.argmax(1) for f in found]), distances


def _share(predicted: Tensor, classes: Tensor) -> float:
    return (predicted == classes).double().mean().item()
