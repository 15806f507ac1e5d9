"""Small residual networks with four stages, for the demo and the benchmark."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock


class SmallResNet(nn.Module):
    """A residual network with one basic block per stage, whose layers are named as in torchvision's ResNets.

    The layers are ``conv1, bn1, relu, layer1, layer2, layer3, layer4, avgpool, fc``. The first convolution
    and every stage but the first halve the resolution: for 56 x 56 pixels the stages have maps of 28, 14, 7
    and 4 pixels a side, with ``width``, 2, 4 and 8 times ``width`` channels (He et al., "Deep Residual
    Learning for Image Recognition", CVPR 2016).

    Args:
        width: The number of channels of the first stage, at least 1.
        num_classes: The number of outputs, at least 1.

    Raises:
        ValueError: ``width`` or ``num_classes`` is less than 1.
    """

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        _check_sizes(width, num_classes)
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: Normalised images ``(n, 3, height, width)``.

        Returns:
            Logits ``(n, num_classes)``.
        """
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(features), 1))
        return logits


def small_resnet(width: int = 16, num_classes: int = 10) -> SmallResNet:
    """Build a :class:`SmallResNet` with fresh weights.

    Args:
        width: The number of channels of the first stage. The demo's base model and student have 16, its
            teacher has 24.
        num_classes: The number of outputs.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: ``width`` or ``num_classes`` is less than 1.

    Example:
        >>> model = small_resnet(width=16).eval()
        >>> model(torch.zeros(2, 3, 56, 56)).shape
        torch.Size([2, 10])
        >>> model.layer4[-1].conv2.out_channels
        128
    """
    return SmallResNet(width, num_classes)


def small_regnet(width: int = 16, num_classes: int = 10) -> RegNet:
    """Build a small torchvision RegNetY with fresh weights and the resolutions of a :class:`SmallResNet`.

    Each stage is one bottleneck of grouped convolutions with squeeze and excitation (Radosavovic et al.,
    "Designing Network Design Spaces", CVPR 2020). It serves to compare architectures of different families.
    Its stages are ``trunk_output.block1`` to ``trunk_output.block4``.

    Args:
        width: The number of channels of the first stage, and of every group; the stages have 1, 2, 4 and 8
            times as many.
        num_classes: The number of outputs.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: ``width`` or ``num_classes`` is less than 1.

    Example:
        >>> model = small_regnet(width=8).eval()
        >>> model.trunk_output(model.stem(torch.zeros(1, 3, 56, 56))).shape
        torch.Size([1, 64, 4, 4])
    """
    _check_sizes(width, num_classes)
    parameters = BlockParams(
        depths=[1] * 4,
        widths=[width * factor for factor in (1, 2, 4, 8)],
        group_widths=[width] * 4,
        bottleneck_multipliers=[1.0] * 4,
        strides=[1, 2, 2, 2],
        se_ratio=0.25,
    )
    return RegNet(parameters, num_classes, stem_width=width)


def _check_sizes(width: int, num_classes: int) -> None:
    for name, value in (("width", width), ("num_classes", num_classes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut: nn.Module | None = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
        )
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut))
