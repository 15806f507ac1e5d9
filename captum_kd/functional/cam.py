"""From an objective of distance matrices to a class activation map (Eq. 5 and 6), without a backward pass.

The objective's gradient with respect to an n x n distance matrix is cheap; :func:`pull_back` carries it to
the features of the explained layer in closed form, and pooling is linear. So a map costs a few small
matrix products once the activations are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kd.functional.distance import pull_back
from captum_kd.functional.objectives import Objective


class Distances(NamedTuple):
    """Distances that an objective is taken of.

    ``to`` is ``(n, m)``: to the ``m`` reference samples, with ``within`` their own ``(m, m)`` distances; or
    ``within`` is None and ``to`` is ``(n, n)``, of a batch with itself.
    """

    to: Tensor
    within: Tensor | None

    def like(self, other: Tensor) -> Distances:
        """The same distances on the device and in the dtype of ``other``."""
        return Distances(self.to.to(other), None if self.within is None else self.within.to(other))


def objective_gradient(
    objective: Objective, explained: Tensor, other: Tensor, labels: Tensor | None
) -> Tensor:
    """Gradient of ``objective`` with respect to the explained model's distances, both orders summed.

    Args:
        objective: Callable ``(explained, other, labels) -> scalar``, see
            :mod:`captum_kd.functional.objectives`.
        explained: Distance matrix of shape ``(n, n)`` that is differentiated.
        other: Distance matrix of the other model, shape ``(n, n)``.
        labels: Distance matrix of the labels, shape ``(n, n)``, or None.

    Returns:
        ``G + G.T`` of shape ``(n, n)``, ready for :func:`pull_back`.

    Raises:
        ValueError: The objective returns no scalar, or one that does not depend on ``explained``.

    Example:
        >>> import torch
        >>> d = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> objective_gradient(lambda explained, other, labels: explained.sum(), d, d, None)
        tensor([[2., 2.],
                [2., 2.]])
    """
    # Under inference_mode even enable_grad records nothing.
    with torch.inference_mode(False), torch.enable_grad():
        explained = explained.detach().clone().requires_grad_()
        labels = None if labels is None else labels.detach().clone()
        score = objective(explained, other.detach().clone(), labels)
        if not isinstance(score, Tensor) or score.numel() != 1 or not score.requires_grad:
            given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                "An objective must return a scalar tensor that is differentiable with respect to its "
                f"first argument (the explained model's distances); got {given}"
                + (" without a gradient." if isinstance(score, Tensor) else ".")
            )
        (gradient,) = torch.autograd.grad(score.reshape(()), explained)
    return gradient + gradient.T


def distances_gradient(
    objective: Objective, explained: Distances, other: Distances, labels: Distances | None
) -> Tensor:
    """:func:`objective_gradient` in the batch, or of each sample on its own against a reference.

    Against a reference the objective is, for each sample, that of the reference plus this one sample, so
    a sample's gradient does not depend on the other samples.

    Args:
        objective: As in :func:`objective_gradient`.
        explained: Distances of the explained model.
        other: Distances of the other model.
        labels: Distances of the labels, or None.

    Returns:
        Gradient with respect to ``explained.to``, of its shape, ready for :func:`pull_back`.

    Example:
        >>> import torch
        >>> to_reference, within = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0], [3.0, 0.0]])
        >>> distances = Distances(to_reference, within)
        >>> distances_gradient(lambda explained, *_: explained.square().sum(), distances, distances, None)
        tensor([[4., 8.]])
    """
    if explained.within is None:
        return objective_gradient(objective, explained.to, other.to, None if labels is None else labels.to)
    rows = [
        objective_gradient(
            objective,
            _with_sample(explained, i),
            _with_sample(other, i),
            None if labels is None else _with_sample(labels, i),
        )[-1, :-1]
        for i in range(len(explained.to))
    ]
    return torch.stack(rows)


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
    for dim, pooling in _pooling_matrices(activations, grid):
        activations = torch.movedim(torch.movedim(activations, dim, -1) @ pooling.T, -1, dim)
    return activations


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
    for dim, pooling in _pooling_matrices(like, gradient.shape[2]):
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


def contrast_maps(distilled: Sequence[Tensor], residual: Sequence[Tensor]) -> dict[str, list[Tensor]]:
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


def channel_mean(batches: Sequence[Tensor]) -> Tensor:
    """Mean over samples and positions of batches ``(n, c, *spatial)``, per channel: shape ``(c,)``."""
    count = sum(a.numel() // a.shape[1] for a in batches)
    return torch.stack([a.transpose(0, 1).flatten(1).sum(1) for a in batches]).sum(0) / count


def positions_of(activations: Tensor) -> int:
    """Number of spatial positions of activations of shape ``(n, c, *spatial)``."""
    return math.prod(activations.shape[2:])


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps at the positions of others, linearly interpolated."""
    maps = maps.to(like)
    if maps.shape[2:] == like.shape[2:]:
        return maps
    modes = {1: "linear", 2: "bilinear", 3: "trilinear"}
    if maps.dim() != like.dim() or maps.dim() - 2 not in modes:
        raise ValueError(
            f"contrast needs maps of as many dimensions (one to three), got {tuple(maps.shape)} and "
            f"{tuple(like.shape)}."
        )
    return F.interpolate(maps, size=like.shape[2:], mode=modes[maps.dim() - 2], align_corners=False)


def _with_sample(distances: Distances, i: int) -> Tensor:
    """The ``(m + 1, m + 1)`` distances of the reference and, last, of sample ``i``."""
    row = distances.to[i]
    top = torch.cat([distances.within, row[:, None]], dim=1)  # type: ignore[list-item]
    return torch.cat([top, torch.cat([row, row.new_zeros(1)])[None]])


def _pooling_matrices(activations: Tensor, grid: int) -> list[tuple[int, Tensor]]:
    """For each spatial dimension the ``(grid, size)`` matrix that average-pools it."""
    sizes = activations.shape[2:]
    if grid < 1 or any(grid > size for size in sizes):
        raise ValueError(
            f"pool must be a grid size between 1 and the smallest side of the map, got {grid} for "
            f"activations of shape {tuple(activations.shape)}."
        )
    identity = [torch.eye(size, dtype=activations.dtype, device=activations.device) for size in sizes]
    return [(2 + i, F.adaptive_avg_pool1d(eye, grid).T) for i, eye in enumerate(identity)]
