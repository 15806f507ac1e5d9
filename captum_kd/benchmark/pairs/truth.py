"""What the predictions and the layers of a model depend on: the truth is checked, not assumed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from captum_kd.benchmark.pairs.held_out import HeldOut
from captum_kd.benchmark.pairs.trained_pairs import PairNames
from captum_kd.datasets.planted_cue import PlantedCues, normalise
from captum_kd.models.activations import layer_activations
from captum_kd.models.architectures import default_layers

# How much more the base model must rely on the cue than the student does.
MARGIN = 0.2
RULE = (
    "The truth of a pair holds if the student is led by the item (leaving out the item changes more of its "
    "predictions than leaving out the cue does) and the base model relies more on the cue (leaving out the "
    f"cue changes at least {MARGIN} more of its predictions than of the student's, and leaving out the item "
    "fewer). Null pairs need no such truth."
)


class Probe(NamedTuple):
    """The accuracy of linear classifiers of a layer's globally pooled features.

    Attributes:
        layer: The name of the layer.
        item: The share of images whose item a classifier names.
        cue: The share of images whose cue another one names.
    """

    layer: str
    item: float
    cue: float


class ModelTruth(NamedTuple):
    """What a model follows, on images whose cues say nothing about the labels.

    Attributes:
        model: The name of the model.
        accuracy: The share of predictions that name the item.
        cue_agreement: The share of predictions that name the class of the cue; chance is 0.1.
        changed_without_item: The share of predictions that change when the item is left out.
        changed_without_cue: The share of predictions that change when the cue is left out.
        samples: The number of images.
        probes: The linear probes of each layer.
    """

    model: str
    accuracy: float
    cue_agreement: float
    changed_without_item: float
    changed_without_cue: float
    samples: int
    probes: list[Probe]

    def led_by(self) -> str:
        """The region that more predictions depend on, "item" or "cue"; "neither" if equally many do."""
        if self.changed_without_item == self.changed_without_cue:
            return "neither"
        return "item" if self.changed_without_item > self.changed_without_cue else "cue"


def pair_holds(pair: PairNames, truths: dict[str, ModelTruth]) -> bool:
    """Whether the truth of a pair holds, by :data:`RULE`."""
    if pair.kind == "null":
        return True
    student, base = truths[pair.student], truths[pair.base]
    relies = base.changed_without_cue - student.changed_without_cue >= MARGIN
    return student.led_by() == "item" and relies and base.changed_without_item < student.changed_without_item


def judge(name: str, model: nn.Module, images: HeldOut) -> ModelTruth:
    """Check what a model follows.

    Args:
        name: The name of the model.
        model: The model, in evaluation mode.
        images: The held-out images; probes are fitted on ``fitted``, and all is measured on ``judged``.
    """
    judged = images.judged
    predicted, features = predictions_and_features(model, judged)
    _, fit_features = predictions_and_features(model, images.fitted)

    def share(hits: Tensor) -> float:
        return hits.double().mean().item()

    probes = [
        Probe(
            layer,
            _probe(fit, images.fitted.labels, own, judged.labels),
            _probe(fit, images.fitted.cues, own, judged.cues),
        )
        for layer, fit, own in zip(default_layers(model), fit_features, features, strict=True)
    ]
    return ModelTruth(
        name,
        share(predicted == judged.labels),
        share(predicted == judged.cues),
        share(predicted != predictions_and_features(model, images.without_item)[0]),
        share(predicted != predictions_and_features(model, images.without_cue)[0]),
        len(predicted),
        probes,
    )


def predictions_and_features(
    model: nn.Module, planted: PlantedCues, batch_size: int = 256
) -> tuple[Tensor, list[Tensor]]:
    """Run a model on planted-cue images.

    Args:
        model: The model, in evaluation mode.
        planted: The images.
        batch_size: The number of images at a time.

    Returns:
        The predicted classes ``(n,)``, and the globally pooled features ``(n, c)`` of each layer.
    """
    layers = [model.get_submodule(name) for name in default_layers(model)]
    found = [
        layer_activations(model, layers, normalise(images)) for images in planted.images.split(batch_size)
    ]
    pooled = [
        torch.cat([a.flatten(2).mean(2) for a in parts])
        for parts in zip(*(f.activations for f in found), strict=True)
    ]
    return torch.cat([f.output.argmax(1) for f in found]), pooled


def _probe(features: Tensor, classes: Tensor, held_out: Tensor, truth: Tensor) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probe.fit(features.double().numpy(), classes.numpy())
    return float(probe.score(held_out.double().numpy(), truth.numpy()))
