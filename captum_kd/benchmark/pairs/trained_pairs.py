"""Models by name, the pairs they form, and images that none of them was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor, nn

from captum_kd.attr.pair import Pair
from captum_kd.benchmark.pairs.held_out import Counts, HeldOut, held_out
from captum_kd.benchmark.pairs.training import MODELS, load_model
from captum_kd.datasets.demo_pair import load_demo_items, load_demo_models
from captum_kd.datasets.planted_cue import normalise
from captum_kd.models.architectures import default_layers

PairKind = Literal["technique", "mixed", "null"]


class PairNames(NamedTuple):
    """A pair, by the names of its models.

    Attributes:
        student: The model whose maps are the distilled ones.
        base: The model whose maps are the residual ones.
        kind: "technique": a student and its base model. "mixed": a student and a base model of another width
            or architecture. "null": two base models; nothing was distilled between them, but they can still
            differ in what they rely on.
    """

    student: str
    base: str
    kind: PairKind


PAIRS: dict[str, PairNames] = {
    "response": PairNames("student_response", "base_0", "technique"),
    "attention": PairNames("student_attention", "base_0", "technique"),
    "overhaul": PairNames("student_overhaul", "base_0", "technique"),
    "wider base": PairNames("student_response", "base_wide", "mixed"),
    "other architecture": PairNames("student_response", "base_regnet", "mixed"),
    "null": PairNames("base_1", "base_0", "null"),
    "null, wider": PairNames("base_wide", "base_0", "null"),
}


class TrainedPairs(NamedTuple):
    """The models of one geometry and seed, the pairs they form, and held-out images.

    Attributes:
        geometry: The name of the images' geometry.
        seed: The seed of training and images.
        models: The models by name, in evaluation mode.
        pairs: The pairs by name.
        images: Images that no model was trained on.
    """

    geometry: str
    seed: int
    models: dict[str, nn.Module]
    pairs: dict[str, PairNames]
    images: HeldOut

    def pair(self, name: str) -> Pair:
        """The pair of that name, with all its layers and the reference images."""
        student, base = self.models[self.pairs[name].student], self.models[self.pairs[name].base]
        reference = [normalise(self.images.reference.images)]
        return Pair.named(student, default_layers(student), base, default_layers(base), reference)


def trained_pairs(geometry: str, seed: int, folder: Path, items: Tensor, labels: Tensor) -> TrainedPairs:
    """Load the trained models of one geometry and seed, and draw images of held-out items.

    Args:
        geometry: One of :data:`~captum_kd.benchmark.pairs.geometries.GEOMETRIES`.
        seed: The seed of the training.
        folder: The folder with the trained models of this geometry and seed.
        items: Test items, uint8, ``(n, 28, 28)``.
        labels: The classes of the items, ``(n,)``.

    Raises:
        ValueError: A model is missing or cannot be read, or there are too few items.
    """
    models = {name: load_model(folder, name) for name in MODELS}
    return TrainedPairs(geometry, seed, models, PAIRS, held_out(geometry, seed, items, labels, Counts()))


def embedded_pairs() -> TrainedPairs:
    """The demo's embedded pair and items: small, but neither training nor a download is needed."""
    demo = load_demo_models()
    models: dict[str, nn.Module] = {
        "teacher": demo.teacher,
        "base_0": demo.base,
        "student_response": demo.student,
    }
    images = held_out("free", 0, *load_demo_items(), Counts(reference=64, scored=64, judged=192, fitted=192))
    return TrainedPairs("free", 0, models, {"response": PAIRS["response"]}, images)
