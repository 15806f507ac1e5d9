"""The demo's numbers: localisation of maps, FSS and RS, on the planted-cue pair."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.demo.assets import DemoModels, load_demo_images, load_demo_models
from captum_kd.demo.localization import auc_from_ranks, energy_share, pixel_ranks, separation
from captum_kd.demo.planted_cue import PlantedCues, normalise
from captum_kd.functional import road
from captum_kd.labels import embedding_rows
from captum_kd.methods import METHODS, Case, LayerMaps, MapPair, upsample
from captum_kd.metrics import score_with_statistics
from captum_kd.scores import ScoreRow, pooled_features, score_layer

LAYERS = ("layer1", "layer2", "layer3", "layer4")
KEPT_SHARE = 0.2
# The first images are the reference, the others are explained and scored: the two never meet.
REFERENCE_COUNT = 128
SCORED_COUNT = 256
PERTURBED_COUNT = 128

# What a separation is made of, in the order of `separation`'s arguments.
PARTS = ("distilled on item", "residual on item", "distilled on cue", "residual on cue")
# How many steps `steps` names: start, maps, localisation, two kinds of scores per layer, done.
STEPS = 3 + len(METHODS) + 2 * len(LAYERS)


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
    case: Case
    maps: dict[str, MapPair]
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
    case = Case(
        models.student, models.base, LAYERS, inputs[scored], planted.labels[scored], inputs[:REFERENCE_COUNT]
    )
    truth = PlantedCues(*(value[scored] for value in planted))
    predictions = [
        predict(name, getattr(models, name), inputs, planted) for name in ("teacher", "base", "student")
    ]
    maps = {}
    for name, method in METHODS.items():
        yield f"maps: {name}", None
        maps[name] = method(case)
    yield "localisation", None
    localisation = [row for name, pair in maps.items() for row in localise(name, pair, truth)]
    localisation += localise("perfect masks", perfect(truth), truth)
    scores = []
    for layer in LAYERS:
        yield f"FSS and RS: {layer}", None
        scores += score_layer(case, layer, {"item": truth.labels, "cue": truth.cues})
    kept = []
    for layer in LAYERS:
        yield f"RS of what maps keep: {layer}", None
        kept += score_kept(case, layer, truth, maps["UniCAM, uniqueness"], maps["random maps"][0])
    yield (
        "done",
        Experiment(truth, models, case, maps, predictions, localisation, scores, kept),
    )


def predict(name: str, model: nn.Module, inputs: Tensor, planted: PlantedCues) -> Prediction:
    """Accuracy and cue agreement on the given images."""
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in inputs.split(128)])
    accuracy = (predicted == planted.labels).double().mean().item()
    agreement = (predicted == planted.cues).double().mean().item()
    return Prediction(name, accuracy, agreement, len(inputs))


def perfect(truth: PlantedCues) -> MapPair:
    """The masks themselves as maps: what the measures give at best."""
    item, cue = (mask[:, None].float() for mask in (truth.item_masks, truth.cue_masks))
    return dict.fromkeys(LAYERS, item), dict.fromkeys(LAYERS, cue)


def localise(method: str, pair: MapPair, truth: PlantedCues) -> list[Localisation]:
    """Separation at every layer by every measure, with a normal 95 % interval over images."""
    rows = []
    size = (truth.images.shape[2], truth.images.shape[3])
    item, cue = truth.item_masks, truth.cue_masks
    for layer in LAYERS:
        distilled, residual = (upsample(maps[layer], size) for maps in pair)
        ranks = [pixel_ranks(maps.flatten(1)) for maps in (distilled, residual)]
        measured = {
            "auc": [auc_from_ranks(r, mask.flatten(1)) for mask in (item, cue) for r in ranks],
            "energy": [energy_share(maps, mask) for mask in (item, cue) for maps in (distilled, residual)],
        }
        for measure, values in measured.items():
            separations = separation(*values)
            margin = 1.96 * separations.std().item() / len(item) ** 0.5
            mean = separations.mean().item()
            parts = {part: value.mean().item() for part, value in zip(PARTS, values, strict=True)}
            rows.append(
                Localisation(method, layer, measure, mean, mean - margin, mean + margin, len(item), parts)
            )
    return rows


def score_kept(case: Case, layer: str, truth: PlantedCues, pair: MapPair, noise: LayerMaps) -> list[ScoreRow]:
    """RS of the images reduced by ROAD to the 20 % of pixels that a map ranks highest (Eq. 7).

    Random maps of the layer's resolution are the baseline: imputation restores much of an image from pixels
    that lie scattered.
    """
    score = partial(score_with_statistics, generator=torch.Generator().manual_seed(0))
    rows = []
    images = case.images[:PERTURBED_COUNT]
    student, base = ("student", case.student), ("base", case.base)
    sides = (
        ("distilled", pair[0], [student]),
        ("residual", pair[1], [base]),
        ("random", noise, [student, base]),
    )
    for side, maps, models in sides:
        kept = road(
            images,
            maps[layer][:PERTURBED_COUNT],
            share=KEPT_SHARE,
            generator=torch.Generator().manual_seed(0),
        )
        for name, model in models:
            features = pooled_features(model, layer, kept)
            which = f"{side} maps, {name}" if len(models) > 1 else f"{side} maps"
            for word, classes in (("item", truth.labels), ("cue", truth.cues)):
                labels = embedding_rows(None, classes[:PERTURBED_COUNT])
                rows.append(ScoreRow(f"RS({word}) kept by {which}", layer, score(features, labels)))
    return rows
