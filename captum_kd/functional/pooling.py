"""Average pooling of activations to features, and their means over positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_activations(activations: Tensor, grid: int | None) -> Tensor:
    """Average-pool activations to a grid, the features that distances are taken between.

    Args:
        activations: Shape ``(n, c, *spatial)`` with any number of spatial dimensions, also none.
        grid: Cells along each spatial dimension (1 is global pooling), or None for the activations.

    Returns:
        Features of shape ``(n, c, *spatial)`` with each spatial size replaced by ``grid``.

    Raises:
        ValueError: ``grid`` is not positive or exceeds a spatial size.

    Example:
        >>> import torch
        >>> pool_activations(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), 1)
        tensor([[[[4.]]]])
    """
    if grid is None:
        return activations
    for dim, pooling in pooling_matrices(activations, grid):
        activations = torch.movedim(torch.movedim(activations, dim, -1) @ pooling.T, -1, dim)
    return activations


def channel_mean(batches: Sequence[Tensor]) -> Tensor:
    """Mean of each channel over the samples and positions of batches.

    Args:
        batches: Activations of shape ``(n, c, *spatial)``, with any ``n``.

    Returns:
        Means of shape ``(c,)``.

    Example:
        >>> channel_mean([torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[5.0, 7.0]]])])
        tensor([4.])
    """
    count = sum(a.numel() // a.shape[1] for a in batches)
    return torch.stack([a.transpose(0, 1).flatten(1).sum(1) for a in batches]).sum(0) / count


def centered(activations: Tensor, mean: Tensor | None = None) -> Tensor:
    """Activations minus a mean per channel, which distances between them do not see but maps do.

    Args:
        activations: Shape ``(n, c, *spatial)``.
        mean: Shape ``(c,)``, for instance of a reference; None: that of the activations themselves.

    Returns:
        Activations of the same shape.

    Example:
        >>> centered(torch.tensor([[[1.0, 3.0]]]))
        tensor([[[-1.,  1.]]])
    """
    mean = channel_mean([activations]) if mean is None else mean
    return activations - mean.reshape(1, -1, *[1] * (activations.dim() - 2))


def positions_of(activations: Tensor) -> int:
    """Number of spatial positions of activations of shape ``(n, c, *spatial)``."""
    return math.prod(activations.shape[2:])


def pooling_matrices(activations: Tensor, grid: int) -> list[tuple[int, Tensor]]:
    """For each spatial dimension the ``(grid, size)`` matrix that average-pools it."""
    sizes = activations.shape[2:]
    if grid < 1 or any(grid > size for size in sizes):
        raise ValueError(
            f"pool must be a grid size between 1 and the smallest side of the map, got {grid} for "
            f"activations of shape {tuple(activations.shape)}."
        )
    identity = [torch.eye(size, dtype=activations.dtype, device=activations.device) for size in sizes]
    return [(2 + i, F.adaptive_avg_pool1d(eye, grid).T) for i, eye in enumerate(identity)]
