from __future__ import annotations

import hashlib

import pytest
import scipy.stats
import torch

from captum_kd.datasets.planted_cue import cue_textures, normalise, plant_cues


def made_up_items(n: int) -> torch.Tensor:
    """Discs of different sizes and grey levels, all within the 28 x 28 box."""
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    radius = 5 + torch.arange(n) % 9
    disc = (y - 14) ** 2 + (x - 14) ** 2 < radius[:, None, None] ** 2
    grey = 30 + 5 * (torch.arange(n) % 45)
    return (disc * grey[:, None, None]).to(torch.uint8)


def made_up_labels(n: int) -> torch.Tensor:
    return torch.arange(n) * 7 % 10


@pytest.fixture(scope="module")
def planted():
    return plant_cues(made_up_items(600), made_up_labels(600), agreement=0.0, seed=1)


def bounding_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Top, left, bottom and right (inclusive) of each mask, (n, 4)."""
    rows, columns = masks.any(2).int(), masks.any(1).int()
    last = masks.shape[1] - 1
    top, left = rows.argmax(1), columns.argmax(1)
    bottom, right = last - rows.flip(1).argmax(1), last - columns.flip(1).argmax(1)
    return torch.stack((top, left, bottom, right), dim=1)


def test_masks_are_disjoint_and_of_the_right_size(planted):
    items = made_up_items(600)
    assert not (planted.item_masks & planted.cue_masks).any()
    torch.testing.assert_close(planted.item_masks.sum((1, 2)), (items > 20).sum((1, 2)))
    assert (planted.cue_masks.sum((1, 2)) == 14 * 14).all()
    top, left, bottom, right = bounding_boxes(planted.cue_masks).unbind(1)
    assert (bottom - top == 13).all()
    assert (right - left == 13).all()


def test_item_mask_is_the_item_shifted(planted):
    items = made_up_items(600) > 20
    for item, mask in zip(items[:50], planted.item_masks[:50], strict=True):
        top, left, bottom, right = bounding_boxes(mask[None])[0].tolist()
        a, b, c, d = bounding_boxes(item[None])[0].tolist()
        torch.testing.assert_close(mask[top : bottom + 1, left : right + 1], item[a : c + 1, b : d + 1])


def test_cue_shows_the_texture_of_its_class(planted):
    textures = cue_textures()
    for index in range(60):
        top, left, bottom, right = bounding_boxes(planted.cue_masks[index][None])[0].tolist()
        patch = planted.images[index, :, top : bottom + 1, left : right + 1].float()
        texture = textures[planted.cues[index]]
        light, dark = patch[:, texture], patch[:, ~texture]
        # Two flat colours, each blurred only by the grain of +-10 (and by clipping).
        for part in (light, dark):
            assert (part.amax(1) - part.amin(1)).max() <= 20
        assert light.mean() - dark.mean() > 30


def test_placement_is_free_and_covers_the_canvas(planted):
    cue = bounding_boxes(planted.cue_masks)
    assert cue[:, :2].amin() == 0
    assert cue[:, 2:].amax() == 55
    assert len(cue[:, 0].unique()) == len(cue[:, 1].unique()) == 56 - 14 + 1
    top_left = bounding_boxes(planted.item_masks)[::9]  # discs of one size: the box's place
    assert len(top_left[:, 0].unique()) > 20


def test_canvas_with_the_least_room_still_works():
    planted = plant_cues(made_up_items(500), made_up_labels(500), agreement=0.5, canvas=55)
    assert planted.images.shape == (500, 3, 55, 55)
    assert not (planted.item_masks & planted.cue_masks).any()
    assert (planted.cue_masks.sum((1, 2)) == 196).all()


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.95, 1.0])
def test_agreement_is_the_documented_probability(agreement):
    n = 2000
    planted = plant_cues(made_up_items(n), made_up_labels(n), agreement=agreement, seed=5)
    expected = agreement + (1 - agreement) / 10
    tolerance = 4 * (expected * (1 - expected) / n) ** 0.5
    share = (planted.cues == planted.labels).double().mean().item()
    assert share == pytest.approx(expected, abs=tolerance + 1e-12)


def test_without_agreement_cues_are_uniform_within_every_label():
    n = 2000
    planted = plant_cues(made_up_items(n), made_up_labels(n), agreement=0.0, seed=2)
    table = torch.zeros(10, 10).index_put_((planted.labels, planted.cues), torch.ones(n), accumulate=True)
    assert scipy.stats.chisquare(table.flatten()).pvalue > 1e-3


def test_a_seed_decides_every_byte():
    items, labels = made_up_items(30), made_up_labels(30)
    first = plant_cues(items, labels, agreement=0.5, seed=7)
    torch.manual_seed(123)  # the global generator plays no part
    again = plant_cues(items, labels, agreement=0.5, seed=7)
    other = plant_cues(items, labels, agreement=0.5, seed=8)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.images, other.images)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    plant_cues(made_up_items(3), made_up_labels(3), agreement=0.5)
    assert torch.equal(state, torch.get_rng_state())


def test_fingerprint_of_the_images():
    planted = plant_cues(made_up_items(40), made_up_labels(40), agreement=0.5, seed=11)
    digest = hashlib.sha256(planted.images.numpy().tobytes()).hexdigest()
    assert digest == "c7aafd56a57363dddb1b34639c245b807b7fac73580e177cb6839a4a709fafeb"


@pytest.mark.parametrize("omit", ["item", "cue"])
def test_omit_changes_the_omitted_thing_alone(planted, omit):
    without = plant_cues(made_up_items(600), made_up_labels(600), agreement=0.0, seed=1, omit=omit)
    for one, two in zip(planted[1:], without[1:], strict=True):
        assert torch.equal(one, two)
    mask = planted.item_masks if omit == "item" else planted.cue_masks
    changed = (planted.images != without.images).any(1)
    assert not (changed & ~mask).any()
    assert changed[mask].double().mean() > 0.95


def test_textures_are_far_apart():
    textures = cue_textures().flatten(1).float()
    difference = torch.cdist(textures, textures, p=1)[~torch.eye(10, dtype=torch.bool)]
    assert difference.min() >= 36  # of 196 pixels


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(normalise(images), torch.tensor([-1.5, -0.5, 3.5]))
    with pytest.raises(TypeError, match=r"dtype torch\.float32.*torch\.uint8"):
        normalise(normalise(images))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"items": torch.zeros(4, 28, 28)}, TypeError, r"items have dtype torch\.float32.*uint8"),
        (
            {"items": torch.zeros(4, 1, 28, 28, dtype=torch.uint8)},
            ValueError,
            r"items have shape \(4, 1, 28, 28\); \(n, 28, 28\)",
        ),
        ({"items": torch.zeros(4, 32, 32, dtype=torch.uint8)}, ValueError, r"\(4, 32, 32\)"),
        ({"items": torch.zeros(0, 28, 28, dtype=torch.uint8)}, ValueError, "n >= 1"),
        ({"labels": torch.zeros(4)}, TypeError, r"labels have dtype torch\.float32"),
        ({"labels": torch.ones(4, dtype=torch.bool)}, TypeError, r"torch\.bool"),
        ({"labels": torch.arange(3)}, ValueError, r"labels have shape \(3,\).*4 items"),
        ({"labels": torch.tensor([0, 1, 10, 2])}, ValueError, "from 0 to 10; 0 to 9 needed"),
        ({"labels": torch.tensor([0, -1, 1, 2])}, ValueError, "from -1 to 2; 0 to 9 needed"),
        ({"agreement": 1.5}, ValueError, r"agreement is 1\.5"),
        ({"agreement": float("nan")}, ValueError, "agreement is nan"),
        ({"canvas": 54}, ValueError, "canvas is 54 pixels; at least 55"),
        ({"omit": "clutter"}, ValueError, 'omit is \'clutter\'; "item", "cue" or None'),
    ],
)
def test_bad_input(change, error, message):
    arguments = {
        "items": made_up_items(4),
        "labels": made_up_labels(4),
        "agreement": 0.5,
    } | change
    with pytest.raises(error, match=message):
        plant_cues(arguments.pop("items"), arguments.pop("labels"), **arguments)
