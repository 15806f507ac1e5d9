"""The demo's numbers: localisation of maps, FSS and RS, on the planted-cue pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.attr.methods import METHODS, TwoMaps, maps_in_batches, upsample
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
from captum_kd.metrics.localization import perfect_maps, random_maps, score_sides

LAYERS = ("layer1", "layer2", "layer3", "layer4")
KEPT_SHARE = 0.2
# The first images are the reference, the others are explained and scored: the two never meet.
REFERENCE_COUNT = 128
SCORED_COUNT = 256
PERTURBED_COUNT = 128

RANDOM = "random maps"
PUBLISHED = "UniCAM, published objective"
COMPARED = (
    "Grad-CAM difference",
    "gradient x activation difference",
    PUBLISHED,
    "UniCAM, uniqueness",
    "UniCAM, recommended",
    "UniCAM, recommended, signed",
)
# What `steps` names: start, maps, localisation, scores of item and of cue, what maps keep, done.
STEPS = 3 + len(COMPARED) + 3


class ScoreRow(NamedTuple):
    """An FSS or RS at one layer."""

    quantity: str
    layer: str
    score: Score


class Localisation(NamedTuple):
    """How one method's maps at one layer separate what was distilled from what was left behind."""

    method: str
    layer: str
    measure: str
    separation: float
    low: float
    high: float
    samples: int
    parts: dict[str, float]


class Prediction(NamedTuple):
    """How often a model is right, and how often it says what the cue says."""

    model: str
    accuracy: float
    cue_agreement: float
    samples: int


class Experiment(NamedTuple):
    """Everything that the demo shows."""

    planted: PlantedCues
    models: DemoModels
    pair: Pair
    inputs: Tensor
    maps: dict[str, list[TwoMaps]]
    predictions: list[Prediction]
    localisation: list[Localisation]
    scores: list[ScoreRow]
    kept: list[ScoreRow]


def steps() -> Iterator[tuple[str, Any]]:
    """Run the experiment, naming each step before it starts; the last item holds the result."""
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
        # The paper takes distances within batches of 32.
        given = replace(pair, reference=None) if name == PUBLISHED else pair
        maps[name] = maps_in_batches(METHODS[name], given, images, truth.labels)
    maps = {RANDOM: random_maps(maps[COMPARED[0]]), **maps}
    yield "localisation", None
    localisation = [row for name, layers in maps.items() for row in localise(name, layers, truth)]
    localisation += localise(
        "perfect masks", perfect_maps(truth.item_masks, truth.cue_masks, len(LAYERS)), truth
    )
    scores = []
    for word, classes in (("item", truth.labels), ("cue", truth.cues)):
        yield f"FSS and RS of the {word}", None
        scores += score(pair, images, word, classes)
    yield "RS of what maps keep", None
    kept = score_kept(pair, images[:PERTURBED_COUNT], truth)
    yield (
        "done",
        Experiment(truth, models, pair, images, maps, predictions, localisation, ordered(scores), kept),
    )


def demo_pair(models: DemoModels, reference: Tensor) -> Pair:
    """Student and base model with all their layers."""
    return Pair.named(models.student, LAYERS, models.base, reference=[reference])


def predict(name: str, model: nn.Module, inputs: Tensor, planted: PlantedCues) -> Prediction:
    """Accuracy and cue agreement on the given images."""
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in inputs.split(128)])
    accuracy = (predicted == planted.labels).double().mean().item()
    agreement = (predicted == planted.cues).double().mean().item()
    return Prediction(name, accuracy, agreement, len(inputs))


def localise(method: str, layers: list[TwoMaps], truth: PlantedCues) -> list[Localisation]:
    """Separation at every layer by every measure, with a normal 95 % interval over images."""
    rows = []
    size = (truth.images.shape[2], truth.images.shape[3])
    for layer, both in zip(LAYERS, layers, strict=True):
        distilled, residual = (upsample(maps, size) for maps in both)
        measured = score_sides(distilled, residual, truth.item_masks, truth.cue_masks)
        for measure in ("auc", "energy"):
            separations = measured[measure].separation()
            margin = 1.96 * separations.std().item() / len(separations) ** 0.5
            mean = separations.mean().item()
            parts = {part: value.mean().item() for part, value in measured[measure].parts().items()}
            rows.append(
                Localisation(
                    method, layer, measure, mean, mean - margin, mean + margin, len(separations), parts
                )
            )
    return rows


def score(pair: Pair, images: Tensor, word: str, classes: Tensor) -> list[ScoreRow]:
    """FSS, and RS of overall, distilled and residual features with the given classes."""
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
    """Layer by layer, with FSS, which does not depend on the classes, once."""
    unique = {(row.layer, row.quantity): row for row in rows}
    return [row for layer in LAYERS for (name, _), row in unique.items() if name == layer]


def score_kept(pair: Pair, images: Tensor, truth: PlantedCues) -> list[ScoreRow]:
    """RS of the images reduced by ROAD to the 20 % of pixels that a map ranks highest (Eq. 7)."""
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
