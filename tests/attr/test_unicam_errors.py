"""What bad input gets: an error that says what was given and what is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_kd import UniCAM
from tests.networks import classes, images, pair


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "relevancy"}, r"objective .*'relevance', 'uniqueness'.*'relevancy'"),
        ({"combine": "pixel"}, r"combine must be one of \('channel', 'elementwise'\), got 'pixel'"),
        ({"pool": 0}, "pool must be None or a grid size of at least 1, got 0"),
        ({"pool": "global"}, "pool must be None or a grid size"),
        ({"reference": images(2)}, "reference must have at least 3 samples .* got 2"),
        ({"reference": (images(4), classes(3))}, r"got shape \(3,\) for 4 samples"),
        ({"reference": [images(4), (images(4), classes(4))]}, "in every batch or in none"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    student, base = pair()
    with pytest.raises(ValueError, match=message):
        UniCAM(student, student.second_relu, base, **options)


def test_bad_reference_types() -> None:
    student, base = pair()
    for bad in (3, [3], [(images(), classes(), 1)]):
        with pytest.raises(TypeError, match=r"[Rr]eference"):
            UniCAM(student, student.second_relu, base, reference=bad)


def test_bad_models_and_layers() -> None:
    student, base = pair()
    with pytest.raises(TypeError, match="base_model must be callable, got str"):
        UniCAM(student, student.second_relu, "base")
    with pytest.raises(TypeError, match=r"layer must be a module or the name of one.* got int"):
        UniCAM(student, 3, base)
    with pytest.raises(ValueError, match=r"layer: Network has no layer 'second_rel'\. Did you mean 'second'"):
        UniCAM(student, "second_rel", base)
    with pytest.raises(TypeError, match="objective must be a name or a callable, got int"):
        UniCAM(student, student.second_relu, base, objective=3)
    with pytest.raises(ValueError, match="layer: a layer's name is empty"):
        UniCAM(student, "", base)
    with pytest.raises(ValueError, match="layer: this ReLU is not in the student"):
        UniCAM(student, base.second_relu, base)
    with pytest.raises(ValueError, match="base_layer: this ReLU is not in the base model"):
        UniCAM(student, student.second_relu, base, student.second_relu)
    with pytest.raises(ValueError, match="at least one layer"):
        UniCAM(student, [], base)
    with pytest.raises(ValueError, match="must pair up, got 2 and 1"):
        UniCAM(student, [student.first, student.second], base, base.first)
    with pytest.raises(ValueError, match=r"base_layer is needed.*Sequential has no layer 'second_relu'"):
        UniCAM(student, student.second_relu, nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match="base_layer is needed"):
        UniCAM(student, student.second_relu, lambda x: base(x))


def test_too_few_samples() -> None:
    student, base = pair()
    with pytest.raises(ValueError, match=r"At least 4 samples .* got 3.*reference"):
        UniCAM(student, student.second_relu, base).attribute(images(3), classes(3))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ([0, 1, 2], ValueError, r"12 samples, but target has shape \(3,\)"),
        ([0, 1, 2, 4] * 3, ValueError, "from 0 to 3, got values from 0 to 4"),
        ([0, 1, 2, -1] * 3, ValueError, "from 0 to 3, got values from -1 to 2"),
        (torch.rand(12), TypeError, "integer class indices, got torch.float32"),
        ("cat", TypeError, "target must be"),
        ([(0, 1)] * 12, ValueError, r"shape \(12, 2\)"),
    ],
)
@pytest.mark.parametrize("objective", ["relevance", "uniqueness"])
def test_bad_targets(objective: str, target: Any, error: type[Exception], message: str) -> None:
    student, base = pair()
    with pytest.raises(error, match=message):
        UniCAM(student, student.second_relu, base, objective=objective).attribute(images(), target)


def test_target_missing_where_there_is_no_prediction() -> None:
    student, base = pair()
    student.head = base.head = nn.Unflatten(1, (3, 4))
    with pytest.raises(ValueError, match=r"target is needed.*student returned \(12, 3, 4\)"):
        UniCAM(student, student.second_relu, base).attribute(images())
    assert UniCAM(student, student.second_relu, base, objective="uniqueness").attribute(images()).max() > 0


def test_too_few_embeddings() -> None:
    student, base = pair()
    unicam = UniCAM(student, student.second_relu, base, label_embeddings=torch.eye(3))
    with pytest.raises(ValueError, match="3 rows but target contains class 3"):
        unicam.attribute(images(), classes())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite(value: float) -> None:
    student, base = pair()
    with torch.no_grad():
        base.second.bias[0] = value
    with pytest.raises(ValueError, match="Layer 'second_relu' of the base model hold NaN or infinite"):
        UniCAM(student, student.second_relu, base).attribute(images(), classes())


def test_a_layer_that_is_not_called() -> None:
    student, base = pair()
    student.unused = base.unused = nn.ReLU()
    with pytest.raises(ValueError, match="Layer 'unused' of the student was not called"):
        UniCAM(student, student.unused, base, base.unused).attribute(images(), classes())


def test_a_layer_that_is_called_twice() -> None:
    student, base = pair()
    student.second_relu = student.first_relu
    with pytest.raises(ValueError, match=r"Layer 'first_relu' of the student is called more than once.*own"):
        UniCAM(student, student.first_relu, base, base.first_relu).attribute(images(), classes())


@pytest.mark.parametrize(
    ("reshape", "message"),
    [
        (lambda a: a.flatten(), r"shape \(9216,\), but \(N, C, ...\) is needed"),
        (lambda a: a.permute(2, 1, 0, 3), r"shape \(8, 12, 12, 8\) for 12 samples"),
        (lambda a: a[:5], r"shape \(5, 12, 8, 8\) for 12 samples"),
    ],
)
def test_activations_of_another_shape(reshape: Any, message: str) -> None:
    student, base = pair()
    unicam = UniCAM(student, student.second_relu, base, reshape_transform=reshape)
    with pytest.raises(ValueError, match=message):
        unicam.attribute(images(), classes())


def test_unknown_direction() -> None:
    student, base = pair()
    with pytest.raises(ValueError, match=r"features must be one of \('distilled', 'residual'\), got 'both'"):
        UniCAM(student, student.second_relu, base).attribute(images(), classes(), features="both")


def no_tensor(explained: Tensor, other: Tensor, labels: Tensor | None) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (no_tensor, "scalar tensor .* got float"),
        (lambda explained, other, labels: explained, r"got \(12, 12\)"),
        (lambda explained, other, labels: other.sum(), r"got \(\) without a gradient"),
    ],
)
def test_bad_objectives(objective: Any, message: str) -> None:
    student, base = pair()
    with pytest.raises(ValueError, match=message):
        UniCAM(student, student.second_relu, base, objective=objective).attribute(images(), classes())


def test_pool_larger_than_the_map() -> None:
    student, base = pair()
    with pytest.raises(ValueError, match=r"got 9 for activations of shape \(12, 12, 8, 8\)"):
        UniCAM(student, student.second_relu, base, pool=9).attribute(images(), classes())
