"""Class indices from every kind of target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from captum_kd.models.targets import (
    TwoLogits,
    check_same_classes,
    class_indices,
    class_score_gradient,
    gives_embeddings,
    has_class_scores,
    predicted_classes,
    warn_of_embeddings,
)

SCORES = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.0, 0.1, 0.2]])


@pytest.mark.parametrize("output", [SCORES, None, (SCORES, SCORES), SCORES[:, :, None, None]])
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2, [2, 2, 2]),
        (torch.tensor(2), [2, 2, 2]),
        (torch.tensor([2]), [2, 2, 2]),
        ([1, 0, 2], [1, 0, 2]),
        ((1, 0, 2), [1, 0, 2]),
        (torch.tensor([1, 0, 2]), [1, 0, 2]),
        (torch.tensor([1, 0, 2], dtype=torch.uint8), [1, 0, 2]),
        (np.array([1, 0, 2]), [1, 0, 2]),
    ],
)
def test_given(target: Any, expected: list[int], output: Any) -> None:
    assert class_indices(target, output, count=3).tolist() == expected


def test_prediction() -> None:
    assert class_indices(None, SCORES, count=3).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("output", "given"),
    [
        (None, "NoneType"),
        ((SCORES,), "tuple"),
        (SCORES[0], r"\(3,\)"),
        (SCORES[None], r"\(1, 3, 3\)"),
        (SCORES[:2], r"\(2, 3\)"),
    ],
)
def test_no_prediction_to_take(output: Any, given: str) -> None:
    with pytest.raises(ValueError, match=rf"target is needed: .* the student returned {given}"):
        class_indices(None, output, count=3, role="student")


@pytest.mark.parametrize(
    ("target", "output", "error", "message"),
    [
        ([0, 1], SCORES, ValueError, r"3 samples, but target has shape \(2,\)"),
        (torch.zeros(3, 1).long(), SCORES, ValueError, r"target has shape \(3, 1\)"),
        ([0, 1, 3], SCORES, ValueError, "from 0 to 2, got values from 0 to 3"),
        (3, SCORES, ValueError, "from 0 to 2, got values from 3 to 3"),
        (-1, SCORES, ValueError, "from 0 to 2, got values from -1 to -1"),
        ([0, -1, 1], None, ValueError, "0 or more, got values from -1 to 1"),
        (1.0, SCORES, TypeError, r"integer class indices, got torch\.float32"),
        (torch.ones(3), SCORES, TypeError, r"integer class indices, got torch\.float32"),
        (True, SCORES, TypeError, r"integer class indices, got torch\.bool"),
        (1j, SCORES, TypeError, r"integer class indices, got torch\.complex64"),
        ("cat", SCORES, TypeError, "must be an int, a list of ints or an integer tensor"),
        ([[0], [1, 2]], SCORES, TypeError, "must be an int, a list of ints or an integer tensor"),
        ({0: 1}, SCORES, TypeError, "must be an int, a list of ints or an integer tensor"),
    ],
)
def test_bad_target(target: Any, output: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_indices(target, output, count=3)


@pytest.mark.parametrize(
    ("output", "expected"),
    [(SCORES, True), (SCORES[0], False), (SCORES[None], False), ([SCORES], False), (None, False)],
)
def test_has_class_scores(output: Tensor, expected: bool) -> None:
    assert has_class_scores(output) is expected


LOGITS = torch.tensor([[-1.0], [2.0], [0.0]])


def test_one_output_is_the_logit_of_class_1() -> None:
    assert class_indices(None, LOGITS, count=3).tolist() == [0, 1, 0]
    assert predicted_classes(LOGITS).tolist() == TwoLogits(nn.Identity())(LOGITS).argmax(1).tolist()
    assert class_indices([0, 1, 1], LOGITS, count=3).tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="from 0 to 1, got values from 2 to 2"):
        class_indices(2, LOGITS, count=3)


@pytest.mark.parametrize("scores", [LOGITS, SCORES])
def test_gradient_of_class_scores(scores: Tensor) -> None:
    classes, given = torch.tensor([1, 0, 1]), scores.clone().requires_grad_()
    all_scores = TwoLogits(nn.Identity())(given) if scores.shape[1] == 1 else given
    (expected,) = torch.autograd.grad(all_scores.gather(1, classes[:, None]).sum(), given)
    assert torch.equal(class_score_gradient(classes, scores), expected)


def test_a_probability_in_place_of_a_logit_is_said() -> None:
    with pytest.warns(UserWarning, match="only output of the student lies between 0 and 1") as caught:
        assert predicted_classes(LOGITS.sigmoid(), "student").tolist() == [1, 1, 1]
    assert caught[0].filename == __file__


def test_a_flat_logit_has_a_cure() -> None:
    with pytest.raises(ValueError, match=r"returned \(3,\); one logit per sample .* output\.unsqueeze\(1\)"):
        class_indices(None, LOGITS[:, 0], count=3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scores", [LOGITS, SCORES])
def test_predictions_need_finite_scores(scores: Tensor, value: float) -> None:
    scores = scores.clone()
    scores[1, 0] = value
    with pytest.raises(ValueError, match="class scores of the base model hold NaN or infinite values"):
        class_indices(None, scores, count=3, role="base model")
    assert class_indices(0, scores, count=3).tolist() == [0, 0, 0]


def test_classes_must_be_as_many() -> None:
    check_same_classes({"student": LOGITS, "base model": SCORES[:, :2], "teacher": None})
    with pytest.raises(ValueError, match="The student has 1 outputs and the teacher 3"):
        check_same_classes({"student": LOGITS, "base model": None, "teacher": SCORES})


def headless(name: str, head: str) -> nn.Module:
    model = torchvision.models.get_model(name)
    setattr(model, head, nn.Identity())
    return model


def test_models_without_a_classifier_are_known() -> None:
    embeds = [
        timm.create_model("resnet10t", num_classes=0),
        timm.create_model("vit_tiny_patch16_224", num_classes=0),
        headless("resnet18", "fc"),
        headless("mobilenet_v3_small", "classifier"),
        nn.Sequential(nn.Identity(), headless("resnet18", "fc")),
        nn.DataParallel(headless("resnet18", "fc")),
    ]
    for model in embeds:
        assert gives_embeddings(model)
    for model in (
        timm.create_model("resnet10t"),
        torchvision.models.resnet18(),
        nn.Sequential(headless("resnet18", "fc"), nn.Linear(512, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()),
        len,
    ):
        assert not gives_embeddings(model)
    with pytest.warns(UserWarning, match="The output of the student does not look like class scores"):
        assert warn_of_embeddings(embeds[0], "student")
