"""From the gradient of an objective to a class activation map (Eq. 5 and 6), and what is added to it.

The objective's gradient with respect to an n x n distance matrix is cheap; :func:`pull_back` carries it to
the features of the explained layer in closed form, and pooling is linear. So a map costs a few small
matrix products once the activations are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kd.functional.distance import pull_back
from captum_kd.functional.pooling import pooling_matrices

Direction: TypeAlias = Literal["distilled", "residual"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def channel_weights(
    distance_gradient: Tensor, distances: Tensor, features: Tensor, others: Tensor, positions: int
) -> Tensor:
    """Eq. 5: the spatial mean of the objective's gradient with respect to the activations.

    The gradient is linear in the features and pooling preserves its sum, so only the features' sums over
    positions enter: the weights cost ``n x m x c``, whatever the map size.

    Args:
        distance_gradient: From :func:`objective_gradient`, ``(n, m)``.
        distances: Distances between the pooled ``features`` and ``others``, ``(n, m)``.
        features: Pooled activations of the samples, ``(n, c, *grid)``.
        others: Pooled activations that the distances were taken to, ``(m, c, *grid)``.
        positions: Number of positions of the unpooled map (``h * w``).

    Returns:
        Weights of shape ``(n, c)``.

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> a = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])                  # two samples, one channel
        >>> ones = torch.ones(2, 2)
        >>> channel_weights(ones, pairwise_distances(a), a, a, positions=2)  # -(3/5 + 4/5) / 2
        tensor([[-0.7000],
                [ 0.7000]])
    """
    totals, other_totals = (f.flatten(2).sum(-1) if f.dim() > 2 else f for f in (features, others))
    return pull_back(distance_gradient, distances, totals, other_totals) / positions


def activation_gradient(
    distance_gradient: Tensor, distances: Tensor, features: Tensor, others: Tensor, like: Tensor
) -> Tensor:
    """The objective's gradient with respect to every position of the activations.

    Args:
        distance_gradient: From :func:`objective_gradient`, ``(n, m)``.
        distances: Distances between the pooled ``features`` and ``others``, ``(n, m)``.
        features: Pooled activations of the samples, ``(n, c, *grid)``.
        others: Pooled activations that the distances were taken to, ``(m, c, *grid)``.
        like: The unpooled activations, ``(n, c, *spatial)``.

    Returns:
        Gradient of the shape of ``like``.

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> a = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]]])
        >>> ones = torch.ones(2, 2)
        >>> activation_gradient(ones, pairwise_distances(a), a, a, like=a)[1]
        tensor([[0.6000, 0.8000]])
    """
    gradient = pull_back(distance_gradient, distances, features, others)
    if gradient.shape == like.shape:
        return gradient
    for dim, pooling in pooling_matrices(like, gradient.shape[2]):
        gradient = torch.movedim(torch.movedim(gradient, dim, -1) @ pooling, -1, dim)
    return gradient


def attribution_map(
    weights: Tensor, activations: Tensor, *, relu: bool = True, sum_channels: bool = True
) -> Tensor:
    """Eq. 6: ``L = ReLU(sum_k beta_k A_k)``.

    Args:
        weights: Channel weights ``(n, c)`` or a weight per position, of the shape of ``activations``.
        activations: Shape ``(n, c, *spatial)``.
        relu: Keep only positive values.
        sum_channels: Sum over channels; otherwise one map per channel.

    Returns:
        Maps of shape ``(n, 1, *spatial)``, or ``(n, c, *spatial)``.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[1.0, 2.0], [3.0, 1.0]]])          # two channels, two positions
        >>> attribution_map(torch.tensor([[1.0, -1.0]]), activations)
        tensor([[[0., 1.]]])
    """
    if weights.shape == activations.shape:
        maps = weights * activations
        maps = maps.sum(dim=1, keepdim=True) if sum_channels else maps
    elif sum_channels:
        maps = torch.bmm(weights[:, None], activations.flatten(2)).reshape(
            len(activations), 1, *activations.shape[2:]
        )
    else:
        maps = weights.reshape(*weights.shape, *[1] * (activations.dim() - 2)) * activations
    return F.relu(maps) if relu else maps


def contrast_maps(distilled: Sequence[Tensor], residual: Sequence[Tensor]) -> dict[Direction, list[Tensor]]:
    """Each direction's maps minus the other's, which are resized where layers differ in size.

    Args:
        distilled: Signed maps of each layer, ``(n, 1, *spatial)``.
        residual: Those of the other direction.

    Returns:
        Signed maps by direction. For layers of one size each is the other with its sign changed.

    Example:
        >>> import torch
        >>> ones = torch.ones(1, 1, 2, 2)
        >>> maps = contrast_maps([3 * ones], [torch.ones(1, 1, 4, 4)])
        >>> maps["distilled"][0].shape, maps["distilled"][0].mean(), maps["residual"][0].mean()
        (torch.Size([1, 1, 2, 2]), tensor(2.), tensor(-2.))
    """
    pairs = list(zip(distilled, residual, strict=True))
    return {
        "distilled": [ours - _resized(theirs, ours) for ours, theirs in pairs],
        "residual": [theirs - _resized(ours, theirs) for ours, theirs in pairs],
    }


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


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps at the positions of others, linearly interpolated."""
    maps = maps.to(like)
    if maps.shape[2:] == like.shape[2:]:
        return maps
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    if maps.dim() != like.dim() or maps.dim() - 2 not in modes:
        raise ValueError(
            "One map is subtracted from the other, so both layers need positions in the same number of "
            f"dimensions (one to three). Got maps of shape {tuple(maps.shape)} and {tuple(like.shape)}."
        )
    return F.interpolate(maps, size=like.shape[2:], mode=modes[maps.dim() - 2], align_corners=False)


def _spread(maps: Tensor) -> Tensor:
    """Standard deviation over the positions of each map, of shape ``(n, 1, ...)``."""
    return maps.flatten(1).std(dim=1, correction=0).reshape(-1, *[1] * (maps.dim() - 1))


def _ratio(maps: Tensor, spread: Tensor) -> Tensor:
    # What overflows is NaN and not zero, so that whoever asks for maps is told.
    return torch.where(spread == 0, 0.0, maps / spread.masked_fill(spread.isinf(), torch.nan))
