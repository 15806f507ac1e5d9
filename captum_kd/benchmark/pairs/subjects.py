"""What is judged: models by name, the pairs of them, and images that no model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.attr.pair import Pair
from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.benchmark.pairs.training import MODELS, load_model, words_seed
from captum_kd.datasets.demo_pair import load_demo_items, load_demo_models
from captum_kd.datasets.planted_cue import PlantedCues, normalise
from captum_kd.models.architectures import default_layers

PairKind = Literal["technique", "mixed", "null"]


class PairNames(NamedTuple):
    """A pair by the names of its models.

    Attributes:
        student: whose map is the distilled one.
        base: whose map is the residual one.
        kind: "technique": a student and its base model. "mixed": a base model of another width or
            architecture. "null": two base models, between which nothing was distilled. They may still differ
            in what they rely on.
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


class Counts(NamedTuple):
    """How many held-out images serve for what; no item serves twice."""

    reference: int = 128
    scored: int = 256
    judged: int = 1024
    fitted: int = 1024


class HeldOut(NamedTuple):
    """Decorrelated images: their cues say nothing of the labels.

    Attributes:
        reference: what UniCAM takes distances to.
        scored: whose maps are scored.
        judged: on which the truth about models is checked.
        without_item: the judged images without their items.
        without_cue: the judged images without their cues.
        fitted: on which linear probes are fitted.
    """

    reference: PlantedCues
    scored: PlantedCues
    judged: PlantedCues
    without_item: PlantedCues
    without_cue: PlantedCues
    fitted: PlantedCues


class Subject(NamedTuple):
    """One geometry and seed: its models in evaluation mode, the pairs of them, and its images."""

    geometry: str
    seed: int
    models: dict[str, nn.Module]
    pairs: dict[str, PairNames]
    images: HeldOut

    def pair(self, name: str) -> Pair:
        """A pair with all its layers and the reference."""
        student, base = self.models[self.pairs[name].student], self.models[self.pairs[name].base]
        reference = [normalise(self.images.reference.images)]
        return Pair.named(student, default_layers(student), base, default_layers(base), reference)


def trained_subject(geometry: str, seed: int, folder: Path, items: Tensor, labels: Tensor) -> Subject:
    """The trained models of one geometry and seed, and images of held-out items.

    Args:
        geometry: One of :data:`GEOMETRIES`.
        seed: As in training.
        folder: Of the trained models of this geometry and seed.
        items: Test items, uint8, ``(n, 28, 28)``.
        labels: Their classes, ``(n,)``.

    Raises:
        ValueError: A model is missing or cannot be read, or there are too few items.
    """
    models = {name: load_model(folder, name) for name in MODELS}
    return Subject(geometry, seed, models, PAIRS, held_out(geometry, seed, items, labels, Counts()))


def embedded_subject() -> Subject:
    """The demo's embedded models and items: small, but neither training nor a download is needed."""
    demo = load_demo_models()
    models: dict[str, nn.Module] = {
        "teacher": demo.teacher,
        "base_0": demo.base,
        "student_response": demo.student,
    }
    images = held_out("free", 0, *load_demo_items(), Counts(reference=64, scored=64, judged=192, fitted=192))
    return Subject("free", 0, models, {"response": PAIRS["response"]}, images)


def held_out(geometry: str, seed: int, items: Tensor, labels: Tensor, counts: Counts) -> HeldOut:
    """Decorrelated images of items in a seeded random order, each item for one purpose.

    Raises:
        ValueError: There are too few items.

    Example:
        >>> items, labels = torch.full((40, 28, 28), 200, dtype=torch.uint8), torch.arange(40) % 10
        >>> held_out("grid", 0, items, labels, Counts(10, 10, 10, 10)).scored.images.shape
        torch.Size([10, 3, 56, 56])
    """
    if len(items) < sum(counts):
        raise ValueError(f"{sum(counts)} held-out items are needed, got {len(items)}.")
    seeds = {name: words_seed(geometry, seed, "held out", name) for name in ("order", *Counts._fields)}
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seeds["order"]))
    chosen = dict(zip(Counts._fields, order[: sum(counts)].split(list(counts)), strict=True))

    def draw(purpose: str, omit: str | None = None) -> PlantedCues:
        of = chosen[purpose]
        return GEOMETRIES[geometry](items[of], labels[of], agreement=0.0, omit=omit, seed=seeds[purpose])

    return HeldOut(
        draw("reference"),
        draw("scored"),
        draw("judged"),
        draw("judged", "item"),
        draw("judged", "cue"),
        draw("fitted"),
    )
