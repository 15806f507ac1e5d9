"""Transforms that may not be applied to gradients, and values that are not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from captum_kd import DeepUniCAM, UniCAM
from captum_kd.attr.gradient_maps import captum_maps, grad_cam, gradient_x_activation
from captum_kd.attr.transforms import check_linear
from captum_kd.functional.cam import add_evidence, class_evidence
from tests.networks import classes, images, pair

NOT_LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda v: v.relu(),
    "offset": lambda v: v + 0.01,
    "square": lambda v: v.square(),
    "absolute": lambda v: v.abs(),
    "softmax": lambda v: v.softmax(dim=1),
    "normalised": lambda v: nn.functional.layer_norm(v, v.shape[1:]),
    "clamped": lambda v: v.clamp(max=0.01),
    "over the mean": lambda v: v / v.mean(),
}
LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "moved": lambda v: v.movedim(-1, 1).movedim(1, -1),
    "selected": lambda v: v[:, :4],
    "scaled": lambda v: 3 * v,
    "averaged": lambda v: v.unflatten(1, (2, -1)).mean(1),
    "pooled": lambda v: nn.functional.avg_pool2d(v, 2),
    "centred": lambda v: v - v.mean(dim=(2, 3), keepdim=True),
    "single": lambda v: v.float(),
}


def values() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 6, 8, 8, generator=generator), 1e-6 * torch.randn(3, 6, 8, 8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_ones_pass(name: str, dtype: torch.dtype) -> None:
    value, gradient = values()
    for x in (value, value.relu(), value + 50):
        check_linear(LINEAR[name], x.to(dtype), gradient.to(dtype), "the layer")


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_others_do_not(name: str) -> None:
    value, gradient = values()
    for x, g in ((value, gradient), (value.relu(), gradient), (value.relu(), gradient.abs())):
        with pytest.raises(ValueError, match="reshape_transform is not linear for what the layer gives"):
            check_linear(NOT_LINEAR[name], x, g, "the layer")


def test_structures_of_tensors() -> None:
    value, gradient = values()
    held, of_held = {"x": (value, torch.arange(3))}, {"x": (gradient, torch.arange(3))}
    check_linear(lambda held: held["x"][0], held, of_held, "the layer")
    with pytest.raises(ValueError, match="not linear"):
        check_linear(lambda held: held["x"][0].relu(), held, of_held, "the layer")
    check_linear(lambda v: v.relu(), torch.zeros(2, 3), torch.zeros(2, 3), "the layer")


def deep(transform: Callable[[Tensor], Tensor], **options: Any) -> Tensor:
    student, base = pair()
    method = DeepUniCAM(student, "first", base, reshape_transform=transform, **options)
    maps = method.attribute(images(), classes())
    assert isinstance(maps, Tensor)
    return maps


@pytest.mark.parametrize("name", NOT_LINEAR)
@pytest.mark.parametrize(
    "options", [{"feature_layer": None}, {"feature_layer": "second", "class_evidence": False}]
)
def test_maps_by_gradients_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not linear for what Layer 'first' of the student gives"):
        deep(NOT_LINEAR[name], **options)
    student = pair()[0]
    for function in (grad_cam, gradient_x_activation):
        with pytest.raises(ValueError, match="not linear for what Layer 'first'"):
            function(student, student.first, images().requires_grad_(), classes(), NOT_LINEAR[name])


def test_maps_of_what_the_transform_gives_need_no_gradient_through_it() -> None:
    """The layer's own features: the ReLU belongs to what is explained, as if it were a layer of the model."""
    student, base = pair()
    x, y = images(), classes()
    plain = DeepUniCAM(student, "second_relu", base, feature_layer=None, class_evidence=False)
    relu = DeepUniCAM(
        student,
        "second",
        base,
        feature_layer=None,
        class_evidence=False,
        reshape_transform=lambda v: v.relu(),
    )
    assert torch.equal(plain.attribute(x, y), relu.attribute(x, y))
    assert torch.equal(
        UniCAM(student, "second_relu", base).attribute(x, y),
        UniCAM(student, "second", base, reshape_transform=lambda v: v.relu()).attribute(x, y),
    )


def test_linear_transforms_still_give_maps() -> None:
    student = pair()[0]
    for transform in LINEAR.values():
        assert deep(transform, feature_layer="second").isfinite().all()
        maps = captum_maps(LayerGradientXActivation, student, student.first, images(), classes(), transform)
        assert maps.isfinite().all()


@pytest.mark.parametrize(
    "transform",
    [
        lambda v: v.detach(),
        lambda v: v.data,
        lambda v: torch.from_numpy(v.detach().numpy()),
        torch.zeros_like,
    ],
)
def test_one_that_detaches_is_named(transform: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(
        ValueError, match="reshape_transform detaches what Layer 'second' of the student gives"
    ):
        deep(transform, feature_layer="second", class_evidence=False)
    with torch.no_grad():
        assert deep(lambda v: v.detach(), feature_layer=None, class_evidence=False).isfinite().all()


def test_one_that_gives_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match=r"gives a tuple of 1 \(Tensor\), but one tensor is needed"):
        deep(lambda v: (v,), feature_layer="second")  # type: ignore[arg-type, return-value]


def objective_of(name: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    def nan_value(explained: Tensor, other: Tensor, labels: Tensor | None) -> Tensor:
        return explained.sum() + float("nan")

    def infinite(explained: Tensor, other: Tensor, labels: Tensor | None) -> Tensor:
        return explained.log().sum()

    def root(explained: Tensor, other: Tensor, labels: Tensor | None) -> Tensor:
        return explained.sqrt().sum()

    return {"nan_value": nan_value, "infinite": infinite, "root": root}[name]


@pytest.mark.parametrize("reference", [None, images(20, seed=7)])
@pytest.mark.parametrize(
    ("name", "given"), [("nan_value", "nan"), ("infinite", "-inf"), ("root", "a gradient of NaN or infinite")]
)
def test_an_objective_that_is_not_finite_is_named(name: str, given: str, reference: Tensor | None) -> None:
    student, base = pair()
    method = UniCAM(
        student, ["first_relu", "second_relu"], base, objective=objective_of(name), reference=reference
    )
    for features, role in (("distilled", "student"), ("residual", "base model")):
        message = f"The objective {name} gives {given}.* at Layer 'first_relu' of the {role}"
        with pytest.raises(ValueError, match=message):
            method.attribute(images(), classes(), features=features)  # type: ignore[arg-type]


def test_maps_that_overflow_are_refused() -> None:
    student, base = pair()
    for model in (student, base):
        model.first[1].weight.data *= 1e20
    squares = UniCAM(student, "first", base, objective=lambda explained, *_: explained.square().sum())
    for features, role in (("distilled", "student"), ("residual", "base model")):
        with pytest.raises(ValueError, match=f"maps of Layer 'first' of the {role} hold NaN or infinite"):
            squares.attribute(images(), classes(), features=features)  # type: ignore[arg-type]


@pytest.mark.parametrize("spread", [float("nan"), float("inf")])
def test_evidence_does_not_hide_nan(spread: float) -> None:
    activations = torch.tensor([[[2.0, spread], [0.0, 4.0]]])
    assert class_evidence(torch.ones(1, 2), activations).isnan().any()
    assert add_evidence(torch.ones(1, 1, 2), activations[:, :1]).isnan().any()
