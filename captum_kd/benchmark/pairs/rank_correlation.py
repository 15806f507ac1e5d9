"""Spearman's rank correlation."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kd.metrics.localization import pixel_ranks


def spearman(values: Tensor) -> Tensor:
    """Spearman's rank correlation of both rows of ``(2, n)``; NaN where a row is constant.

    Example:
        >>> spearman(torch.tensor([[0.1, 0.2, 0.9], [5.0, 7.0, 6.0]])).round(decimals=3)
        tensor(0.5000, dtype=torch.float64)
    """
    ranks = pixel_ranks(values.contiguous())
    x, y = ranks - ranks.mean(1, keepdim=True)
    norms = x.norm() * y.norm()
    return (x @ y / norms).clamp(-1, 1) if norms > 0 else torch.tensor(torch.nan, dtype=torch.float64)
