"""Laying out tokens: on the layers of timm's transformers, whose grids are known."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from captum_kd import UniCAM
from captum_kd.models.activations import layer_activations
from captum_kd.models.layers import default_layers, find_layer
from captum_kd.models.tokens import channels_last, tokens_to_image

ARCHITECTURES = {
    "deit_tiny_distilled_patch16_224": (192, 14),
    "vit_pwee_patch16_reg1_gap_256": (256, 16),
    "mixer_s32_224": (512, 7),
    "swin_tiny_patch4_window7_224": (768, 7),
    "pvt_v2_b0": (256, 7),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_last_layers_of_known_architectures(name: str) -> None:
    model = timm.create_model(name, num_classes=2).eval()
    layer = find_layer(model, default_layers(model)[-1])
    image = torch.zeros(1, *model.default_cfg["input_size"])
    (activations,), _ = layer_activations(model, [layer], image, reshape_transform=tokens_to_image)
    channels, side = ARCHITECTURES[name]
    assert activations.shape == (1, channels, side, side)


def test_tokens_are_in_the_order_of_positions() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    tokens = image.flatten(2).transpose(1, 2)
    before = torch.full((2, 2, 3), -1.0)
    assert torch.equal(tokens_to_image(tokens), image)
    assert torch.equal(tokens_to_image(torch.cat([before, tokens], dim=1)), image)
    assert torch.equal(tokens_to_image(image.movedim(1, -1)), image)
    assert tokens_to_image(image) is image


def test_shapes_that_are_no_tokens() -> None:
    with pytest.raises(ValueError, match=r"are needed, got shape \(2, 3\)"):
        tokens_to_image(torch.zeros(2, 3))
    with pytest.raises(
        ValueError, match=r"98 tokens are 9 x 9 positions and 17 others.* not seem to be square"
    ):
        tokens_to_image(torch.zeros(2, 14 * 7, 5))
    assert not channels_last(torch.zeros(2, 4, 4, 4))
    assert not channels_last(torch.zeros(2, 8, 4, 4))
    assert not channels_last(torch.zeros(2, 16, 8))


def test_channels_that_come_last_are_pointed_out() -> None:
    def last(x: Tensor) -> Tensor:
        return x.movedim(1, -1)

    layer = type("Last", (torch.nn.Module,), {"forward": lambda self, x: last(x)})()
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), layer, torch.nn.Flatten(), torch.nn.Linear(288, 4))
    images = torch.randn(5, 3, 8, 8)
    with pytest.warns(UserWarning, match=r"Layer '1' .* \(5, 6, 6, 8\).* look like \(n, h, w, c\)"):
        layer_activations(model, [layer], images)
    with pytest.warns(
        UserWarning, match=r"Layer '1' of the (student|base model) .* look like \(n, h, w, c\)"
    ):
        UniCAM.recommended(model, layer, model).attribute(images)
    maps = UniCAM(model, layer, model, reshape_transform=tokens_to_image).attribute(images)
    assert maps.shape == (5, 1, 6, 6)
