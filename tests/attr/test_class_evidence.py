"""Class evidence in DeepUniCAM maps: against Captum's gradient methods, and identities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from captum_kd import DeepUniCAM, UniCAM
from captum_kd.benchmark.localization.ablations import ChannelWeights, NotCentred
from captum_kd.models.gradients import forward_with_graph
from captum_kd.models.targets import TwoLogits
from tests.attr.test_deep_unicam import COUNT, Stages, images, pair


def spread(maps: Tensor) -> Tensor:
    return maps.flatten(1).std(dim=1, correction=0).reshape(-1, 1, 1, 1)


def captums_evidence(model: Stages, layer: nn.Module, combine: str, target: Any) -> Tensor:
    classes = model(images()).argmax(1) if target is None else target
    if combine == "channel":
        maps = LayerGradCam(model, layer).attribute(images(), classes, relu_attributions=True)
    else:
        found = LayerGradientXActivation(model, layer).attribute(images(), classes)
        maps = found.sum(1, keepdim=True).relu()
    return maps.detach() / spread(maps.detach())


@pytest.mark.parametrize("method", [ChannelWeights, DeepUniCAM])
@pytest.mark.parametrize("target", [None, 2, torch.arange(COUNT) % 4])
@pytest.mark.parametrize("own_features", [False, True])
def test_evidence_is_that_of_captums_gradient_methods(
    method: type[DeepUniCAM], target: Any, own_features: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, base = pair()
    # Captum knows nothing of centred activations.
    monkeypatch.setattr(method, "_activations", NotCentred._activations)
    options = {"feature_layer": None if own_features else student.third}
    unique = method(student, student.first, base, class_evidence=False, **options)
    both = method(student, student.first, base, **options)
    found = both.attribute_all(images(), target)
    alone = unique.attribute_all(images(), target)
    combine = "channel" if method is ChannelWeights else "elementwise"
    ours, theirs = (captums_evidence(model, model.first, combine, target) for model in (student, base))
    for maps, without, beyond in zip(found, alone, (ours - theirs, theirs - ours), strict=True):
        torch.testing.assert_close(maps, without + beyond * spread(without) / spread(beyond))


def test_without_a_target_each_model_is_asked_for_its_own_prediction() -> None:
    student, _ = pair()
    twin = Stages().double()
    twin.load_state_dict(student.state_dict())
    with torch.no_grad():
        twin.first.weight += 1e-3
    unicam = DeepUniCAM(student, student.second, twin, feature_layer=student.third)
    predicted = student(images()).argmax(1)
    assert torch.equal(predicted, twin(images()).argmax(1))
    maps = unicam.attribute(images())
    torch.testing.assert_close(unicam.attribute(images(), predicted), maps)
    another = unicam.attribute(images(), (predicted + 1) % 4)
    assert not torch.allclose(another, maps)


def test_identical_models_have_zero_maps_whatever_their_evidence() -> None:
    student, _ = pair()
    twin = Stages().double()
    twin.load_state_dict(student.state_dict())
    unicam = DeepUniCAM(student, student.first, twin, feature_layer=student.third)
    for maps in unicam.attribute_all(images()):
        assert not maps.any()


def test_exchanged_models_exchange_the_sign() -> None:
    student, base = pair()
    one = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    other = DeepUniCAM(base, base.first, student, feature_layer=base.third)
    maps = one.attribute(images())
    torch.testing.assert_close(other.attribute(images()), -maps)


def test_sizes_may_differ() -> None:
    student, base = pair()
    options = {"feature_layer": student.third, "base_feature_layer": base.third}
    unicam = DeepUniCAM(student, student.first, base, base.second, **options)
    distilled, residual = unicam.attribute_all(images())
    assert (distilled.shape, residual.shape) == ((COUNT, 1, 8, 8), (COUNT, 1, 4, 4))


def test_a_map_of_one_position_has_no_evidence() -> None:
    torch.manual_seed(0)
    student, base = (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double() for _ in range(2))
    inputs = torch.randn(8, 5, dtype=torch.float64)
    with_evidence = DeepUniCAM(student, student[0], base, feature_layer=student[1])
    without = DeepUniCAM(student, student[0], base, feature_layer=student[1], class_evidence=False)
    torch.testing.assert_close(with_evidence.attribute(inputs), without.attribute(inputs))


def test_tracing_keeps_the_graph_from_the_first_layer_only_and_leaves_parameters_as_they_were() -> None:
    student, _ = pair()
    student.first.bias.requires_grad_(False)
    flags = [p.requires_grad for p in student.parameters()]
    (second, third), _ = forward_with_graph(student, [student.second, student.third], images())
    assert second.is_leaf
    assert not third.is_leaf
    assert [p.requires_grad for p in student.parameters()] == flags
    with pytest.raises(RuntimeError):
        forward_with_graph(student, [student.second], images()[:, :1])
    assert [p.requires_grad for p in student.parameters()] == flags
    loss = student(images()).sum()
    forward_with_graph(student, [student.second], images())
    loss.backward()  # a graph of the user's is not disturbed
    assert student.first.weight.grad is not None


def test_errors() -> None:
    student, base = pair()

    class Pooled(nn.Module):
        def __init__(self, stages: Stages) -> None:
            super().__init__()
            self.stages = stages

        def forward(self, inputs: Tensor) -> Any:
            return {"scores": self.stages(inputs)}

    ours, theirs = Pooled(student), Pooled(base)
    unicam = DeepUniCAM(ours, student.first, theirs, base.first, feature_layer=None)
    with pytest.raises(ValueError, match=r"class scores of shape \(8, num_classes\), but the student"):
        unicam.attribute(images())
    with pytest.raises(ValueError, match="dict"):
        unicam.attribute(images(), target=1)
    without = {"class_evidence": False, "feature_layer": None}
    DeepUniCAM(ours, student.first, theirs, base.first, **without).attribute(images())

    class Aside(Stages):
        def forward(self, inputs: Tensor) -> Tensor:
            super().forward(inputs)
            return inputs.flatten(1)[:, :4]

    aside = Aside().double()
    with pytest.raises(ValueError, match="do not depend on Layer 'first' of the student"):
        DeepUniCAM(aside, aside.first, base, base.first, feature_layer=None).attribute(images())


def binary() -> tuple[Stages, Stages]:
    """Classifiers of one output."""
    models = pair()
    for model in models:
        model.fc = nn.Linear(model.fc.in_features, 1, bias=False).double()
        with torch.no_grad():
            model.fc.bias = nn.Parameter(-model(images()).mean(0))
    return models


@pytest.mark.parametrize("target", [None, 0, 1, torch.arange(COUNT) % 2])
def test_one_logit_is_explained_as_two(target: Any) -> None:
    student, base = binary()
    assert 0 < (student(images()) > 0).sum() < COUNT
    options = {"feature_layer": student.third, "base_feature_layer": base.third}
    one = DeepUniCAM(student, student.first, base, base.first, **options)
    two = DeepUniCAM(TwoLogits(student), student.first, TwoLogits(base), base.first, **options)
    torch.testing.assert_close(one.attribute(images(), target), two.attribute(images(), target))
    assert not torch.allclose(one.attribute(images(), 0), one.attribute(images(), 1))


def test_one_logit_has_labels_of_two_classes() -> None:
    student, base = binary()
    one = UniCAM(student, student.second, base)
    two = UniCAM(TwoLogits(student), student.second, TwoLogits(base), base.second)
    torch.testing.assert_close(one.attribute(images()), two.attribute(images()))
    assert one.attribute(images()).any()


@pytest.mark.parametrize("target", [None, 0])
def test_scores_that_are_not_finite_name_their_model(target: Any) -> None:
    student, base = pair()
    with torch.no_grad():
        base.fc.bias[1] = float("nan")
    method = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    with pytest.raises(ValueError, match="The class scores of the base model hold NaN"):
        method.attribute(images(), target)
    with pytest.raises(ValueError, match="The class scores of the base model hold NaN"):
        UniCAM(student, student.first, base).attribute(images())
    DeepUniCAM(student, student.first, base, feature_layer=student.third, class_evidence=False).attribute(
        images()
    )


class Root(Stages):
    """Its head has no finite gradient where a feature is 0."""

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.third(self.again(self.second(self.act(self.first(images)))))
        scores: Tensor = self.fc((0 * hidden).sum((2, 3)).sqrt())
        return scores


def test_gradients_of_scores_that_are_not_finite_name_their_model() -> None:
    student, base = Root().double(), Stages(5).double()
    method = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    message = "gradient of the class scores of the student holds NaN .* at Layer 'first' of the student"
    with pytest.raises(ValueError, match=message):
        method.attribute(images())


def test_models_of_different_classes_are_not_compared_by_their_predictions() -> None:
    student, base = pair()
    base.fc = nn.Linear(base.fc.in_features, 9).double()
    message = "The student has 4 outputs and the base model 9"
    method = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    for one in (method, UniCAM(student, student.first, base)):
        with pytest.raises(ValueError, match=message):
            one.attribute(images())
        one.attribute(images(), torch.arange(COUNT) % 4)
    UniCAM(student, student.first, base, objective="uniqueness").attribute(images())


@pytest.mark.filterwarnings("ignore:All targets are of one class")
def test_embeddings_in_place_of_class_scores_are_said() -> None:
    student, base = pair(width=4)
    for model in (student, base):
        model.fc = nn.Identity()
    method = DeepUniCAM(student, student.first, base, feature_layer=student.third)
    for one in (method, UniCAM(student, student.first, base)):
        with pytest.warns(UserWarning, match="does not look like class scores") as caught:
            one.attribute(images())
        messages = [str(warning.message) for warning in caught]
        for role in ("student", "base model"):
            assert any(f"The output of the {role} does not" in message for message in messages)


class TimeFirst(nn.Module):
    """A block in the middle whose dimension 0 is time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.first(x).movedim(1, 0)).movedim(0, 1)  # (n, 12, 6)
        scores: Tensor = self.last(x.relu().mean(1))
        return scores


@pytest.mark.parametrize("feature_layer", ["last", "block", None])
@pytest.mark.parametrize("layer", ["block", ["first", "block"]])
def test_every_layer_has_the_samples_in_dimension_0(layer: Any, feature_layer: Any) -> None:
    torch.manual_seed(0)
    student, base = TimeFirst(), TimeFirst()
    method = DeepUniCAM(student, layer, base, feature_layer=feature_layer)
    message = r"Layer 'block' of the student gives activations of shape \(12, 8, 6\) for 8 samples"
    with pytest.raises(ValueError, match=message):
        method.attribute(torch.randn(8, 12, 6))


def test_feature_layers_have_the_samples_in_dimension_0() -> None:
    torch.manual_seed(0)
    student, base = TimeFirst(), TimeFirst()
    method = DeepUniCAM(student, "first", base, feature_layer="block", class_evidence=False)
    with pytest.raises(ValueError, match=r"'block' .* for 8 samples; dimension 0 must be the samples"):
        method.attribute(torch.randn(8, 12, 6))
