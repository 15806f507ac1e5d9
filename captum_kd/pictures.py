"""Model inputs as pictures: the one rule of how an image is shown, in figures and on pages."""

from __future__ import annotations

import torch
from torch import Tensor


def as_pictures(images: Tensor) -> Tensor:
    """Images as they are shown: those within [0, 1] as they are, others stretched, each on its own.

    Args:
        images: As a model takes them, floating point ``(n, c, h, w)``.

    Returns:
        float32 ``(n, 3, h, w)`` within [0, 1], on the CPU. One channel is shown as grey; of other numbers
        than one and three, their mean.

    Example:
        >>> normalised = torch.tensor([-2.0, 2.0]).reshape(1, 1, 1, 2)
        >>> as_pictures(normalised)[0, :, 0].tolist()
        [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
        >>> as_pictures(torch.full((1, 3, 1, 1), 0.5)).flatten().tolist()
        [0.5, 0.5, 0.5]
    """
    images = images.detach().float().cpu()
    low, high = (f(images, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    stretched = (images - low) / (high - low).clamp_min(1e-12)
    shown = torch.where((low >= 0) & (high <= 1), images, stretched)
    shown = shown if shown.shape[1] in (1, 3) else shown.mean(dim=1, keepdim=True)
    return shown.expand(-1, 3, -1, -1)
