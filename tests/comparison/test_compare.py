"""compare(): the numbers are those of the functions it is made of, whatever the batches."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation, LayerIntegratedGradients
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from captum_kd import DeepUniCAM, LabelEmbeddings, UniCAM
from captum_kd.attr.methods import CentredUniCAM
from captum_kd.comparison.compare import compare
from captum_kd.datasets.demo_pair import load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import normalise
from captum_kd.functional import distance_correlation, row_max, semipartial_distance_correlation
from captum_kd.models.activations import layer_activations
from captum_kd.models.small import small_resnet
from tests.comparison.quick import LAYERS, QUICK, REFERENCE, batches, pooled, quick, statistics
from tests.networks import Network, classes, images, pair


def test_scores_are_those_of_the_features_captured_by_hand() -> None:
    torch.manual_seed(0)
    student, base, teacher = small_resnet(4).eval(), small_resnet(6).eval(), small_resnet(8).eval()
    planted = load_demo_images()
    inputs, labels = normalise(planted.images[:60]), planted.labels[:60]
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=16)
    names = ["layer1", "layer3", "avgpool"]
    found = compare(student, base, names, loader, teacher=teacher, methods=(), seed=3, **QUICK)

    # A quarter is the reference.
    scored, rows = inputs[15:], nn.functional.one_hot(labels[15:]).float()
    assert found.settings.samples == 45
    assert found.settings.reference == 15
    s, b, t = ([pooled(m, name, scored) for name in names] for m in (student, base, teacher))
    for i, name in enumerate(names):
        expected = {
            "FSS": statistics(s[i], b[i], estimator="biased"),
            "RS student": statistics(s[i], rows),
            "RS base": statistics(b[i], rows),
            "RS distilled": statistics(s[i], rows, given=b[i]),
            "RS residual": statistics(b[i], rows, given=s[i]),
            "RS teacher": statistics(t[i], rows),
            "FSS teacher and student": statistics(t[i], s[i], estimator="biased"),
            "FSS teacher and base": statistics(t[i], b[i], estimator="biased"),
            "dCor with avgpool, student": statistics(s[i], s[-1]),
            "dCor with avgpool, base": statistics(b[i], b[-1]),
            "dCor with avgpool, teacher": statistics(t[i], t[-1]),
        }
        mine = [row for row in found.rows if row["layer"] == name]
        assert [row["quantity"] for row in mine] == list(expected)
        for quantity, score in expected.items():
            got = found.score(quantity, name)
            assert got[:6] == pytest.approx(score[:6], abs=1e-4), quantity
            assert got[6:] == score[6:]
    for name, model in (("student", student), ("base", base), ("teacher", teacher)):
        right = (model(scored).argmax(1) == labels[15:]).double().mean().item()
        assert found.accuracy[name] == right


def test_the_demo_pair_has_the_scores_and_maps_of_the_functions() -> None:
    models, planted = load_demo_models(), load_demo_images()
    inputs, labels = normalise(planted.images[:160]), planted.labels[:160]
    data = list(zip(inputs[32:].split(50), labels[32:].split(50), strict=True))
    reference = (inputs[:32], labels[:32])
    options: dict[str, Any] = {**QUICK, "permutations": 199}
    found = compare(models.student, models.base, "layer3", data, reference=reference, shown=4, **options)
    student, base = (pooled(m, "layer3", inputs[32:]) for m in (models.student, models.base))
    rows = nn.functional.one_hot(labels[32:]).double()
    for quantity, expected in {
        "FSS": distance_correlation(student, base, estimator="biased"),
        "RS student": distance_correlation(student, rows),
        "RS base": distance_correlation(base, rows),
        "RS distilled": semipartial_distance_correlation(student, rows, base),
        "RS residual": semipartial_distance_correlation(base, rows, student),
    }.items():
        assert found.score(quantity, "layer3").value == pytest.approx(float(expected), abs=1e-5)
    # What the student has beyond the base model follows the labels; the reverse follows the cue.
    assert found.score("RS distilled", "layer3").low > found.score("RS residual", "layer3").high
    layer = models.student.layer3
    unicam = UniCAM.recommended(models.student, layer, models.base, reference=inputs[:32])
    for maps, expected in zip(
        found.maps["student"]["layer3"]["UniCAM, recommended"],
        unicam.attribute_all(inputs[32:36], relu_attributions=True),
        strict=True,
    ):
        torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_batches_do_not_matter(size: int) -> None:
    student, base = pair()
    methods = ("Grad-CAM difference", "UniCAM, published objective", "UniCAM, uniqueness")
    options: dict[str, Any] = {"reference": None, "methods": methods, "kept_share": 0.2, "shown": 5}
    one = quick(student, base, batches(40, 16), **options)
    other = quick(student, base, batches(40, size), **options)
    for a, b in zip(one.rows, other.rows, strict=True):
        assert (a["layer"], a["quantity"]) == (b["layer"], b["quantity"])
        # Imputed pixels have noise, drawn batch by batch.
        assert a["value"] == pytest.approx(b["value"], abs=0.05 if "kept" in a["quantity"] else 1e-5)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.images, images(40)[10:15])
    for layer in LAYERS:
        for method in methods:
            for a, b in zip(*(c.maps["student"][layer][method] for c in (one, other)), strict=True):
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
                assert a.any()


def test_only_features_and_the_shown_images_are_kept() -> None:
    alive: list[Any] = []

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(6):
            batch = images(8, seed=i + 2)
            alive.append(weakref.ref(batch))
            yield batch, classes(8)
            del batch
            assert sum(ref() is not None for ref in alive) <= 2

    assert quick(*pair(), data(), shown=2).settings.samples == 48


def test_what_methods_decide_by_themselves_is_recorded() -> None:
    torch.manual_seed(0)
    student, base = small_resnet(4), small_resnet(4)
    data = [(torch.randn(24, 3, 32, 32), torch.arange(24) % 4)]
    options: dict[str, Any] = {"layers": ["layer2"], "reference": None}
    one = quick(student, base, data, methods=["UniCAM, recommended", "Grad-CAM"], **options)
    assert one.settings.decisions == {"UniCAM, recommended": "features of layer3 and layer4"}
    assert "features of layer3 and layer4" in one.to_html()
    transform = {"reshape_transform": lambda value: value}
    with pytest.warns(UserWarning, match="own features, since with a reshape_transform"):
        own = quick(student, base, data, methods="UniCAM, recommended", **options, **transform)
    assert own.settings.decisions == {"UniCAM, recommended": "own features"}


def test_maps_are_those_of_the_methods() -> None:
    student, base = pair()
    names = [f"UniCAM, {n}" for n in ("published objective", "row maximum", "uniqueness", "recommended")]
    found = quick(student, base, methods=[*names, "Grad-CAM", "Grad-CAM difference"], shown=6)
    shown, target = images(24)[:6], classes(6)
    layers = [student.get_submodule(name) for name in LAYERS]
    methods = [
        UniCAM(student, layers, base, reference=REFERENCE),
        UniCAM(student, layers, base, reference=REFERENCE, objective=row_max),
        CentredUniCAM(student, layers, base, reference=REFERENCE, objective="uniqueness", pool=1),
        DeepUniCAM(student, layers, base, reference=REFERENCE, feature_layer=None),
    ]
    for name, method in zip(names, methods, strict=True):
        assert found.sides[name] == ("distilled", "residual")
        # The recommended maps are of what each model predicts.
        asked = None if name == "UniCAM, recommended" else target
        for side, maps in enumerate(method.attribute_all(shown, asked)):
            for layer, expected in zip(LAYERS, maps, strict=True):
                positive = expected.relu()
                torch.testing.assert_close(found.maps["student"][layer][name][side], positive)
    for layer in LAYERS:
        peaked = []
        for side, model in enumerate((student, base)):
            predicted = model(shown).argmax(1)
            expected = LayerGradCam(model, model.get_submodule(layer)).attribute(
                shown, predicted, relu_attributions=True
            )
            torch.testing.assert_close(found.maps["student"][layer]["Grad-CAM"][side], expected.detach())
            peak = expected.detach().amax((1, 2, 3), keepdim=True)
            peaked.append(torch.where(peak > 0, expected.detach() / peak, 0))
        ours, theirs = found.maps["student"][layer]["Grad-CAM difference"]
        torch.testing.assert_close(ours - theirs, peaked[0] - peaked[1])
        assert not (ours * theirs).any()


def test_a_captum_class_is_captum_called_directly() -> None:
    student, base = pair()
    for parameter in base.parameters():
        parameter.requires_grad_(False)

    def brightness(model: nn.Module, layer: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        assert not model.training
        return inputs.sum(1, keepdim=True) + target.reshape(-1, 1, 1, 1)

    methods = {
        "activation": LayerGradientXActivation,
        "integrated": LayerIntegratedGradients,
        "mine": brightness,
        "ours": "UniCAM, uniqueness",
    }
    with torch.no_grad():
        found = quick(student, base, methods=methods, shown=3)
    shown = images(24)[:3].requires_grad_()
    for side, model in enumerate((student, base)):
        predicted = model(shown).argmax(1)
        for layer in LAYERS:
            for name in ("activation", "integrated"):
                captum_method: Any = methods[name]
                method = captum_method(model, model.get_submodule(layer))
                expected = method.attribute(shown, target=predicted).sum(1, keepdim=True).detach()
                torch.testing.assert_close(found.maps["student"][layer][name][side].to(expected), expected)
            mine = shown.detach().sum(1, keepdim=True) + predicted.reshape(-1, 1, 1, 1)
            torch.testing.assert_close(found.maps["student"][layer]["mine"][side], mine)
    assert found.sides["activation"] == ("student", "base")
    assert found.sides["ours"] == ("distilled", "residual")


def test_several_students_are_each_compared_with_the_base_model() -> None:
    first, base = pair()
    second = Network(seed=7, channels=5).eval()
    both = quick({"first": first, "second": second}, base, methods=["Grad-CAM"])
    assert both.students == ("first", "second")
    for name, student in (("first", first), ("second", second)):
        alone = quick({name: student}, base, methods=["Grad-CAM"])
        assert [r for r in both.rows if r["student"] == name] == alone.rows
        assert both.accuracy[name] == alone.accuracy[name]
        for layer in LAYERS:
            for a, b in zip(
                both.maps[name][layer]["Grad-CAM"], alone.maps[name][layer]["Grad-CAM"], strict=True
            ):
                assert torch.equal(a, b)


def test_label_embeddings_and_pooling_reach_the_scores() -> None:
    student, base = pair()
    embeddings = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    found = quick(
        student, base, label_embeddings=LabelEmbeddings(embeddings, tuple("abcd"), "mine", "none"), pool=2
    )
    features = [
        nn.functional.adaptive_avg_pool2d(layer_activations(m, [m.second_relu], images(24)).activations[0], 2)
        for m in (student, base)
    ]
    expected = statistics(features[0], embeddings[classes(24)], given=features[1])
    assert found.score("RS distilled", "second_relu").value == pytest.approx(expected.value, abs=1e-6)
    assert found.settings.class_names == tuple("abcd")


def test_models_and_random_state_are_left_as_they_were() -> None:
    student, base = pair()
    student.train()
    student.dropout.eval()
    flags = [m.training for m in (*student.modules(), *base.modules())]
    torch.manual_seed(11)
    state = torch.get_rng_state()
    quick(
        student,
        base,
        DataLoader(TensorDataset(images(24), classes(24)), 8, shuffle=True),
        methods=["Grad-CAM"],
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in (*student.modules(), *base.modules())] == flags
    for module in (*student.modules(), *base.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert all(p.grad is None for p in student.parameters())


def test_tokens_are_refused() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).transpose(1, 2)

    models = [nn.Sequential(Tokens(), nn.Linear(3, 4)) for _ in range(2)]
    with pytest.raises(
        ValueError, match=r"Layer '1' of the student gives activations of shape \(8, 144, 4\)"
    ):
        quick(*models, layers=["1"])
