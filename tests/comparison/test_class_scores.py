"""What a comparison makes of models' outputs: one logit, embeddings, NaN, and other numbers of classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_kd.attr.methods import METHODS
from captum_kd.models.targets import TwoLogits
from tests.comparison.quick import REFERENCE, quick
from tests.networks import Network, images, pair

IMAGES = images(24)
DATA = [(IMAGES[:12], torch.arange(12) % 2), (IMAGES[12:], torch.arange(12) % 2)]
OPTIONS = {"data": DATA, "layers": ["second"], "reference": (REFERENCE[0], REFERENCE[1] % 2)}


class Centred(nn.Module):
    """A classifier of one output that predicts both classes."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.first, self.second, self.model = model.first, model.second, model
        with torch.no_grad():
            self.register_buffer("middle", model(IMAGES).median())

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.model(x) - self.middle
        return z


@pytest.mark.filterwarnings("ignore:DeepUniCAM takes the explained layers' own features")
def test_one_logit_is_compared_as_two() -> None:
    one = [Centred(model).eval() for model in pair(classes=1)]
    two = [TwoLogits(model).eval() for model in one]
    methods = [name for name in METHODS if "UniCAM" not in name] + ["UniCAM, recommended, signed"]
    found = quick(*one, **OPTIONS, methods=methods)
    expected = quick(*two, **{**OPTIONS, "layers": ["model.second"]}, methods=methods)
    assert found.accuracy == expected.accuracy
    right = [((one[0](x)[:, 0] > 0).long() == y).double() for x, y in DATA]
    assert found.accuracy["student"] == torch.cat(right).mean().item()
    assert 0 < found.accuracy["student"] < 1
    for method, maps in expected.maps["student"]["model.second"].items():
        torch.testing.assert_close(found.maps["student"]["second"][method], maps)
        assert all(side.any() for side in maps)


@pytest.mark.parametrize("role", ["base model", "teacher"])
def test_accuracy_of_models_of_different_classes_is_left_out(role: str) -> None:
    student, other = Network(classes=4).eval(), Network(classes=7).eval()
    models = (student, other) if role == "base model" else (student, Network(classes=4, seed=1).eval())
    teacher = {"teacher": other} if role == "teacher" else {}
    with pytest.warns(UserWarning, match=rf"The .* 4 outputs and the {role} 7, .* Accuracy is left out"):
        found = quick(*models, **teacher)
    assert set(found.accuracy.values()) == {None}


def test_methods_that_need_class_scores_refuse_models_of_different_classes() -> None:
    student, base = Network(classes=4).eval(), Network(classes=7).eval()
    with (
        pytest.warns(UserWarning, match="Accuracy is left out"),
        pytest.raises(ValueError, match="The student has 4 outputs and the base model 7"),
    ):
        quick(student, base, methods=["UniCAM, recommended"], layers=["second"])


def test_accuracy_of_an_embedding_is_left_out() -> None:
    student, base = pair()
    student.head = nn.Identity()
    with pytest.warns(UserWarning, match="The output of the student does not look like class scores"):
        found = quick(student, base)
    assert found.accuracy["student"] is None
    assert found.accuracy["base"] is not None


def test_accuracy_needs_finite_scores() -> None:
    student, base = pair()
    with torch.no_grad():
        base.head.weight[2] = float("nan")
    with pytest.raises(ValueError, match="The class scores of the base model hold NaN or infinite values"):
        quick(student, base)
