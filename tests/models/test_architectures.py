"""Classifiers by name."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from captum_kd.models.architectures import build_classifier, default_layers, layer_shapes
from captum_kd.models.small import SmallResNet


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "resnet26d", "small_resnet4", "small_regnet4"]
)
def test_every_library_is_found_and_tells_the_asked_classes(name: str) -> None:
    model = build_classifier(name, 3).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_small_resnets_have_the_width_in_their_name() -> None:
    model = build_classifier("small_resnet4", 3)
    assert isinstance(model, SmallResNet)
    assert model.conv1.out_channels == 4


def test_a_factory_of_the_users_is_called() -> None:
    model = build_classifier("captum_kd.models.small:small_resnet", 7)
    assert isinstance(model, SmallResNet)
    assert model.fc.out_features == 7


def not_a_module(num_classes: int) -> int:
    return num_classes


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnt18", ValueError, r"No classifier is called 'resnt18'. Near matches: .*resnet18.*list_models"),
        ("googlenet", ValueError, "No classifier"),
        ("no.such.module:f", ValueError, "Could not find the factory 'no.such.module:f'"),
        ("captum_kd.models.small:nothing", ValueError, "Could not find the factory.*nothing"),
        (f"{__name__}:not_a_module", TypeError, "must return a torch.nn.Module, got int"),
    ],
)
def test_bad_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_classifier(name, 2)


def test_pretrained_weights_of_a_network_without_any() -> None:
    with pytest.raises(ValueError, match="small_resnet4 has no pre-trained weights"):
        build_classifier("small_resnet4", 2, pretrained=True)


def test_layers_are_listed_with_their_shapes_in_running_order() -> None:
    model = build_classifier("resnet18", 2)
    shapes = layer_shapes(model, 64)
    assert shapes["conv1"] == (64, 32, 32)
    assert shapes["layer3"] == (256, 4, 4)
    assert "fc" not in shapes, "one number a class has no positions"
    names = list(shapes)
    assert names.index("layer1") < names.index("layer2.0.conv1") < names.index("layer2")
    assert not any(module._forward_hooks for module in model.modules())


def test_stages_are_the_default_layers() -> None:
    assert default_layers(build_classifier("small_resnet4", 2)) == ["layer1", "layer2", "layer3", "layer4"]
    regnet = build_classifier("small_regnet4", 2)
    found = default_layers(regnet)
    assert found == [f"trunk_output.block{i}" for i in range(1, 5)]
    shapes, like = (layer_shapes(build_classifier(n, 2), 56) for n in ("small_regnet4", "small_resnet4"))
    assert [shapes[name] for name in found] == [like[f"layer{i}"] for i in range(1, 5)]
    assert default_layers(build_classifier("regnet_y_400mf", 2)) == found  # torchvision's own
    mobile = timm.create_model("mobilenetv3_small_050", num_classes=2)
    found = default_layers(mobile)
    assert len(found) > 2
    assert all(isinstance(mobile.get_submodule(name), nn.Module) for name in found)
    with pytest.raises(ValueError, match=r"stages of AlexNet are not known.*--layers.*features, avgpool"):
        default_layers(build_classifier("alexnet", 2))
