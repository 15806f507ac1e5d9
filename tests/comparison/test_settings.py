"""Settings: frozen, written and read, and said in the report."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch

from captum_kd.comparison.settings import Settings, describe_embeddings
from captum_kd.labels import LabelEmbeddings

SETTINGS = Settings(
    students=("one", "two"),
    layers=("layer3", "layer4"),
    teacher=True,
    samples=80,
    left_out=3,
    reference=20,
    reference_source="given",
    class_names=("cat", "dog"),
    confidence=0.9,
    permutations=99,
    pool=2,
    kept_share=0.25,
    seed=7,
    reshape_transform="tokens_to_image",
    versions={"torch": "2.6", "captum": "0.9"},
    decisions={"mine": "features of layer4"},
    positions=(4, 6),
    data="photos",
    notes=("A note.",),
    image_names=("a.png",),
    skipped=({"file": "b.png", "reason": "truncated"},),
)


def test_they_cannot_be_changed_but_replaced() -> None:
    with pytest.raises(FrozenInstanceError):
        SETTINGS.seed = 1  # type: ignore[misc]
    assert replace(SETTINGS, seed=1) != SETTINGS
    assert replace(SETTINGS, seed=1).seed == 1


def test_json_holds_all_of_them() -> None:
    assert Settings.from_json(json.loads(json.dumps(asdict(SETTINGS)))) == SETTINGS
    with pytest.raises(TypeError, match="sead"):
        Settings.from_json({**asdict(SETTINGS), "sead": 1})


def test_provenance_says_what_decides_the_result() -> None:
    lines = SETTINGS.provenance(shown=3)
    assert lines == [
        ("Data", "photos"),
        ("Images scored", "80"),
        ("Images left out", "3, identical to earlier ones or to ones of the reference"),
        ("Images shown", "3, the first ones; nothing was chosen"),
        ("Reference", "20 images that UniCAM takes distances to (given)"),
        ("Features", "activations averaged on a 2 × 2 grid"),
        ("Reshape transform", "tokens_to_image"),
        ("Label embeddings", "one-hot"),
        ("Estimators", "FSS biased, as in the paper; everything else bias-corrected"),
        ("Intervals", "90 %, from leaving out images"),
        ("Null", "99 permutations of the samples"),
        ("Kept share", "0.25 of the pixels, the others imputed (ROAD)"),
        ("Teacher", "compared with both"),
        ("Seed", "7"),
        ("mine", "features of layer4"),
        ("Versions", "torch 2.6, captum 0.9"),
    ]


def test_provenance_leaves_out_what_does_not_apply() -> None:
    lines = dict(Settings(students=("one",), layers=("layer4",), samples=9).provenance(shown=0))
    assert lines["Features"] == "activations averaged over all positions"
    assert lines["Seed"] == "0"
    absent = {"Data", "Images shown", "Reference", "Reshape transform", "Kept share", "Teacher", "Versions"}
    assert not absent & set(lines)


def test_names_that_are_not_known() -> None:
    assert [SETTINGS.class_name(i) for i in range(3)] == ["cat", "dog", "class 2"]
    assert [SETTINGS.image_name(i) for i in range(2)] == ["a.png", ""]


def test_embeddings_are_described() -> None:
    named = LabelEmbeddings(torch.eye(2), ("a", "b"), "a-model", "mean")
    given = [None, named, torch.zeros(2, 3)]
    assert [describe_embeddings(one) for one in given] == ["one-hot", "a-model", "given, 2 x 3"]


def test_their_text_is_short() -> None:
    assert "truncated" not in repr(SETTINGS)
    assert "layer4" in repr(SETTINGS)
