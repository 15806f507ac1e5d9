"""Every geometry shows what its masks say, and its cues say nothing where they should not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from captum_kd.benchmark.pairs.geometries import CUE_SIZES, GEOMETRIES, ITEM_SIZES
from captum_kd.datasets.planted_cue import PlantedCues, cue_textures
from tests.datasets.test_planted_cue import bounding_boxes, made_up_items, made_up_labels

COUNT = 300
PLACED = [name for name in GEOMETRIES if name != "tint"]


def draw(name: str, **options) -> PlantedCues:
    return GEOMETRIES[name](
        made_up_items(COUNT), made_up_labels(COUNT), **{"agreement": 0.0, "seed": 1, **options}
    )


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def planted(name: str) -> PlantedCues:
    return draw(name)


def test_masks_are_disjoint_and_every_item_is_seen(planted: PlantedCues) -> None:
    assert not (planted.item_masks & planted.cue_masks).any()
    assert planted.item_masks.flatten(1).any(1).all()
    assert planted.images.dtype == torch.uint8
    assert planted.item_masks.shape == planted.images[:, 0].shape


def test_every_cue_has_a_place_unless_it_is_a_tint(name: str, planted: PlantedCues) -> None:
    seen = planted.cue_masks.flatten(1).any(1)
    assert not seen.any() if name == "tint" else seen.all()


def test_what_is_left_out_is_gone_and_nothing_else(name: str, planted: PlantedCues) -> None:
    for omit, mask in (("item", planted.item_masks), ("cue", planted.cue_masks)):
        without = draw(name, omit=omit)
        for one, two in zip(planted[1:], without[1:], strict=True):
            assert torch.equal(one, two)
        changed = (planted.images != without.images).any(1)
        if name == "tint" and omit == "cue":
            assert changed.double().mean() > 0.8  # everywhere
        else:
            assert not (changed & ~mask).any()
            assert changed[mask].double().mean() > 0.9


def test_agreement_is_as_documented(name: str) -> None:
    for agreement in (0.0, 1.0):
        planted = draw(name, agreement=agreement)
        expected = agreement + (1 - agreement) / 10
        share = (planted.cues == planted.labels).double().mean().item()
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / COUNT) ** 0.5)


def test_a_seed_decides_every_byte(name: str, planted: PlantedCues) -> None:
    assert all(torch.equal(one, two) for one, two in zip(planted, draw(name), strict=True))
    assert not torch.equal(planted.images, draw(name, seed=2).images)


def test_cues_can_be_read_but_say_nothing_of_the_label(name: str, planted: PlantedCues) -> None:
    """A linear classifier of what the cue shows names the cue, and names the label by chance."""
    shown = appearance(planted)
    half = COUNT // 2
    accuracy = {}
    for word, classes in (("cue", planted.cues), ("label", planted.labels)):
        probe = LogisticRegression(max_iter=2000).fit(shown[:half], classes[:half])
        accuracy[word] = probe.score(shown[half:], classes[half:])
    assert accuracy["cue"] > 0.8
    assert accuracy["label"] < 0.2


def appearance(planted: PlantedCues) -> torch.Tensor:
    """How well each texture fits the image where it fits best, (n, 10); for a tint the mean colour."""
    if not planted.cue_masks.any():
        return planted.images.double().mean((2, 3)) / 20
    grey = planted.images.double().mean(1, keepdim=True)
    if planted.images.shape[-1] == 56:
        return fit(grey, 14)
    top, _, bottom, _ = bounding_boxes(planted.cue_masks).unbind(1)
    found = torch.zeros(len(grey), 10, dtype=torch.float64)
    for size in (bottom - top + 1).unique().tolist():
        same = bottom - top + 1 == size
        found[same] = fit(grey[same], size)
    return found


def fit(grey: torch.Tensor, size: int) -> torch.Tensor:
    """The largest correlation of each texture with any window of its size, times ten."""
    textures = cue_textures(size).double()
    textures = textures - textures.mean((1, 2), keepdim=True)
    textures = textures / textures.flatten(1).norm(dim=1)[:, None, None]
    match = F.conv2d(grey, textures[:, None])
    mean, square = (F.avg_pool2d(grey**power, size, stride=1) for power in (1, 2))
    norm = size * (square - mean**2).clamp_min(1).sqrt()
    return 10 * (match / norm).abs().amax((2, 3))


def test_grid_puts_item_and_cue_into_cells_of_their_own() -> None:
    planted = draw("grid")
    cells = [
        mask.unflatten(1, (2, 28)).unflatten(3, (2, 28)).any((2, 4)).flatten(1)
        for mask in (planted.item_masks, planted.cue_masks)
    ]
    assert all((cell.sum(1) == 1).all() for cell in cells)
    assert not (cells[0] & cells[1]).any()
    for cell in cells:
        assert (cell.sum(0) > COUNT / 8).all()  # every cell is used


def test_sizes_cover_their_ranges() -> None:
    planted = draw("sizes")
    top, left, bottom, right = bounding_boxes(planted.cue_masks).unbind(1)
    size = bottom - top + 1
    assert torch.equal(size, right - left + 1)
    assert (size.min(), size.max()) == CUE_SIZES
    # Discs of radius 5 to 13 in a box of 28 pixels.
    area = planted.item_masks.sum((1, 2)).double()
    whole = (made_up_items(COUNT) > 20).sum((1, 2)).double()
    factor = (area / whole).sqrt() * 28
    assert factor.min() == pytest.approx(ITEM_SIZES[0], abs=2.5)
    assert factor.max() == pytest.approx(ITEM_SIZES[1], abs=2.5)


def test_clutter_hides_at_most_half() -> None:
    planted = draw("clutter")
    whole = (made_up_items(COUNT) > 20).sum((1, 2))
    seen = planted.item_masks.sum((1, 2))
    assert (2 * seen >= whole).all()
    assert (seen < whole).double().mean() > 0.5
    cue = planted.cue_masks.sum((1, 2))
    assert (2 * cue >= 196).all()
    assert (cue < 196).double().mean() > 0.5


def test_two_cues_are_two() -> None:
    planted = draw("two-cues")
    assert (planted.cue_masks.sum((1, 2)) == 14**2 + 10**2).all()


@pytest.mark.parametrize("name", PLACED)
def test_places_do_not_give_the_cue_away(name: str) -> None:
    planted = draw(name)
    for masks in (planted.item_masks, planted.cue_masks):
        centre = torch.stack((masks.any(2).int().argmax(1), masks.any(1).int().argmax(1)), 1).double()
        means = torch.stack([centre[planted.cues == k].mean(0) for k in range(10)])
        assert ((means - centre.mean(0)).abs() < 4.5 * centre.std(0) / (COUNT / 10) ** 0.5).all()


def test_bad_input_is_refused_everywhere(name: str) -> None:
    with pytest.raises(ValueError, match=r"agreement is 1\.5"):
        draw(name, agreement=1.5)
    with pytest.raises(ValueError, match="omit is 'clutter'"):
        draw(name, omit="clutter")
