"""Methods on a pair: random maps find nothing, perfect masks everything, and rows say so."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from captum_kd.attr.methods import UNIQUE_SIDES, MapMethod, Pair, TwoMaps, upsample
from captum_kd.benchmark.localization import parts
from captum_kd.benchmark.localization.localize import LocalizationRow, localize
from captum_kd.benchmark.localization.methods import LOCALIZATION_METHODS, SIGNED
from captum_kd.benchmark.localization.page import probe_table
from captum_kd.benchmark.pairs.held_out import Counts, held_out
from captum_kd.benchmark.pairs.trained_pairs import PAIRS, TrainedPairs
from captum_kd.benchmark.pairs.training import MODELS
from captum_kd.datasets.planted_cue import normalise
from captum_kd.metrics.localization import (
    CEILING,
    RANDOM,
    perfect_maps,
    random_maps,
    ranking_auc,
    separation,
)
from captum_kd.models.architectures import build_classifier
from captum_kd.models.small import small_resnet
from tests.datasets.test_planted_cue import made_up_items, made_up_labels

COUNTS = Counts(reference=8, scored=12, judged=4, fitted=4)


def pairs_of(geometry: str) -> TrainedPairs:
    torch.manual_seed(0)
    models = {"student_response": small_resnet(4).eval(), "base_0": small_resnet(4).eval()}
    images = held_out(geometry, 0, made_up_items(40), made_up_labels(40), COUNTS)
    return TrainedPairs(geometry, 0, models, {"response": PAIRS["response"]}, images)


def one(rows: list[LocalizationRow], **wanted: str) -> LocalizationRow:
    (row,) = [r for r in rows if all(getattr(r, name) == value for name, value in wanted.items())]
    return row


@pytest.fixture(scope="module")
def rows() -> list[LocalizationRow]:
    return localize(pairs_of("grid"), LOCALIZATION_METHODS)


def test_a_row_for_every_method_layer_and_measure(rows: list[LocalizationRow]) -> None:
    methods = list(dict.fromkeys(row.method for row in rows))
    assert methods == [RANDOM, *LOCALIZATION_METHODS, CEILING]
    assert len(rows) == len(methods) * 4 * 3
    assert {row.samples for row in rows} == {12}
    for row in rows:
        assert row.low <= row.separation <= row.high
        assert len(row.parts) == 4


def test_floor_and_ceiling(rows: list[LocalizationRow]) -> None:
    for layer in ("layer1", "layer4"):
        noise = one(rows, method=RANDOM, layer=layer, measure="auc")
        assert abs(noise.separation) < 0.15
        best = one(rows, method=CEILING, layer=layer, measure="energy")
        assert best.separation == 1
        assert best.parts["distilled on item"] == best.parts["residual on cue"] == 1


def test_a_tint_scores_the_item_alone() -> None:
    found = localize(pairs_of("tint"), {"Grad-CAM": LOCALIZATION_METHODS["Grad-CAM"]})
    assert all(len(row.parts) == 2 for row in found)
    best = one(found, method=CEILING, layer="layer1", measure="auc")
    assert (best.parts["distilled on item"], best.parts["residual on item"]) == (1, 0.5)
    assert best.separation == 0.5


@pytest.mark.parametrize("base", ["base_wide", "base_regnet"])
def test_models_of_other_widths_and_architectures_are_compared(base: str) -> None:
    """Also where names and channels of the layers differ; rows have the student's names."""
    torch.manual_seed(0)
    models = {
        name: build_classifier(MODELS[name].architecture, 10).eval()
        for name in ("student_response", "base_0", base)
    }
    pairs = {name: pair for name, pair in PAIRS.items() if {pair.student, pair.base} <= set(models)}
    assert {pair.kind for pair in pairs.values()} >= {"technique", "mixed"}
    images = held_out("free", 0, made_up_items(60), made_up_labels(60), Counts(8, 4, 20, 20))
    part = parts.measure(
        TrainedPairs("free", 0, models, pairs, images), LOCALIZATION_METHODS, lambda line: None
    )
    for name in pairs:
        rows = [row for row in part.rows if row.pair == name]
        assert {row.layer for row in rows} == {"layer1", "layer2", "layer3", "layer4"}
        assert all(math.isfinite(row.separation) for row in rows)
        # Fresh networks differ everywhere, so maps of their difference are not empty.
        assert all(row.zero_distilled == row.zero_residual == 0 for row in rows if "signed" in row.method)
    table = probe_table([part])
    assert table.heads == ["model", "stage 1", "stage 2", "stage 3", "stage 4"]
    assert [len(cells) for _, cells in table.rows] == [4, 4, 4]


def test_a_method_of_ones_own() -> None:
    """A method gets the scored images and true labels; what it returns is scored as it is."""
    given = pairs_of("free")
    scored = given.images.scored

    def swapped(pair: Pair, images: Tensor, labels: Tensor) -> list[TwoMaps]:
        assert len(pair.student.layers) == len(pair.base.layers) == 4
        assert torch.equal(labels, scored.labels)
        return [(scored.cue_masks[:, None].float(), scored.item_masks[:, None].float())] * 4

    found = localize(given, {"swapped": MapMethod(UNIQUE_SIDES, swapped)})
    for measure in ("auc", "energy", "pointing"):
        ours = one(found, method="swapped", layer="layer2", measure=measure)
        best = one(found, method=CEILING, layer="layer2", measure=measure)
        assert ours.separation == -best.separation


def test_a_row_by_hand() -> None:
    given = pairs_of("free")
    item, cue = given.images.scored.item_masks, given.images.scored.cue_masks
    both = random_maps([(torch.zeros(12, 1, 7, 7),) * 2])[0]
    both[0][:3] = 0
    maps = [upsample(m, (56, 56)) for m in both]
    values = separation(*[ranking_auc(m, mask) for mask in (item, cue) for m in maps])
    found = localize(given, {"mine": MapMethod(UNIQUE_SIDES, lambda pair, images, labels: [both] * 4)})
    row = one(found, method="mine", layer="layer3", measure="auc")
    assert (row.geometry, row.seed, row.pair, row.samples) == ("free", 0, "response", 12)
    assert row.separation == pytest.approx(values.mean().item())
    assert row.high - row.separation == pytest.approx(1.96 * values.std().item() / 12**0.5)
    assert (row.zero_distilled, row.zero_residual) == (0.25, 0)


def test_random_maps_have_the_shapes_of_others_and_a_seed() -> None:
    like = [(torch.zeros(2, 1, 7, 7), torch.zeros(2, 1, 4, 4))]
    (one_map, other), (again, _) = random_maps(like, 1)[0], random_maps(like, 1)[0]
    assert one_map.shape == (2, 1, 7, 7)
    assert other.shape == (2, 1, 4, 4)
    assert torch.equal(one_map, again)
    assert not torch.equal(one_map, random_maps(like, 2)[0][0])


def test_perfect_maps_without_a_place_of_the_cue_are_flat() -> None:
    item = torch.eye(4).bool()[None]
    ours, theirs = perfect_maps(item, None, 2)[1]
    assert torch.equal(ours[:, 0].bool(), item)
    assert theirs.min() == theirs.max() == 1


def test_maps_are_what_is_above_zero_in_signed_maps() -> None:
    """Each is made once; the identity that allows it holds for every method with a signed form."""
    made_up = pairs_of("free")
    pair = made_up.pair("response")
    images = normalise(made_up.images.scored.images[:4])
    labels = made_up.images.scored.labels[:4]
    forms = [name for name in LOCALIZATION_METHODS if f"{name}{SIGNED}" in LOCALIZATION_METHODS]
    assert len(forms) == 4
    for name in forms:
        plain, signed = (
            LOCALIZATION_METHODS[title].maps(pair, images, labels) for title in (name, f"{name}{SIGNED}")
        )
        for maps, both in zip(plain, signed, strict=True):
            for side in range(2):
                torch.testing.assert_close(maps[side], both[side].relu())
