"""The demo's numbers: where maps lie, FSS and RS, for the embedded pair on planted-cue images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.attr.methods import METHODS, TwoMaps, maps_in_batches
from captum_kd.attr.pair import Pair
from captum_kd.comparison.batches import Batch
from captum_kd.comparison.features import BASE, stream
from captum_kd.comparison.kept import KEPT_BY, RANDOMLY_KEPT_BY, KeptFeatures
from captum_kd.comparison.scores import score_rows
from captum_kd.comparison.settings import Settings
from captum_kd.datasets.demo_pair import DemoModels, load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import PlantedCues, normalise
from captum_kd.labels import embedding_rows
from captum_kd.metrics import Score, score_with_statistics
from captum_kd.metrics.localization import (
    CEILING,
    RANDOM,
    Separation,
    perfect_maps,
    random_maps,
    separations,
)

LAYERS = ("layer1", "layer2", "layer3", "layer4")
KEPT_SHARE = 0.2
# The first images are the reference, the next ones are explained and scored; none is in both sets.
REFERENCE_COUNT = 128
SCORED_COUNT = 256
PERTURBED_COUNT = 128

PUBLISHED = "UniCAM, published objective"
COMPARED = (
    "Grad-CAM difference",
    "gradient x activation difference",
    PUBLISHED,
    "UniCAM, uniqueness",
    "UniCAM, recommended",
    "UniCAM, recommended, signed",
)
# The others have a table in the benchmark.
MEASURES = ("auc", "energy")
# What `steps` names: start, maps, localization, scores of item and of cue, what maps keep, done.
STEPS = 3 + len(COMPARED) + 3

# A method, a layer and a measure.
SeparationKey = tuple[str, str, str]


class ScoreRow(NamedTuple):
    """An FSS or RS at one layer."""

    quantity: str
    layer: str
    score: Score


class Prediction(NamedTuple):
    """How often a model's prediction is right, and how often it is the class of the cue."""

    model: str
    accuracy: float
    cue_agreement: float
    samples: int


class Experiment(NamedTuple):
    """Everything that the demo shows.

    Attributes:
        planted: The scored images with labels, cue classes and masks.
        models: The embedded models.
        pair: Student and base model with all their layers and the reference.
        inputs: The scored images as the models take them, ``(n, 3, h, w)``.
        maps: The two maps of each layer by the method's name.
        predictions: What each model predicts.
        separations: How well the maps separate item and cue, by method, layer and measure.
        scores: FSS and RS at each layer.
        kept: RS of images reduced to the pixels that maps keep, at each layer.
    """

    planted: PlantedCues
    models: DemoModels
    pair: Pair
    inputs: Tensor
    maps: dict[str, list[TwoMaps]]
    predictions: list[Prediction]
    separations: dict[SeparationKey, Separation]
    scores: list[ScoreRow]
    kept: list[ScoreRow]


def steps() -> Iterator[tuple[str, Experiment | None]]:
    """Run the experiment step by step.

    Yields:
        The name of the step that starts, and None; at the end "done" and the result.
    """
    yield "models and images", None
    planted, models = load_demo_images(), load_demo_models()
    inputs = normalise(planted.images)
    scored = slice(REFERENCE_COUNT, REFERENCE_COUNT + SCORED_COUNT)
    truth = PlantedCues(*(value[scored] for value in planted))
    pair = demo_pair(models, inputs[:REFERENCE_COUNT])
    images = inputs[scored]
    predictions = [
        predict(name, getattr(models, name), inputs, planted) for name in ("teacher", "base", "student")
    ]
    maps = {}
    for name in COMPARED:
        yield f"maps: {name}", None
        # In the paper, distances are those within batches of 32.
        given = replace(pair, reference=None) if name == PUBLISHED else pair
        maps[name] = maps_in_batches(METHODS[name], given, images, truth.labels)
    maps = {RANDOM: random_maps(maps[COMPARED[0]]), **maps}
    yield "localization", None
    perfect = perfect_maps(truth.item_masks, truth.cue_masks, len(LAYERS))
    separated = separate({**maps, CEILING: perfect}, truth)
    scores = []
    for word, classes in (("item", truth.labels), ("cue", truth.cues)):
        yield f"FSS and RS of the {word}", None
        scores += score(pair, images, word, classes)
    yield "RS of what maps keep", None
    kept = score_kept(pair, images[:PERTURBED_COUNT], truth)
    yield (
        "done",
        Experiment(truth, models, pair, images, maps, predictions, separated, ordered(scores), kept),
    )


def demo_pair(models: DemoModels, reference: Tensor) -> Pair:
    """Student and base model with all their layers."""
    return Pair.named(models.student, LAYERS, models.base, reference=[reference])


def predict(name: str, model: nn.Module, inputs: Tensor, planted: PlantedCues) -> Prediction:
    """A model's accuracy and its agreement with the cue on the given images."""
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in inputs.split(128)])
    accuracy = (predicted == planted.labels).double().mean().item()
    agreement = (predicted == planted.cues).double().mean().item()
    return Prediction(name, accuracy, agreement, len(inputs))


def separate(maps: Mapping[str, list[TwoMaps]], truth: PlantedCues) -> dict[SeparationKey, Separation]:
    """How well the maps of each method at each layer separate item and cue.

    Args:
        maps: The two maps of each layer by the method's name.
        truth: The explained images with their masks.

    Returns:
        The separation by method, layer and measure.
    """
    return {
        (method, layer, found.measure): found
        for method, of_layers in maps.items()
        for layer, both in zip(LAYERS, of_layers, strict=True)
        for found in separations(both, truth.item_masks, truth.cue_masks)
        if found.measure in MEASURES
    }


def score(pair: Pair, images: Tensor, word: str, classes: Tensor) -> list[ScoreRow]:
    """FSS, and RS of all, distilled and residual features for the given classes."""
    models = {"student": pair.student, BASE: pair.base}
    batches = (Batch(*parts) for parts in zip(images.split(64), classes.split(64), strict=True))
    found = stream(models, batches, pool=1, shown=0, check=lambda target: None)
    settings = Settings(students=("student",), layers=LAYERS)
    rows = score_rows(found, embedding_rows(None, classes), settings)
    fields = Score._fields
    return [
        ScoreRow(row["quantity"].replace("RS", f"RS({word})"), row["layer"], Score(*(row[f] for f in fields)))
        for row in rows
        if not row["quantity"].startswith("dCor")
    ]


def ordered(rows: list[ScoreRow]) -> list[ScoreRow]:
    """The rows layer by layer; FSS, which does not depend on the classes, only once."""
    unique = {(row.layer, row.quantity): row for row in rows}
    return [row for layer in LAYERS for (name, _), row in unique.items() if name == layer]


def score_kept(pair: Pair, images: Tensor, truth: PlantedCues) -> list[ScoreRow]:
    """RS of the images that ROAD reduces to the 20 % of pixels that a map ranks highest (Eq. 7)."""
    keep = KeptFeatures({"student": pair}, pool=1, share=KEPT_SHARE, seed=0)
    features = keep(images)
    rows = []
    for i, layer in enumerate(LAYERS):
        for keeper in (*KEPT_BY, *RANDOMLY_KEPT_BY):
            for word, classes in (("item", truth.labels), ("cue", truth.cues)):
                labels = embedding_rows(None, classes[: len(images)])
                generator = torch.Generator().manual_seed(0)
                found = score_with_statistics(features["student", keeper, i], labels, generator=generator)
                rows.append(ScoreRow(f"RS({word}) kept by {keeper}", layer, found))
    return rows
