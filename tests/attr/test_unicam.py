"""UniCAM's maps: against the published form, autograd and itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.attr.methods import CentredUniCAM
from captum_kd.functional import pairwise_distances, row_max, semipartial_distance_correlation, uniqueness
from captum_kd.models.activations import layer_activations
from tests.networks import Network, classes, images, pair


def published_map(x: Tensor, z: Tensor, embeddings: Tensor) -> Tensor:
    """Eq. 1 to 6 as the published code computes them: broadcast distances, full autograd."""
    x = x.detach().clone().requires_grad_()

    def distances(a: Tensor) -> Tensor:
        squared = (a.flatten(1)[:, None] - a.flatten(1)[None]).square().sum(-1)
        off = ~torch.eye(len(a), dtype=torch.bool)
        return torch.where(off, torch.where(off, squared, 1.0).sqrt(), 0.0)

    def project(d: Tensor) -> Tensor:
        n = len(d)
        p = d - d.sum(0, keepdim=True) / (n - 2) - d.sum(1, keepdim=True) / (n - 2)
        p = p + d.sum() / ((n - 1) * (n - 2))
        return p * (1 - torch.eye(n, dtype=d.dtype))

    def inner(p: Tensor, q: Tensor) -> Tensor:
        return (p * q).sum() / (len(p) * (len(p) - 3))

    p_x, p_z, p_g = (project(distances(a)) for a in (x, z, embeddings))
    unique = p_x - inner(p_x, p_z) / inner(p_z, p_z) * p_z
    score = inner(unique, p_g) / (inner(unique, unique) * inner(p_g, p_g)).sqrt()
    (gradient,) = torch.autograd.grad(score, x)
    return (gradient.mean(dim=(2, 3), keepdim=True) * x.detach()).sum(1, keepdim=True).relu()


@pytest.mark.parametrize("features", ["distilled", "residual"])
def test_default_is_the_published_map(features: str) -> None:
    student, base = (m.double() for m in pair())
    x, target = images().double(), classes()
    embeddings = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    maps = UniCAM(student, student.second_relu, base, label_embeddings=embeddings).attribute(
        x, target, features=features
    )
    explained, other = (student, base) if features == "distilled" else (base, student)
    (a,), _ = layer_activations(explained, [explained.second_relu], x)
    (b,), _ = layer_activations(other, [other.second_relu], x)
    expected = published_map(a, b, embeddings[target])
    assert maps.shape == (12, 1, 8, 8)
    assert expected.max() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-12 * expected.max().item())


def test_float32_is_close_to_float64() -> None:
    student, base = pair()
    single = UniCAM(student, student.second_relu, base).attribute(images(), classes())
    student, base = student.double(), base.double()
    double = UniCAM(student, student.second_relu, base).attribute(images().double(), classes())
    assert single.dtype == torch.float32
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5 * double.max().item())


@pytest.mark.parametrize("combine", ["channel", "elementwise"])
@pytest.mark.parametrize("pool", [None, 1, 3])
def test_callable_equals_built_in(combine: str, pool: int | None) -> None:
    student, base = pair()
    options = {"combine": combine, "pool": pool}
    named = UniCAM(student, student.second_relu, base, objective="uniqueness", **options)
    passed = UniCAM(student, student.second_relu, base, objective=lambda e, o, g: uniqueness(e, o), **options)
    assert torch.equal(named.attribute(images(), classes()), passed.attribute(images(), classes()))


def test_objectives_and_options_change_the_map() -> None:
    student, base = pair()
    settings_ = [
        {},
        {"objective": "uniqueness"},
        {"objective": row_max},
        {"combine": "elementwise"},
        {"pool": 1},
    ]
    maps = [UniCAM(student, student.second_relu, base, **s).attribute(images(), classes()) for s in settings_]
    for i, one in enumerate(maps):
        assert one.max() > 0
        assert all(not torch.allclose(one, other) for other in maps[:i])


def test_elementwise_attributions_of_a_normalised_score_sum_to_zero() -> None:
    """Euler: the score is invariant to scale, so its gradient times the activations sums to zero."""
    student, base = pair()
    signed = UniCAM(student, student.second_relu, base, combine="elementwise").attribute(
        images(), classes(), relu_attributions=False
    )
    assert abs(signed.sum()) < 1e-5 * signed.abs().sum()


def test_channel_weights_multiply_like_grad_cam() -> None:
    """With an objective linear in the features, UniCAM's map is Captum's LayerGradCam of that objective."""
    student, base = (m.double() for m in pair())
    x = images(8).double()
    fixed = torch.rand(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def total_distance(explained: Tensor, other: Tensor, labels: Tensor | None) -> Tensor:
        return (fixed * explained).sum()

    class DistanceModel(nn.Module):
        """Its output is the objective, repeated for each sample as Captum needs it."""

        def __init__(self) -> None:
            super().__init__()
            self.student = student

        def forward(self, batch: Tensor) -> Tensor:
            x = student.first_relu(student.first(batch))
            x = student.second_relu(student.second(x)).flatten(1)
            squared = (x[:, None] - x[None]).square().sum(-1)
            off = ~torch.eye(len(x), dtype=torch.bool)
            distances = torch.where(off, torch.where(off, squared, 1.0).sqrt(), 0.0)
            return (fixed * distances).sum().expand(len(x)) / len(x)

    theirs = LayerGradCam(DistanceModel(), student.second_relu).attribute(x)
    ours = UniCAM(student, student.second_relu, base, objective=total_distance).attribute(
        x, relu_attributions=False
    )
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-8, atol=1e-12)


def test_residual_is_distilled_with_roles_swapped() -> None:
    student, base = pair()
    forwards = UniCAM(student, student.second_relu, base).attribute_all(images(), classes())
    backwards = UniCAM(base, base.second_relu, student).attribute_all(images(), classes())
    assert torch.equal(forwards.distilled, backwards.residual)
    assert torch.equal(forwards.residual, backwards.distilled)


def test_attribute_all_is_attribute_for_every_layer_and_direction() -> None:
    student, base = pair()
    layers = [student.first_relu, student.second_relu]
    both = UniCAM(student, layers, base).attribute_all(images(), classes())
    for i, layer in enumerate(layers):
        single = UniCAM(student, layer, base)
        for features, maps in both._asdict().items():
            assert torch.equal(maps[i], single.attribute(images(), classes(), features=features))


def test_each_model_runs_once_for_all_layers() -> None:
    student, base = pair()
    calls = {"student": 0, "base": 0}

    def count(name: str) -> None:
        calls[name] += 1

    student.head.register_forward_hook(lambda *_: count("student"))
    base.head.register_forward_hook(lambda *_: count("base"))
    UniCAM(student, [student.first_relu, student.second_relu], base).attribute_all(images())
    assert calls == {"student": 1, "base": 1}


def test_identical_models_share_everything() -> None:
    student, _ = pair()
    for objective in ("relevance", "uniqueness", row_max):
        distilled, residual = UniCAM(
            student, student.second_relu, student, student.second_relu, objective=objective
        ).attribute_all(images(), classes())
        assert not distilled.any()
        assert not residual.any()


def test_a_constant_layer_gives_zero_maps() -> None:
    student, base = pair()
    nn.init.zeros_(student.second.weight)
    maps = UniCAM(student, student.second_relu, base).attribute_all(images(), classes())
    assert not maps.distilled.any()
    assert maps.residual.max() > 0


def test_models_may_differ_in_everything() -> None:
    student, base = Network(4, stride=2, seed=1), Network(9, seed=2)
    distilled, residual = UniCAM(student, student.second_relu, base).attribute_all(images(), classes())
    assert distilled.shape == (12, 1, 3, 3)
    assert residual.shape == (12, 1, 8, 8)
    assert distilled.max() > 0
    assert residual.max() > 0


def test_layers_of_other_names_are_paired_by_base_layer() -> None:
    student, base = pair()
    maps = UniCAM(student, student.second_relu, base, base.first_relu).attribute_all(images(), classes())
    assert maps.residual.shape == (12, 1, 10, 10)


def test_layer_input_is_the_previous_output() -> None:
    student, base = pair()
    by_input = UniCAM(student, student.second, base).attribute(
        images(), classes(), attribute_to_layer_input=True
    )
    by_output = UniCAM(student, student.first_relu, base).attribute(images(), classes())
    torch.testing.assert_close(by_input, by_output)


def test_signed_and_per_channel_maps() -> None:
    student, base = pair()
    unicam = UniCAM(student, student.second_relu, base)
    signed = unicam.attribute(images(), classes(), relu_attributions=False)
    channels = unicam.attribute(images(), classes(), relu_attributions=False, attr_dim_summation=False)
    assert signed.min() < 0
    assert channels.shape == (12, 12, 8, 8)
    torch.testing.assert_close(channels.sum(1, keepdim=True), signed, rtol=1e-4, atol=1e-7)
    assert torch.equal(signed.relu(), unicam.attribute(images(), classes()))


def test_target_none_is_the_prediction_of_the_explained_model() -> None:
    student, base = pair()
    unicam = UniCAM(student, student.second_relu, base)
    with torch.no_grad():
        predicted = {"distilled": student(images()).argmax(1), "residual": base(images()).argmax(1)}
    assert not torch.equal(*predicted.values())
    for features, target in predicted.items():
        assert torch.equal(
            unicam.attribute(images(), features=features),
            unicam.attribute(images(), target, features=features),
        )


def test_one_hot_and_identity_embeddings_agree() -> None:
    student, base = pair()
    one_hot = UniCAM(student, student.second_relu, base).attribute(images(), classes())
    identity = UniCAM(student, student.second_relu, base, label_embeddings=torch.eye(4)).attribute(
        images(), classes()
    )
    torch.testing.assert_close(one_hot, identity)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_samples_does_not_matter(seed: int) -> None:
    student, base = pair()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    unicam = UniCAM(student, student.second_relu, base)
    maps = unicam.attribute(images(), classes())
    permuted = unicam.attribute(images()[order], classes()[order])
    torch.testing.assert_close(permuted, maps[order], rtol=1e-3, atol=1e-5 * maps.max().item())


def test_centring_shifts_the_map_only() -> None:
    """The centred map equals the plain one minus the weights times the channel means."""
    student, base = pair()
    options = {"relu_attributions": False, "attr_dim_summation": False}
    plain = UniCAM(student, student.second_relu, base).attribute(images(), classes(), **options)
    centred = CentredUniCAM(student, student.second_relu, base).attribute(images(), classes(), **options)
    difference = (plain - centred).flatten(2)
    torch.testing.assert_close(difference, difference[..., :1].expand_as(difference), rtol=1e-3, atol=1e-6)
    assert centred.mean(dim=(2, 3)).abs().max() > 0


def test_an_objective_of_the_users_gets_labels_where_they_are_known() -> None:
    student, base = pair()
    given: list[Tensor | None] = []

    def objective(explained: Tensor, other: Tensor, labels: Tensor | None) -> Tensor:
        given.append(labels)
        return uniqueness(explained, other)

    def labels_of(target: Tensor | None, forward: Callable[[Tensor], Tensor] = base) -> Tensor | None:
        given.clear()
        student_, base_ = (student, forward) if forward is base else (forward, forward)
        layers = (student.second_relu, base.second_relu) if forward is base else (base.second_relu,) * 2
        UniCAM(student_, layers[0], base_, layers[1], objective=objective).attribute(images(), target)
        return given[0]

    def distances(target: Tensor) -> Tensor:
        return pairwise_distances(torch.nn.functional.one_hot(target, 4).float())

    torch.testing.assert_close(labels_of(classes()), distances(classes()))
    torch.testing.assert_close(labels_of(None), distances(student(images()).argmax(1)))
    without_scores = nn.Sequential(base, nn.Unflatten(1, (2, 2)))
    assert labels_of(None, without_scores) is None


def test_single_class_warns_and_gives_zero() -> None:
    student, base = pair()
    with pytest.warns(UserWarning, match="one class"):
        maps = UniCAM(student, student.second_relu, base).attribute(images(), target=2)
    assert not maps.any()


def test_the_score_goes_up_along_the_gradient() -> None:
    """Adding the per-position gradient to the activations raises the relevance."""
    student, base = (m.double() for m in pair())
    x, target = images().double(), classes()
    (a,), _ = layer_activations(student, [student.second_relu], x)
    (b,), _ = layer_activations(base, [base.second_relu], x)
    rows = torch.eye(4, dtype=torch.float64)[target]
    maps = UniCAM(student, student.second_relu, base, combine="elementwise").attribute(
        x, target, relu_attributions=False, attr_dim_summation=False
    )
    gradient = torch.where(a != 0, maps / torch.where(a != 0, a, 1.0), 0.0)
    before = semipartial_distance_correlation(a, rows, b)
    step = 1e-3 / gradient.abs().max()
    assert semipartial_distance_correlation(a + step * gradient, rows, b) > before
