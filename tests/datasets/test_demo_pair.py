from __future__ import annotations

import hashlib
from importlib import resources

import pytest
import torch
from safetensors import safe_open

from captum_kd.datasets.demo_pair import (
    FASHION_MNIST_CLASSES,
    MODEL_WIDTHS,
    load_demo_images,
    load_demo_items,
    load_demo_models,
)
from captum_kd.datasets.planted_cue import normalise

ITEMS_FINGERPRINT = "e136662828bed502df61347b4a4d159f2773d09fa1074aef659343a6d5fa4e3b"
IMAGES_FINGERPRINT = "56dd37d7dccb6ff31bca097193540e0d28837d4891473d7c6dc004ead1f927c4"
DATA = resources.files("captum_kd.datasets") / "data"


@pytest.fixture(scope="module")
def models():
    return load_demo_models()


@pytest.fixture(scope="module")
def planted():
    return load_demo_images()


@pytest.fixture(scope="module")
def predictions(models, planted):
    images = normalise(planted.images)
    with torch.no_grad():
        return {name: getattr(models, name)(images).argmax(1) for name in MODEL_WIDTHS}


def fingerprint(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def share(hits: torch.Tensor) -> float:
    return hits.double().mean().item()


def test_fingerprints_of_items_and_images(planted):
    items, _ = load_demo_items()
    assert fingerprint(items) == ITEMS_FINGERPRINT
    assert fingerprint(planted.images) == IMAGES_FINGERPRINT


def test_items_are_balanced_and_mixed():
    items, labels = load_demo_items()
    assert items.shape == (512, 28, 28)
    assert set(labels.bincount(minlength=10).tolist()) == {51, 52}
    assert (labels[:100].bincount(minlength=10) > 2).all()
    assert len(items.flatten(1).unique(dim=0)) == 512
    assert len(FASHION_MNIST_CLASSES) == 10


def test_images_are_decorrelated_and_masks_disjoint(planted):
    assert planted.images.shape == (512, 3, 56, 56)
    assert share(planted.cues == planted.labels) == pytest.approx(0.1, abs=0.05)
    assert not (planted.item_masks & planted.cue_masks).any()
    assert (planted.item_masks.sum((1, 2)) > 40).all()
    assert (planted.cue_masks.sum((1, 2)) == 196).all()


def test_options_reach_the_drawing(planted):
    biased = load_demo_images(agreement=1.0)
    assert torch.equal(biased.cues, biased.labels)
    assert not torch.equal(load_demo_images(seed=1).images, planted.images)
    bare = load_demo_images(omit="cue")
    assert torch.equal(bare.cue_masks, planted.cue_masks)
    assert not torch.equal(bare.images, planted.images)
    with pytest.raises(ValueError, match="agreement is 2"):
        load_demo_images(agreement=2)


def test_models_are_ready_to_explain(models):
    for name, width in MODEL_WIDTHS.items():
        model = getattr(models, name)
        assert not any(module.training for module in model.modules())
        assert model.conv1.out_channels == width
        assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("name", MODEL_WIDTHS)
def test_recorded_numbers_are_found_again(models, planted, predictions, name):
    """On 512 of the 10,000 test items, drawn anew: within four standard errors."""
    recorded = models.tested[name]
    for key, truth in (("accuracy", planted.labels), ("cue_agreement", planted.cues)):
        expected = recorded[key]
        tolerance = 4 * (expected * (1 - expected) / 512) ** 0.5
        assert share(predictions[name] == truth) == pytest.approx(expected, abs=tolerance)


def test_student_reads_the_item_and_base_the_cue_as_well(planted, predictions):
    accuracy = {name: share(answer == planted.labels) for name, answer in predictions.items()}
    agreement = {name: share(answer == planted.cues) for name, answer in predictions.items()}
    assert accuracy["student"] > accuracy["base"] + 0.15
    assert agreement["student"] < 0.16  # chance is 0.1, its standard error 0.013
    assert agreement["base"] > agreement["student"] + 0.1


def test_leaving_out_the_cue_changes_the_base_alone(models, predictions):
    without = normalise(load_demo_images(omit="cue").images)
    with torch.no_grad():
        changed = {
            name: share(getattr(models, name)(without).argmax(1) != predictions[name])
            for name in MODEL_WIDTHS
        }
    assert changed["base"] > changed["student"] + 0.15


def test_files_are_small_and_say_what_they_are(models):
    sizes = {name: len((DATA / f"{name}.safetensors").read_bytes()) for name in MODEL_WIDTHS}
    assert sum(sizes.values()) < 6e6
    assert len((DATA / "fashion_mnist_test.safetensors").read_bytes()) < 2e6
    for name in MODEL_WIDTHS:
        with (
            resources.as_file(DATA / f"{name}.safetensors") as path,
            safe_open(path, "pt") as checkpoint,
        ):
            metadata = checkpoint.metadata()
        assert metadata["architecture"] == f"small_resnet{MODEL_WIDTHS[name]}"
