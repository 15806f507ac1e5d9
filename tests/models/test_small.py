from __future__ import annotations

import pytest
import torch
from torchvision.models.resnet import BasicBlock, ResNet

from captum_kd.models.small import small_regnet, small_resnet


@pytest.mark.parametrize("width", [16, 24])
def test_stages_have_the_documented_sizes(width):
    model = small_resnet(width).eval()
    shapes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update({name: output.shape[1:]})
        )
    assert model(torch.zeros(2, 3, 56, 56)).shape == (2, 10)
    assert shapes == {
        "layer1": (width, 28, 28),
        "layer2": (2 * width, 14, 14),
        "layer3": (4 * width, 7, 7),
        "layer4": (8 * width, 4, 4),
    }


def test_agrees_with_torchvision_where_it_can_build_the_same_network():
    """torchvision's ResNet is fixed at width 64 and has another stem; the rest must be the same."""
    theirs = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).eval()
    ours = small_resnet(width=64, num_classes=7).eval()
    assert [name for name, _ in ours.named_children()] == [
        name for name, _ in theirs.named_children() if name != "maxpool"
    ]
    theirs.conv1, theirs.maxpool = ours.conv1, torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("arguments", [{"width": 0}, {"num_classes": 0}])
def test_bad_input(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        small_resnet(**arguments)
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        small_regnet(**arguments)
