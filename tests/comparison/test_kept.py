"""Features of what maps keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.attr.pair import Pair
from captum_kd.comparison import kept
from captum_kd.comparison.features import layer_features
from captum_kd.comparison.kept import KeptFeatures
from captum_kd.functional.perturbation import road
from captum_kd.metrics import score_with_statistics
from tests.comparison.quick import LAYERS, REFERENCE, batches, pooled, quick
from tests.networks import classes, images, pair

WHOSE = {"distilled": "student", "residual": "base"}


def test_relevance_of_what_maps_keep() -> None:
    student, base = pair()
    found = quick(student, base, batches(24, 24), kept_share=0.2)
    layers = [student.get_submodule(name) for name in LAYERS]
    # Predictions are mostly the labels, so maps that are to be scored must not know them.
    unicam = UniCAM.recommended(student, layers, base, reference=REFERENCE, class_evidence=False)
    both = unicam.attribute_all(images(24), relu_attributions=False)
    rows = nn.functional.one_hot(classes(24)).float()
    generator = torch.Generator().manual_seed(0)
    for model, side in ((student, "distilled"), (base, "residual")):
        for i, layer in enumerate(LAYERS):
            kept = road(images(24), getattr(both, side)[i], share=0.2, generator=generator)
            expected = score_with_statistics(pooled(model, layer, kept), rows, permutations=1)
            got = found.score(f"RS kept by {side} maps", layer)
            assert got.value == pytest.approx(expected.value, abs=1e-5)
            assert got.value != pytest.approx(found.score(f"RS {WHOSE[side]}", layer).value, abs=1e-4)
            other = "student" if side == "distilled" else "base"
            random = found.score(f"RS kept by random maps, {other}", layer)
            assert (random.samples, random.value == got.value) == (24, False)


class Strided(nn.Module):
    """A network whose layer shrinks images by different factors in height and in width."""

    def __init__(self, stride: tuple[int, int], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 5, 3, padding=1, stride=stride)
        self.head = nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs).tanh().mean((2, 3)))


@pytest.mark.parametrize(("stride", "size"), [((7, 4), (4, 7)), ((7, 1), (4, 28)), ((1, 7), (28, 4))])
def test_maps_that_differ_from_the_images_in_height_or_width_are_resized_in_both(
    stride: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    student, base = Strided(stride, 1), Strided(stride, 2)
    compared = Pair.named(student, ["layer"], base, reference=inputs.flip(0) + 1)
    given: list[tuple[Tensor, Tensor]] = []

    def recorded(images: Tensor, maps: Tensor, **options: Any) -> Tensor:
        given.append((maps, road(images, maps, **options)))
        return given[-1][1]

    monkeypatch.setattr(kept, "road", recorded)
    features = KeptFeatures({"mine": compared}, pool=1, share=0.25, seed=0)(inputs)
    assert len(features) == 4
    assert len(given) == 3  # random maps are made once
    for maps, reduced in given:
        assert maps.shape == (8, 1, *size)
        resized = nn.functional.interpolate(maps.double(), (28, 28), mode="bilinear").float()[:, 0]
        unchanged = (reduced == inputs).all(dim=1)
        assert unchanged.flatten(1).sum(1).tolist() == [round(0.25 * 28 * 28)] * 8
        lowest_kept = resized.masked_fill(~unchanged, torch.inf).flatten(1).amin(1)
        highest_lost = resized.masked_fill(unchanged, -torch.inf).flatten(1).amax(1)
        assert (lowest_kept >= highest_lost).all()
    expected = layer_features(compared.student, given[1][1], 1)[0][0]
    assert torch.equal(features["mine", "distilled maps", 0], expected)
