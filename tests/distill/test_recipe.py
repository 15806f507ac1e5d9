"""What a recipe accepts, and the models that it lists."""

from __future__ import annotations

from typing import Any

import pytest

from captum_kd.distill.recipe import Recipe, stages


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
    ],
)
def test_bad_recipes(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe("x", "resnet50", "resnet18", **option)
