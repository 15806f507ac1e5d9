"""Small networks that the tests explain."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Two convolutional stages and a classifier, with batch normalisation, dropout and in-place ReLUs."""

    def __init__(self, channels: int = 6, stride: int = 1, classes: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Conv2d(3, channels, 3, stride=stride), nn.BatchNorm2d(channels))
            self.first_relu = nn.ReLU(inplace=True)
            self.second = nn.Conv2d(channels, 2 * channels, 3)
            self.second_relu = nn.ReLU()
            self.dropout = nn.Dropout(0.5)
            self.head = nn.Linear(2 * channels, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first_relu(self.first(images))
        x = self.second_relu(self.second(x))
        x = x.mean(dim=(2, 3))
        return self.head(self.dropout(x - x.mean(dim=1, keepdim=True)))


def pair(**options: int) -> tuple[Network, Network]:
    """A student and a base model in evaluation mode."""
    return Network(seed=5, **options).eval(), Network(seed=6, **options).eval()


def images(count: int = 12, seed: int = 0) -> Tensor:
    """Noise images of 12 pixels a side, of many colours so that predictions differ."""
    generator = torch.Generator().manual_seed(seed)
    colours = 3 * torch.randn(count, 3, 1, 1, generator=generator)
    return colours + torch.randn(count, 3, 12, 12, generator=generator)


def classes(count: int = 12) -> Tensor:
    """Targets of four classes."""
    return torch.arange(count) % 4
