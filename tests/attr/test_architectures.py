"""Real architectures of torchvision and timm."""

from __future__ import annotations

import pytest
import torch
import torchvision
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer

from captum_kd import UniCAM

IMAGES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(6) % 3
STAGES = ["layer1", "layer2", "layer3", "layer4"]


def timm_resnet() -> ResNet:
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10).eval()


def test_a_torchvision_student_beside_a_timm_base() -> None:
    torch.manual_seed(0)
    student, base = torchvision.models.resnet18(num_classes=10).eval(), timm_resnet()
    unicam = UniCAM(student, [student.get_submodule(name) for name in STAGES], base)
    distilled, residual = unicam.attribute_all(IMAGES, TARGET)
    assert [m.shape[-1] for m in distilled] == [16, 8, 4, 2]
    assert [m.shape[-1] for m in residual] == [16, 8, 4, 2]
    assert all(m.max() > 0 for m in [*distilled, *residual])


def test_a_vision_transformer_through_reshape_transform() -> None:
    torch.manual_seed(0)
    options = {
        "img_size": 64,
        "patch_size": 16,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "num_classes": 10,
    }
    student, base = (VisionTransformer(**options).eval() for _ in range(2))

    def without_class_token(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    maps = UniCAM.recommended(
        student, student.blocks[1], base, reshape_transform=without_class_token
    ).attribute(IMAGES)
    assert maps.shape == (6, 1, 4, 4)
    assert maps.max() > 0


@pytest.mark.parametrize("combine", ["channel", "elementwise"])
def test_a_layer_of_text_models_has_positions_in_one_dimension(combine: str) -> None:
    torch.manual_seed(0)
    student, base = (
        torch.nn.Sequential(
            torch.nn.Conv1d(4, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(80, 3)
        )
        for _ in range(2)
    )
    maps = UniCAM(student, student[1], base, combine=combine, pool=3).attribute(torch.randn(6, 4, 12), TARGET)
    assert maps.shape == (6, 1, 10)
    assert maps.max() > 0
