"""What a recipe accepts, and the models that it lists."""

from __future__ import annotations

from typing import Any

import pytest

from captum_kd.distill.recipe import Recipe, stages

NAN, INF = float("nan"), float("inf")
ATTENTION: dict[str, Any] = {"techniques": ("attention",)}


def test_a_chain_of_assistants_is_taught_in_turn() -> None:
    recipe = Recipe("x", "resnet101", "resnet18", assistants=("resnet50", "resnet34"), folds=1)
    assert [(s.name, s.architecture, s.taught_by) for s in stages(recipe)] == [
        ("teacher", "resnet101", None),
        ("base", "resnet18", None),
        ("assistant1-response", "resnet50", "teacher"),
        ("assistant2-response", "resnet34", "assistant1-response"),
        ("student-response", "resnet18", "assistant2-response"),
    ]


def test_every_technique_has_a_student_and_assistants_of_its_own() -> None:
    recipe = Recipe("x", "resnet50", "resnet18", ("response", "overhaul"), ("resnet34",), folds=2)
    one_fold = ["teacher", "base"]
    for technique in ("response", "overhaul"):
        one_fold += [f"assistant1-{technique}", f"student-{technique}"]
    assert [(s.fold, s.name) for s in stages(recipe)] == [(f, n) for f in (1, 2) for n in one_fold]
    assert {s.technique for s in stages(recipe)} == {None, "response", "overhaul"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"techniques": ("magic",)}, r"technique must be one of \('response', .*got 'magic'"),
        ({"techniques": ()}, r"techniques must name each technique once, got \(\)"),
        ({"techniques": ("response", "response")}, "techniques must name each technique once"),
        ({"weights": {"overhaul": 1.0}}, r"weights are given for \['overhaul'\], which this recipe does not"),
        ({"folds": 0}, "folds must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be at least 0 and below 4.29497e\+09, got -1 \(--seed\)"),
        ({"limit": 1}, r"limit must be at least 2, got 1 \(--limit\)"),
        ({"image_size": 0}, r"image_size must be at least 1, got 0 \(--image-size\)"),
        ({"temperature": 0.0}, r"temperature must be above 0 and finite, got 0.0 \(--temperature\)"),
        ({"temperature": NAN}, "temperature must be above 0 and finite, got nan"),
        ({"temperature": INF}, "temperature must be above 0 and finite, got inf"),
        ({"weights": {"response": NAN}}, r"weight must be .*\(response\), got nan \(--weight\)"),
        (
            {"weights": {"response": 1.5}},
            r"response: weight must be from 0 .*got 1.5. \(--weight\)",
        ),
        (
            ATTENTION | {"weights": {"attention": -1}},
            r"weight must be .* finite \(attention\), got -1",
        ),
        (ATTENTION | {"weights": {"attention": INF}}, "weight must be at least 0 and finite .*got inf"),
        (ATTENTION | {"temperature": 4.0}, "temperature is given, but no student .* trained by response"),
        ({"layers": ("layer1", "layer1")}, r"layers must name each pair once, got .*\(--layers"),
        ({"teacher_layers": ("layer1", "layer1")}, "layers must name each pair once"),
        ({"layers": ("a", "b"), "teacher_layers": ("a",)}, "layers and teacher_layers must pair up"),
    ],
)
def test_bad_recipes(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe("x", "resnet50", "resnet18", **option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"folds": 2.0}, "folds must be an integer, got 2.0"),
        ({"seed": True}, "seed must be an integer, got True"),
        ({"temperature": "4"}, "temperature must be a number, got '4'"),
        ({"weights": {"response": None}}, "weight must be a number, got None"),
        ({"layers": "layer3"}, "layers must be a tuple of texts, got 'layer3'"),
    ],
)
def test_values_of_a_wrong_kind(option: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Recipe("x", "resnet50", "resnet18", **option)


def test_a_layer_may_follow_two() -> None:
    pairs = {"layers": ("layer2", "layer2"), "teacher_layers": ("layer2", "layer3")}
    assert Recipe("x", "resnet50", "resnet18", **pairs).layers == ("layer2", "layer2")
