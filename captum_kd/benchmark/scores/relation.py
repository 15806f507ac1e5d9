"""Does RS predict how good a model is, or what it relies on? Over all trained models of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.benchmark.pairs.rank_correlation import spearman
from captum_kd.benchmark.pairs.training import MODELS, load_model, model_path, words_seed
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
        geometry: of the images.
        seed: of the training.
        model: its name.
        accuracy: on decorrelated images.
        cue_agreement: share of decorrelated images for which it says the cue.
        biased_accuracy: on images whose cue names the label in 95 of 100.
        relevance: RS of decorrelated images' labels, by layer.
        cue_relevance: RS of the cues of decorrelated images.
        biased_relevance: RS of biased images' labels.
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
    """What one model has over another, and its RS of unique features.

    Attributes:
        geometry: of the images.
        seed: of the training.
        student: name of the model.
        base: name of the other.
        gain: in accuracy on decorrelated images.
        relevance: RS of distilled features on decorrelated images, by layer.
        biased_relevance: on biased images.
    """

    geometry: str
    seed: int
    student: str
    base: str
    gain: float
    relevance: dict[str, float]
    biased_relevance: dict[str, float]

    def is_distillation(self) -> bool:
        """Whether it is a student with the base model that shares its initial weights."""
        return self.student in STUDENTS and self.base == "base_0"


class Coefficient(NamedTuple):
    """A rank correlation over models, with its bootstrap interval.

    Attributes:
        question: what with what.
        layer: of the score.
        within: mean over geometries and seeds of Spearman's correlation within each.
        low: lower end of the percentile interval over models, drawn again within geometries and seeds.
        high: upper end.
        pooled: Spearman's correlation over all.
        points: models or pairs.
        groups: geometries and seeds.
    """

    question: str
    layer: str
    within: float
    low: float
    high: float
    pooled: float
    points: int
    groups: int


def finished(models: Path) -> list[tuple[str, int, Path]]:
    """Geometry, seed and folder of every geometry and seed whose models are all trained."""
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
        seed: Of the training.
        folder: Of its trained models.
        items: Test items, uint8, ``(n, 28, 28)``; at least ``samples``.
        labels: Their classes.
        samples: Images of each kind.
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
    """Rank correlations of scores with what models do.

    Args:
        rows: Of all models.
        pairs: Of them.
        draws: Bootstrap samples of models.
    """
    layers = list(rows[0].relevance)
    found = []
    by_model: dict[str, Callable[[ModelRow, str], tuple[float, float]]] = {
        "RS, accuracy": lambda r, layer: (r.relevance[layer], r.accuracy),
        "RS, says the cue": lambda r, layer: (r.relevance[layer], r.cue_agreement),
        "RS of cues, says the cue": lambda r, layer: (r.cue_relevance[layer], r.cue_agreement),
        "RS on biased images, accuracy": lambda r, layer: (r.biased_relevance[layer], r.accuracy),
        "RS on biased images, says the cue": lambda r, layer: (r.biased_relevance[layer], r.cue_agreement),
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
    """The coefficient of points, each with its group and the models that it is drawn with."""
    groups: dict[tuple[str, int], list[tuple[tuple[str, ...], tuple[float, float]]]] = {}
    for group, models, point in points:
        groups.setdefault(group, []).append((models, point))
    generator = torch.Generator().manual_seed(0)
    within, drawn = [], []
    for members in groups.values():
        values = torch.tensor([point for _, point in members], dtype=torch.float64).T
        within.append(spearman(values))
        names = sorted({name for models, _ in members for name in models})
        takes_part = torch.tensor([[names.index(name) for name in models] for models, _ in members])
        of_group = []
        for _ in range(draws):
            times = torch.randint(len(names), (len(names),), generator=generator).bincount(
                minlength=len(names)
            )
            # A pair comes as often as both of its models.
            of_group.append(spearman(values.repeat_interleave(times[takes_part].prod(1), dim=1)))
        drawn.append(torch.stack(of_group))
    every = torch.tensor([point for _, _, point in points], dtype=torch.float64).T
    means = torch.stack(drawn).nanmean(0)  # a draw of the same point again and again has no correlation
    low, high = means.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = torch.stack(within).nanmean().item()
    return Coefficient(question, layer, mean, low, high, spearman(every).item(), len(points), len(groups))


@torch.no_grad()
def _run(model: torch.nn.Module, planted: PlantedCues) -> tuple[Tensor, dict[str, Tensor]]:
    """Predicted classes, and distances of each stage's globally pooled features, named as a ResNet's."""
    layers = [model.get_submodule(name) for name in default_layers(model)]
    names = [f"layer{i}" for i in range(1, len(layers) + 1)]  # pairs of architectures pair up by order
    found = [layer_activations(model, layers, normalise(images)) for images in planted.images.split(128)]
    pooled = (
        torch.cat([a.flatten(2).mean(2) for a in parts])
        for parts in zip(*(f.activations for f in found), strict=True)
    )
    distances = {name: pairwise_distances(f) for name, f in zip(names, pooled, strict=True)}
    return torch.cat([f.output.argmax(1) for f in found]), distances


def _share(predicted: Tensor, classes: Tensor) -> float:
    return (predicted == classes).double().mean().item()
