"""DeepUniCAM: against the closed form, the paper's method, and identities."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from captum.attr import NoiseTunnel
from captum.metrics import sensitivity_max
from torch import Tensor, nn

from captum_kd import DeepUniCAM, UniCAM
from captum_kd.benchmark.localization.ablations import ChannelWeights, NotCentred, OneDirection
from captum_kd.models.small import small_resnet

COUNT = 8


class Stages(nn.Module):
    """Three stages, with an in-place ReLU after each."""

    def __init__(self, width: int = 4, size: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, size, padding=1)
        self.second = nn.Conv2d(width, width + 1, 3, stride=2, padding=1)
        self.third = nn.Conv2d(width + 1, width + 2, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.again = nn.ReLU(inplace=True)
        self.fc = nn.Linear(width + 2, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.third(self.again(self.second(self.act(self.first(images)))))
        scores: Tensor = self.fc(hidden.mean(dim=(2, 3)))
        return scores


def pair(seed: int = 0, width: int = 5) -> tuple[Stages, Stages]:
    torch.manual_seed(seed)
    return Stages().double(), Stages(width).double()


def images(count: int = COUNT, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(model: Stages, inputs: Tensor) -> dict[str, Tensor]:
    """The stages' outputs, written out."""
    first = model.first(inputs)
    second = model.second(first.relu())
    return {"first": first, "second": second, "third": model.third(second.relu())}


class Plain(OneDirection, NotCentred):
    """One direction, and activations as they are."""


@pytest.mark.parametrize("reference", [None, images(12, 7)])
@pytest.mark.parametrize("method", [DeepUniCAM, OneDirection, ChannelWeights, NotCentred])
def test_a_layer_by_its_own_features_is_the_closed_form(
    method: type[DeepUniCAM], reference: Tensor | None
) -> None:
    student, base = pair()
    options = {"reference": reference, "class_evidence": False}
    closed = method(student, student.second, base, feature_layer=None, **options)
    traced = method(student, student.second, base, feature_layer=student.second, **options)
    for expected, maps in zip(closed.attribute_all(images()), traced.attribute_all(images()), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(maps, expected)


def test_own_features_without_contrast_and_centring_are_the_papers_method() -> None:
    student, base = pair()
    plain = Plain(student, student.second, base, feature_layer=None, class_evidence=False)
    options = {"objective": "uniqueness", "pool": 1, "combine": "elementwise"}
    paper = UniCAM(student, student.second, base, **options)
    for maps, expected in zip(
        plain.attribute_all(images()), paper.attribute_all(images(), relu_attributions=False), strict=True
    ):
        assert torch.equal(maps, expected)


def test_several_feature_layers_add_up() -> None:
    student, base = pair()
    both = [student.second, student.third]
    layers = [student.first, student.second]

    def maps(feature_layer: Any) -> list[Tensor]:
        method = DeepUniCAM(student, layers, base, feature_layer=feature_layer, class_evidence=False)
        found = method.attribute(images())
        assert isinstance(found, list)
        return found

    for together, one, other in zip(maps(both), maps(both[0]), maps(both[1]), strict=True):
        torch.testing.assert_close(together, one + other)


def test_a_map_is_one_direction_minus_the_other() -> None:
    student, base = pair()
    options = {"feature_layer": student.third, "class_evidence": False}
    distilled, residual = OneDirection(student, student.first, base, **options).attribute_all(images())
    method = DeepUniCAM(student, student.first, base, **options)
    signed = method.attribute_all(images())
    torch.testing.assert_close(signed.distilled, distilled - residual)
    torch.testing.assert_close(signed.residual, residual - distilled)
    positive = method.attribute_all(images(), relu_attributions=True)
    torch.testing.assert_close(positive.residual, (residual - distilled).relu())
    torch.testing.assert_close(method.attribute(images(), features="residual"), signed.residual)
    swapped = DeepUniCAM(base, base.first, student, **{**options, "feature_layer": base.third})
    torch.testing.assert_close(swapped.attribute(images()), signed.residual)


def test_the_other_direction_is_resized_where_layers_differ_in_size() -> None:
    student, base = pair()
    options = {"feature_layer": None, "class_evidence": False}
    method = DeepUniCAM(student, student.first, base, base.second, **options)
    distilled, residual = method.attribute_all(images())
    assert (distilled.shape, residual.shape) == ((COUNT, 1, 8, 8), (COUNT, 1, 4, 4))


def test_maps_are_signed_unless_said_otherwise() -> None:
    student, base = pair()
    method = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    signed = method.attribute(images())
    assert signed.min() < 0 < signed.max()
    assert torch.equal(method.attribute(images()), signed)
    assert torch.equal(method.attribute(images(), relu_attributions=True), signed.relu())


def test_layers_are_modules_or_names() -> None:
    student, base = pair()
    modules = DeepUniCAM(
        student, [student.first, student.second], base, feature_layer=[student.second, student.third]
    )
    names = DeepUniCAM(student, ["first", "second"], base, feature_layer=["second", "third"])
    assert repr(names) == "DeepUniCAM(first and second, features of second and third, with class evidence)"
    assert repr(modules) == repr(names)
    for one, other in zip(modules.attribute(images()), names.attribute(images()), strict=True):
        assert torch.equal(one, other)
    assert isinstance(DeepUniCAM(student, "first", base, feature_layer="third").attribute(images()), Tensor)


def test_a_map_does_not_depend_on_its_batch() -> None:
    student, base = pair()
    options = {"feature_layer": [student.second, student.third], "reference": images(12, 7)}
    unicam = DeepUniCAM(student, student.first, base, **options)
    together = unicam.attribute(images())
    alone = torch.cat([unicam.attribute(image[None]) for image in images()])
    torch.testing.assert_close(alone, together)


def no_grad(call: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return call()


def inference(call: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return call()


@pytest.mark.parametrize("mode", [no_grad, inference])
@pytest.mark.parametrize("frozen", [False, True])
def test_any_mode_gives_the_same_and_leaves_no_trace(
    mode: Callable[[Callable[[], Tensor]], Tensor], frozen: bool
) -> None:
    student, base = pair()
    for model in (student, base):
        model.train().requires_grad_(not frozen)
    unicam = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    expected = unicam.attribute(images())
    found = mode(lambda: unicam.attribute(images()))
    torch.testing.assert_close(found.clone(), expected)
    assert not expected.requires_grad
    for model in (student, base):
        assert all(module.training for module in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())


def test_reshape_transform_is_undone_for_the_gradient() -> None:
    student, base = pair()

    class Swapped(nn.Module):
        """Positions before channels, as in token models."""

        def __init__(self, stages: Stages) -> None:
            super().__init__()
            self.stages = stages
            self.tokens, self.later = nn.Identity(), nn.Identity()

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = self.tokens(self.stages.second(self.stages.first(inputs).relu()).movedim(1, -1))
            hidden = self.later(self.stages.third(tokens.movedim(-1, 1).relu()).movedim(1, -1))
            scores: Tensor = hidden.mean(dim=(1, 2))
            return scores

    ours, theirs = Swapped(student), Swapped(base)
    options = {"class_evidence": False}
    expected = DeepUniCAM(student, student.second, base, feature_layer=student.third, **options)
    tokens = DeepUniCAM(
        *(ours, ours.tokens, theirs),
        feature_layer=ours.later,
        reshape_transform=lambda value: value.movedim(-1, 1),
        **options,
    )
    torch.testing.assert_close(tokens.attribute(images()), expected.attribute(images()))


def test_late_layers_are_the_last_two_stages_where_they_are_known(
    recwarn: pytest.WarningsRecorder,
) -> None:
    torch.manual_seed(0)
    student, base = small_resnet(4).eval(), small_resnet(6).eval()
    inputs = torch.randn(6, 3, 32, 32)
    explicit = DeepUniCAM(
        *(student, student.layer2, base),
        feature_layer=[student.layer3, student.layer4],
        base_feature_layer=[base.layer3, base.layer4],
    )
    late = DeepUniCAM(student, student.layer2, base)
    assert not recwarn
    assert repr(late) == "DeepUniCAM(layer2, features of layer3 and layer4, with class evidence)"
    assert torch.equal(late.attribute(inputs), explicit.attribute(inputs))
    own = DeepUniCAM(student, student.layer2, base, feature_layer=None)
    assert not torch.allclose(own.attribute(inputs), late.attribute(inputs))


def test_recommended_is_the_class() -> None:
    torch.manual_seed(0)
    student, base = small_resnet(4).eval(), small_resnet(4).eval()
    inputs = torch.randn(6, 3, 32, 32)
    method = UniCAM.recommended(student, "layer2", base, class_evidence=False, reference=inputs)
    assert type(method) is DeepUniCAM
    same = DeepUniCAM(student, "layer2", base, class_evidence=False, reference=inputs)
    assert torch.equal(method.attribute(inputs), same.attribute(inputs))


@pytest.mark.parametrize("make", [DeepUniCAM, UniCAM.recommended])
def test_unknown_late_layers_are_said_aloud_and_own_features_taken(make: Any) -> None:
    student, base = pair()
    with pytest.warns(UserWarning, match=r"own features, since the late layers .* not known") as caught:
        method = make(student, student.second, base)
    assert caught[0].filename == __file__
    assert repr(method) == "DeepUniCAM(second, own features, with class evidence)"
    explicit = DeepUniCAM(student, student.second, base, feature_layer=None)
    assert torch.equal(method.attribute(images()), explicit.attribute(images()))


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.model(images)
        return scores


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapped,
        lambda model: nn.Sequential(nn.Identity(), model),
        lambda model: Wrapped(Wrapped(nn.DataParallel(model))),
    ],
)
def test_wrapped_models_have_the_maps_of_the_models_inside(wrap: Any) -> None:
    torch.manual_seed(0)
    student, base = small_resnet(2).double(), small_resnet(3).double()
    inputs = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    plain = UniCAM.recommended(student, student.layer2, base)
    wrapped = UniCAM.recommended(wrap(student), student.layer2, wrap(base), base.layer2)
    assert torch.equal(wrapped.attribute(inputs), plain.attribute(inputs))
    both = UniCAM.recommended(wrap(student), student.layer2, wrap(base))
    assert torch.equal(both.attribute(inputs), plain.attribute(inputs))


def test_a_network_that_does_not_run_is_named_with_the_cure() -> None:
    class Aside(Wrapped):
        def forward(self, images: Tensor) -> Tensor:
            return self.mine(images).mean((2, 3))

    student = Aside(small_resnet(2))
    student.mine = nn.Conv2d(3, 4, 1)
    method = DeepUniCAM(student, "mine", student)
    with pytest.raises(ValueError, match=r"Layer 'model\.layer3' .* was not called .* feature_layer"):
        method.attribute(torch.randn(6, 3, 32, 32))


def test_a_layer_called_late_is_not_taken_for_the_word() -> None:
    student, base = pair()
    student.late = student.third
    del student.third
    with pytest.raises(ValueError, match="Stages has a layer called 'late'"):
        DeepUniCAM(student, student.first, base)
    assert "features of late" in repr(
        DeepUniCAM(student, student.first, base, feature_layer=student.late, base_feature_layer=base.third)
    )


def test_late_layers_are_not_looked_for_with_a_reshape_transform() -> None:
    student, base = small_resnet(4), small_resnet(4)
    with pytest.warns(UserWarning, match="with a reshape_transform late layers are not looked for"):
        method = DeepUniCAM(student, student.layer2, base, reshape_transform=lambda value: value)
    assert "own features" in repr(method)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11", "densenet121", "squeezenet1_1"])
def test_convolutional_networks_of_torchvision_are_explained_by_all_their_features(name: str) -> None:
    torch.manual_seed(0)
    student, base = (torchvision.models.get_model(name, num_classes=3).eval() for _ in range(2))
    inputs = torch.randn(4, 3, 64, 64)
    recommended = DeepUniCAM(student, student.features[2], base)
    explicit = DeepUniCAM(student, student.features[2], base, feature_layer=student.features)
    own = DeepUniCAM(student, student.features[2], base, feature_layer=None)
    found = recommended.attribute(inputs)
    torch.testing.assert_close(found, explicit.attribute(inputs))
    assert not torch.allclose(found, own.attribute(inputs))


def test_a_torchvision_pair_with_frozen_weights() -> None:
    torch.manual_seed(0)
    student, base = torchvision.models.resnet18(num_classes=3), torchvision.models.resnet34(num_classes=3)
    layers = [student.layer1, student.layer4]
    both = DeepUniCAM(student, layers, base, [base.layer1, base.layer4]).attribute_all(
        torch.randn(4, 3, 64, 64)
    )
    assert [tuple(maps.shape) for maps in both.distilled] == [(4, 1, 16, 16), (4, 1, 2, 2)]
    for distilled, residual in zip(*both, strict=True):
        torch.testing.assert_close(distilled, -residual)


def test_captums_tools_copies_wrappers_and_precisions() -> None:
    torch.manual_seed(0)
    student, base = small_resnet(4).eval(), small_resnet(4).eval()
    inputs, reference = torch.randn(5, 3, 32, 32), torch.randn(12, 3, 32, 32)
    unicam = DeepUniCAM(student, student.layer2, base, reference=reference)
    expected = unicam.attribute(inputs)
    assert torch.equal(copy.deepcopy(unicam).attribute(inputs), expected)
    wrapped = DeepUniCAM(nn.DataParallel(student), student.layer2, base, reference=reference)
    assert torch.equal(wrapped.attribute(inputs), expected)
    still = NoiseTunnel(unicam).attribute(inputs, nt_samples=2, stdevs=1e-9)
    torch.testing.assert_close(still, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))

    def maps(value: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor]:
        return (unicam.attribute(value[0]),) if isinstance(value, tuple) else unicam.attribute(value)

    assert (sensitivity_max(maps, inputs, n_perturb_samples=2) > 0).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unicam.attribute(inputs).dtype == torch.float32
    half = [copy.deepcopy(model).bfloat16() for model in (student, base)]
    low = DeepUniCAM(half[0], half[0].layer2, half[1], reference=reference.bfloat16())
    found = low.attribute(inputs.bfloat16())
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_errors() -> None:
    student, base = pair()
    options = {"class_evidence": False}
    with pytest.raises(ValueError, match="No feature layer depends on Layer 'third' of the student"):
        DeepUniCAM(student, student.third, base, feature_layer=student.first, **options).attribute(images())
    with pytest.raises(ValueError, match=r"feature_layer: .*this Conv2d is not in the student"):
        DeepUniCAM(student, student.first, base, feature_layer=base.third)
    for none in ({}, {"feature_layer": None}):
        with pytest.raises(ValueError, match="base_feature_layer is given, but no feature_layer"):
            DeepUniCAM(student, student.first, base, base_feature_layer=base.third, **none)
    with pytest.raises(TypeError, match=r"feature_layer: .*must be a module"):
        DeepUniCAM(student, student.first, base, feature_layer=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"feature_layer: .*Stages has no layer 'fourth'"):
        DeepUniCAM(student, student.first, base, feature_layer="fourth")
    with pytest.raises(ValueError, match="attr_dim_summation=False is for UniCAM"):
        DeepUniCAM(student, student.first, base, feature_layer=None).attribute(
            images(), attr_dim_summation=False
        )
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    twice.append(twice[1])
    with pytest.raises(ValueError, match="is called more than once"):
        DeepUniCAM(twice, twice[0], twice, feature_layer=twice[1], **options).attribute(
            torch.randn(4, 3, 8, 8)
        )


class Several(nn.Module):
    """Its middle layer gives what `keep` makes of the activations; `take` finds them in it."""

    def __init__(self, stages: Stages, keep: Any, take: Any) -> None:
        super().__init__()
        self.stages, self.take = stages, take
        self.middle = nn.Identity()
        self.middle.forward = keep
        self.later = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.take(self.middle(self.stages.second(self.stages.first(inputs).relu())))
        scores: Tensor = self.later(self.stages.third(hidden.relu())).mean(dim=(2, 3))
        return scores


@pytest.mark.parametrize(
    ("keep", "take"),
    [
        (lambda x: (x, x.detach().square()), lambda given: given[0]),
        (
            lambda x: {"mask": torch.ones(3, dtype=torch.bool), "hidden": [x]},
            lambda given: given["hidden"][0],
        ),
    ],
    ids=["tuple", "dictionary"],
)
def test_recommended_maps_of_a_layer_with_several_outputs(keep: Any, take: Any) -> None:
    student, base = pair(width=4)
    ours, theirs = (Several(stages, keep, take) for stages in (student, base))
    plain = [Several(stages, lambda x: x, lambda x: x) for stages in (student, base)]
    expected = DeepUniCAM(plain[0], plain[0].middle, plain[1], feature_layer=plain[0].later)
    # It is applied to the feature layer, too.
    several = DeepUniCAM(
        *(ours, ours.middle, theirs),
        feature_layer=ours.later,
        reshape_transform=lambda given: given if isinstance(given, Tensor) else take(given),
    )
    assert several.class_evidence
    torch.testing.assert_close(several.attribute(images()), expected.attribute(images()))
