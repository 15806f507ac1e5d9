"""The arguments of compare: what is looked up, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from captum_kd import UniCAM
from tests.comparison.quick import LAYERS, pooled, quick, statistics
from tests.networks import Network, classes, images, pair


def test_layers_by_module_of_other_names_and_without_positions() -> None:
    student, base = pair()
    renamed = nn.Sequential(base.first, base.first_relu, base.second, base.second_relu)
    renamed.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), base.head)).eval()
    chosen = [student.second_relu, "head"]
    found = quick(student, renamed, layers=chosen, base_layers=["3", renamed[4]], methods=["Grad-CAM"])
    assert found.layers == ("second_relu", "head")
    assert list(found.maps["student"]) == ["second_relu"]
    expected = statistics(
        *(pooled(student, "head", images(24)), pooled(renamed, "4", images(24))), estimator="biased"
    )
    assert found.score("FSS", "head").value == pytest.approx(expected.value, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"layers": ["second_rely"]},
            ValueError,
            "layers.*no layer 'second_rely'. Did you mean.*second_relu",
        ),
        ({"layers": []}, ValueError, "at least one layer"),
        ({"layers": ""}, ValueError, "layers: a layer's name is empty"),
        ({"base_layers": ["first_relu", ""]}, ValueError, "base_layers: a layer's name is empty"),
        ({"layers": ["second", "second"]}, ValueError, "none twice"),
        ({"layers": [nn.ReLU()]}, ValueError, "is not in the student"),
        ({"base_layers": ["second"]}, ValueError, "base_layers must pair up with layers: 1 for 2"),
        ({"base_layers": ["first_relu", "third"]}, ValueError, "base_layers, base model.*no layer 'third'"),
        ({"teacher_layers": LAYERS}, ValueError, "no teacher"),
        ({"methods": ["Grad CAM"]}, ValueError, "'Grad CAM' is unknown. Valid names are 'Grad-CAM'"),
        ({"methods": {"mine": 3}}, TypeError, "'mine' must be a valid name"),
        ({"methods": {"mine": UniCAM}}, TypeError, "explains a pair. Name one of 'UniCAM, published"),
        ({"methods": [LayerGradCam]}, TypeError, "pass a mapping"),
        (
            {"methods": {"mine": lambda *_: torch.zeros(3)}},
            ValueError,
            r"maps of shape \(8, c, h, w\), got \(3,\)",
        ),
        ({"label_embeddings": torch.eye(3)}, ValueError, "3 rows but target contains class 3"),
        ({"shown": -1}, ValueError, "shown must be"),
        ({"pool": 0}, ValueError, "pool must be"),
        ({"confidence": 95}, ValueError, "confidence must be between"),
        ({"kept_share": 20}, ValueError, "kept_share must be None or between"),
        ({"reference": None, "data": [(images(10), classes(10))]}, ValueError, "10 images, but at least 11"),
        ({"device": "meta"}, ValueError, r"student is on cpu.*model.to\('meta'\)"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(*pair(), **options)


@pytest.mark.parametrize(
    ("student", "error", "message"),
    [
        ({}, ValueError, "empty mapping"),
        ({"base": Network()}, ValueError, "other than 'base' and 'teacher'"),
        ({"mine": torch.relu}, TypeError, "mine must be a module"),
        (torch.relu, TypeError, "a module or a mapping"),
    ],
)
def test_bad_students(student: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(student, Network())
