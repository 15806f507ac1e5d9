"""Maps of layers by the distances of later ones: against autograd, the closed form, and identities."""

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

from captum_kd import UniCAM
from captum_kd.functional import pairwise_distances
from captum_kd.functional.objectives import uniqueness
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


@pytest.mark.parametrize("features", [("third",), ("second", "third")])
def test_the_gradient_is_that_of_autograd_through_the_whole_network(features: tuple[str, ...]) -> None:
    student, base = pair()
    mine, theirs = run(student, images()), run(base, images())

    def pooled(value: Tensor) -> Tensor:
        return value.mean(dim=(2, 3))

    total = sum(
        uniqueness(pairwise_distances(pooled(mine[f])), pairwise_distances(pooled(theirs[f]).detach()))
        for f in features
    )
    (expected,) = torch.autograd.grad(total, mine["first"])
    chosen = [getattr(student, f) for f in features]
    options = {"objective": "uniqueness", "pool": 1, "feature_layer": chosen}
    maps = UniCAM(student, student.first, base, combine="elementwise", **options).attribute(
        images(), relu_attributions=False, attr_dim_summation=False
    )
    torch.testing.assert_close(maps, expected * mine["first"].detach())
    by_channel = UniCAM(student, student.first, base, combine="channel", **options).attribute(
        images(), relu_attributions=False, attr_dim_summation=False
    )
    weights = expected.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(by_channel, weights * mine["first"].detach())


@pytest.mark.parametrize("combine", ["channel", "elementwise"])
@pytest.mark.parametrize("reference", [None, images(12, 7)])
def test_a_layer_by_its_own_features_is_the_closed_form(combine: str, reference: Tensor | None) -> None:
    student, base = pair()
    options = {"combine": combine, "reference": reference, "center": True}
    closed = UniCAM(student, student.second, base, **options)
    traced = UniCAM(student, student.second, base, feature_layer=student.second, **options)
    target = torch.arange(COUNT) % 4
    for expected, maps in zip(
        closed.attribute_all(images(), target), traced.attribute_all(images(), target), strict=True
    ):
        torch.testing.assert_close(maps, expected)


def test_several_feature_layers_add_up() -> None:
    student, base = pair()
    both = [student.second, student.third]
    layers = [student.first, student.second]

    def maps(feature_layer: object) -> list[Tensor]:
        unicam = UniCAM(student, layers, base, objective="uniqueness", pool=1, feature_layer=feature_layer)
        found = unicam.attribute(images(), relu_attributions=False)
        assert isinstance(found, list)
        return found

    for together, one, other in zip(maps(both), maps(both[0]), maps(both[1]), strict=True):
        torch.testing.assert_close(together, one + other)


def test_contrast_is_one_direction_minus_the_other() -> None:
    student, base = pair()
    options = {"objective": "uniqueness", "pool": 1, "feature_layer": student.third}
    distilled, residual = UniCAM(student, student.first, base, **options).attribute_all(
        images(), relu_attributions=False
    )
    contrast = UniCAM(student, student.first, base, contrast=True, **options)
    signed = contrast.attribute_all(images(), relu_attributions=False)
    torch.testing.assert_close(signed.distilled, distilled - residual)
    torch.testing.assert_close(signed.residual, residual - distilled)
    torch.testing.assert_close(contrast.attribute_all(images()).residual, (residual - distilled).relu())
    alone = contrast.attribute(images(), features="residual", relu_attributions=False)
    torch.testing.assert_close(alone, signed.residual)
    swapped = UniCAM(base, base.first, student, contrast=True, **{**options, "feature_layer": base.third})
    torch.testing.assert_close(swapped.attribute(images(), relu_attributions=False), signed.residual)


def test_contrast_resizes_what_differs_in_size() -> None:
    student, base = pair()
    unicam = UniCAM(student, student.first, base, base.second, contrast=True, pool=1, objective="uniqueness")
    distilled, residual = unicam.attribute_all(images())
    assert (distilled.shape, residual.shape) == ((COUNT, 1, 8, 8), (COUNT, 1, 4, 4))
    with pytest.raises(ValueError, match="attr_dim_summation=False needs contrast=False"):
        unicam.attribute(images(), attr_dim_summation=False)


def test_a_map_does_not_depend_on_its_batch() -> None:
    student, base = pair()
    options = {"feature_layer": [student.second, student.third], "reference": images(12, 7)}
    unicam = UniCAM.recommended(student, student.first, base, **options)
    together = unicam.attribute(images(), relu_attributions=False)
    alone = torch.cat([unicam.attribute(image[None], relu_attributions=False) for image in images()])
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
    unicam = UniCAM.recommended(student, student.first, base, feature_layer=student.third)
    expected = unicam.attribute(images())
    found = mode(lambda: unicam.attribute(images()))
    torch.testing.assert_close(found.clone(), expected)
    assert not expected.requires_grad
    for model in (student, base):
        assert all(module.training for module in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())


def test_layer_inputs() -> None:
    student, base = pair()
    options = {"objective": "uniqueness", "pool": 1, "combine": "elementwise", "feature_layer": student.third}
    maps = UniCAM(student, student.second, base, **options).attribute(
        images(), attribute_to_layer_input=True, relu_attributions=False, attr_dim_summation=False
    )
    # With attribute_to_layer_input the features are inputs of their layer, too.
    inputs = student.first(images()).relu().detach().requires_grad_()
    mine = student.second(inputs).relu().mean(dim=(2, 3))
    theirs = base.second(base.first(images()).relu()).relu().mean(dim=(2, 3)).detach()
    score = uniqueness(pairwise_distances(mine), pairwise_distances(theirs))
    (expected,) = torch.autograd.grad(score, inputs)
    torch.testing.assert_close(maps, expected * inputs.detach())


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
    options = {"objective": "uniqueness", "pool": 1, "combine": "elementwise", "center": True}
    expected = UniCAM(student, student.second, base, feature_layer=student.third, **options)
    tokens = UniCAM(
        *(ours, ours.tokens, theirs),
        feature_layer=ours.later,
        reshape_transform=lambda value: value.movedim(-1, 1),
        **options,
    )
    torch.testing.assert_close(tokens.attribute(images()), expected.attribute(images()))


def test_recommended_takes_the_last_two_stages_where_they_are_known() -> None:
    torch.manual_seed(0)
    student, base = small_resnet(4).eval(), small_resnet(6).eval()
    inputs = torch.randn(6, 3, 32, 32)
    options = {"objective": "uniqueness", "pool": 1, "center": True}
    more = {"combine": "elementwise", "contrast": True, "class_evidence": True}
    explicit = UniCAM(
        *(student, student.layer2, base),
        feature_layer=[student.layer3, student.layer4],
        base_feature_layer=[base.layer3, base.layer4],
        **options,
        **more,
    )
    recommended = UniCAM.recommended(student, student.layer2, base)
    assert torch.equal(recommended.attribute(inputs), explicit.attribute(inputs))
    own = UniCAM.recommended(student, student.layer2, base, feature_layer=None)
    assert torch.equal(
        own.attribute(inputs), UniCAM(student, student.layer2, base, **options, **more).attribute(inputs)
    )
    assert UniCAM.recommended(student, student.layer2, base, pool=2).pool == 2


def test_models_of_unknown_stages_are_explained_by_their_own_features() -> None:
    student, base = pair()
    recommended = UniCAM.recommended(student, student.second, base)
    settings = {"objective": "uniqueness", "pool": 1, "center": True, "contrast": True}
    settings |= {"combine": "elementwise", "class_evidence": True}
    explicit = UniCAM(student, student.second, base, **settings)
    torch.testing.assert_close(recommended.attribute(images()), explicit.attribute(images()))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vgg11", "densenet121", "squeezenet1_1"])
def test_convolutional_networks_of_torchvision_are_explained_by_all_their_features(name: str) -> None:
    torch.manual_seed(0)
    student, base = (torchvision.models.get_model(name, num_classes=3).eval() for _ in range(2))
    inputs = torch.randn(4, 3, 64, 64)
    recommended = UniCAM.recommended(student, student.features[2], base)
    explicit = UniCAM.recommended(student, student.features[2], base, feature_layer=student.features)
    own = UniCAM.recommended(student, student.features[2], base, feature_layer=None)
    found = recommended.attribute(inputs)
    torch.testing.assert_close(found, explicit.attribute(inputs))
    assert not torch.allclose(found, own.attribute(inputs))


def test_a_torchvision_pair_with_frozen_weights() -> None:
    torch.manual_seed(0)
    student, base = torchvision.models.resnet18(num_classes=3), torchvision.models.resnet34(num_classes=3)
    layers = [student.layer1, student.layer4]
    both = UniCAM.recommended(student, layers, base, [base.layer1, base.layer4]).attribute_all(
        torch.randn(4, 3, 64, 64)
    )
    assert [tuple(maps.shape) for maps in both.distilled] == [(4, 1, 16, 16), (4, 1, 2, 2)]
    for distilled, residual in zip(*both, strict=True):
        assert not (distilled * residual).any()


def test_captums_tools_copies_wrappers_and_precisions() -> None:
    torch.manual_seed(0)
    student, base = small_resnet(4).eval(), small_resnet(4).eval()
    inputs, reference = torch.randn(5, 3, 32, 32), torch.randn(12, 3, 32, 32)
    unicam = UniCAM.recommended(student, student.layer2, base, reference=reference)
    expected = unicam.attribute(inputs)
    assert torch.equal(copy.deepcopy(unicam).attribute(inputs), expected)
    wrapped = UniCAM.recommended(nn.DataParallel(student), student.layer2, base, reference=reference)
    assert torch.equal(wrapped.attribute(inputs), expected)
    still = NoiseTunnel(unicam).attribute(inputs, nt_samples=2, stdevs=1e-9)
    torch.testing.assert_close(still, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))

    def maps(value: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor]:
        return (unicam.attribute(value[0]),) if isinstance(value, tuple) else unicam.attribute(value)

    assert (sensitivity_max(maps, inputs, n_perturb_samples=2) > 0).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert unicam.attribute(inputs).dtype == torch.float32
    half = [copy.deepcopy(model).bfloat16() for model in (student, base)]
    low = UniCAM.recommended(half[0], half[0].layer2, half[1], reference=reference.bfloat16())
    found = low.attribute(inputs.bfloat16())
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_errors() -> None:
    student, base = pair()
    with pytest.raises(ValueError, match="No feature layer depends on Layer 'third' of the student"):
        UniCAM(student, student.third, base, feature_layer=student.first, objective="uniqueness").attribute(
            images()
        )
    with pytest.raises(ValueError, match=r"feature_layer: .*this Conv2d is not in the student"):
        UniCAM(student, student.first, base, feature_layer=base.third)
    with pytest.raises(ValueError, match="base_feature_layer is given, but no feature_layer"):
        UniCAM(student, student.first, base, base_feature_layer=base.third)
    with pytest.raises(TypeError, match=r"feature_layer: .*must be a module"):
        UniCAM(student, student.first, base, feature_layer=3)  # type: ignore[arg-type]
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    twice.append(twice[1])
    with pytest.raises(ValueError, match="is called more than once"):
        UniCAM(twice, twice[0], twice, feature_layer=twice[1], objective="uniqueness").attribute(
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
    student, base = pair()
    ours, theirs = (Several(stages, keep, take) for stages in (student, base))
    plain = [Several(stages, lambda x: x, lambda x: x) for stages in (student, base)]
    expected = UniCAM.recommended(plain[0], plain[0].middle, plain[1], feature_layer=plain[0].later)
    # It is applied to the feature layer, too.
    several = UniCAM.recommended(
        *(ours, ours.middle, theirs),
        feature_layer=ours.later,
        reshape_transform=lambda given: given if isinstance(given, Tensor) else take(given),
    )
    assert several.class_evidence
    torch.testing.assert_close(several.attribute(images()), expected.attribute(images()))
