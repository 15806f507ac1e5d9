"""What a model uses for a class, and how it is added to a map of what is unique to it."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_kd.functional.cam import attribution_map


def class_evidence(weights: Tensor, activations: Tensor) -> Tensor:
    """A model's evidence for a class, in units of its own spread: ``E = ReLU(sum_k w_k A_k)`` over ``sd(E)``.

    Args:
        weights: Gradient of the class's score at each position, of the shape of ``activations``, or its mean
            over positions, ``(n, c)``.
        activations: Shape ``(n, c, *spatial)``.

    Returns:
        Maps of shape ``(n, 1, *spatial)``, not negative, of standard deviation 1 over positions; 0 where the
        evidence is the same at all positions.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])     # two channels, two positions
        >>> class_evidence(torch.tensor([[5.0, -1.0]]), activations)
        tensor([[[2., 0.]]])
    """
    maps = attribution_map(weights, activations)
    return _ratio(maps, _spread(maps))


def add_evidence(unique: Tensor, evidence: Tensor) -> Tensor:
    """``M + E sd(M) / sd(E)``: two maps with equal say, in the units of the first.

    Where nothing is unique the sum is zero, whatever the evidence, and the size of a map still says how much
    is unique.

    Args:
        unique: Signed maps ``M`` of what is unique, ``(n, 1, *spatial)``.
        evidence: One model's evidence minus the other's, of the same shape.

    Returns:
        Signed maps of the same shape.

    Example:
        >>> import torch
        >>> unique, evidence = torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[8.0, 0.0]]])
        >>> add_evidence(unique, evidence)
        tensor([[[ 3., -1.]]])
    """
    return unique + _ratio(evidence, _spread(evidence)) * _spread(unique)


def _spread(maps: Tensor) -> Tensor:
    """Standard deviation over the positions of each map, of shape ``(n, 1, ...)``."""
    return maps.flatten(1).std(dim=1, correction=0).reshape(-1, *[1] * (maps.dim() - 1))


def _ratio(maps: Tensor, spread: Tensor) -> Tensor:
    return torch.where(spread > 0, maps / spread, 0.0)
