"""Truth is measured: networks that look at one thing alone are told apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_kd.benchmark.pairs.held_out import Counts, HeldOut, held_out
from captum_kd.benchmark.pairs.trained_pairs import PairNames
from captum_kd.benchmark.pairs.truth import MARGIN, ModelTruth, judge, pair_holds
from captum_kd.datasets.planted_cue import normalise
from tests.datasets.test_planted_cue import made_up_items, made_up_labels


class Oracle(nn.Module):
    """Answers from a table of images, and has four layers whose features are its answer."""

    def __init__(self, answers: dict[int, int]) -> None:
        super().__init__()
        self.answers = answers
        self.layer1, self.layer2, self.layer3, self.layer4 = (nn.Identity() for _ in range(4))

    def forward(self, images: Tensor) -> Tensor:
        classes = torch.tensor([self.answers.get(key(image), 0) for image in images])
        features = nn.functional.one_hot(classes, 10).float()[:, :, None, None]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
        return features[:, :, 0, 0]


def key(image: Tensor) -> int:
    return hash(image.numpy().tobytes())


@pytest.fixture(scope="module")
def images() -> HeldOut:
    return held_out("free", 0, made_up_items(260), made_up_labels(260), Counts(10, 10, 120, 120))


def oracle_of(images: HeldOut, what: str) -> Oracle:
    """Names the item (or the cue) wherever it is in the image, and class 0 where it is not."""
    seen = [images.judged, images.fitted, images.without_cue if what == "labels" else images.without_item]
    return Oracle(
        {
            key(image): int(k)
            for part in seen
            for image, k in zip(normalise(part.images), getattr(part, what), strict=True)
        }
    )


def test_who_follows_the_item_and_who_the_cue(images: HeldOut) -> None:
    item, cue = (
        judge("item", oracle_of(images, "labels"), images),
        judge("cue", oracle_of(images, "cues"), images),
    )
    assert item.accuracy == 1
    assert cue.cue_agreement == 1
    assert (item.changed_without_cue, cue.changed_without_item) == (0, 0)
    assert item.changed_without_item == (images.judged.labels != 0).double().mean().item()
    assert cue.changed_without_cue == (images.judged.cues != 0).double().mean().item()
    assert (item.led_by(), cue.led_by()) == ("item", "cue")
    assert item.samples == 120
    for probe in item.probes:
        assert probe.item == 1
        assert probe.cue < 0.35
    assert [probe.layer for probe in cue.probes] == ["layer1", "layer2", "layer3", "layer4"]
    assert all(probe.cue == 1 for probe in cue.probes)
    truths = {"item": item, "cue": cue}
    assert pair_holds(PairNames("item", "cue", "technique"), truths)
    assert not pair_holds(PairNames("cue", "item", "technique"), truths)
    assert not pair_holds(PairNames("item", "item", "mixed"), truths)
    assert pair_holds(PairNames("item", "item", "null"), truths)


@pytest.mark.parametrize(
    ("without_item", "without_cue", "holds"),
    [(0.6, 0.1 + MARGIN, True), (0.6, 0.1 + MARGIN / 2, False), (0.9, 0.5, False)],
)
def test_a_base_model_must_lean_on_the_cue_by_a_margin(
    without_item: float, without_cue: float, holds: bool
) -> None:
    truths = {
        "student": ModelTruth("student", 0.8, 0.1, 0.9, 0.1, 100, []),
        "base": ModelTruth("base", 0.5, 0.4, without_item, without_cue, 100, []),
    }
    assert pair_holds(PairNames("student", "base", "technique"), truths) is holds
