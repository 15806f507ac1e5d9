"""Euclidean distances between samples, and the way back from distances to features.

Every quantity of the paper is a function of pairwise distances (Eq. 1). They come from the Gram matrix
of centred features, accumulated in float64 over slices of the feature axis, so that no
``(n, n, features)`` tensor is ever built. Backwards, the chain rule through a distance has a closed form:
for ``S(D)`` with ``D_ij = |x_i - x_j|``,

    dS/dx_i = sum_j (dS/dD_ij + dS/dD_ji) (x_i - x_j) / D_ij,

a graph Laplacian times the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Elements of a float64 working copy, whatever the number of features: 8 MiB stay in a processor's cache; on
# an accelerator few large operations are faster.
_SLICE_ELEMENTS, _SLICE_ELEMENTS_ACCELERATOR = 2**20, 2**24


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64 (MPS)."""
    return torch.float32 if device.type == "mps" else torch.float64


def flatten_features(features: Tensor, name: str = "features") -> Tensor:
    """Check ``features`` of shape ``(n, ...)`` and return them as ``(n, d)``; ``(n,)`` is one feature."""
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(features).__name__}.")
    if features.dim() == 0 or features.numel() == 0:
        raise ValueError(
            f"{name} must have shape (n, ...) with at least one sample and one feature, "
            f"got shape {tuple(features.shape)}."
        )
    if features.is_complex():
        raise TypeError(f"{name} must be real, got {features.dtype}.")
    return features.reshape(len(features), -1)


def pairwise_distances(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Euclidean distances between samples (Eq. 1 with epsilon = 0).

    Differentiable; the gradient at distance zero is zero. For float32 (or half precision) features the
    relative error against float64 is below 1e-7, also for nearly equal samples and under a large common
    offset: pairs so close that the Gram product would cancel are computed again by subtraction.

    Args:
        x: Features of shape ``(n, ...)``, any real dtype; flattened to ``(n, d)``.
        y: Features of shape ``(m, ...)`` with as many features per sample. Default: ``x`` itself.

    Returns:
        Distances of shape ``(n, n)`` or ``(n, m)``, in the unit of the features; float64 (float32 on a
        device without float64). Without ``y`` the matrix is symmetric and its diagonal is exactly zero.

    Raises:
        TypeError: A tensor is complex or not a tensor.
        ValueError: A tensor is empty or not finite, or ``x`` and ``y`` have different numbers of features.

    Example:
        >>> import torch
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]]))
        tensor([[0., 5., 3.],
                [5., 0., 4.],
                [3., 4., 0.]], dtype=torch.float64)
    """
    x = flatten_features(x, "x")
    if y is not None:
        y = flatten_features(y, "y")
        if x.shape[1] != y.shape[1]:
            raise ValueError(
                f"x and y must have the same number of features per sample, "
                f"got {x.shape[1]} and {y.shape[1]}."
            )
    distances: Tensor = _PairwiseDistances.apply(x, y)
    return distances


def merge_same_samples(distances: Tensor, x: Tensor, y: Tensor | None = None) -> Tensor:
    r"""Set distances that are rounding to zero: such pairs are the same sample, and have no direction.

    The features of one image differ by rounding if it runs in batches of different sizes. Their distance is
    then not zero, and the direction between them, which a gradient would follow, is noise. With
    :math:`\epsilon` the rounding of the features' dtype and :math:`\bar y` the mean of ``y``, a pair is the
    same sample if its distance is at most

    - :math:`64 \epsilon \max(|x_i|, |y_j|)`: each value is rounded relative to its own size. Networks of 50
      layers reach 11 :math:`\epsilon`; or
    - :math:`\sqrt\epsilon` times the root mean square of :math:`|x_i - \bar y|` and :math:`|y_j - \bar y|`:
      less than half of the digits of the difference are then known, and its direction changes by up to a
      per cent with the batch. In single precision these are pairs 3000 times closer than samples usually are.

    Args:
        distances: From :func:`pairwise_distances` of ``x`` and ``y``.
        x: Features of shape ``(n, ...)``.
        y: Features of shape ``(m, ...)``; None: ``x`` itself.

    Returns:
        Distances of the same shape; all others keep their value.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 2.0], [1.0, 2.0000002], [3.0, 5.0]])
        >>> merge_same_samples(pairwise_distances(x), x)
        tensor([[0.0000, 0.0000, 3.6056],
                [0.0000, 0.0000, 3.6056],
                [3.6056, 3.6056, 0.0000]], dtype=torch.float64)
    """
    x = flatten_features(x, "x")
    y = x if y is None else flatten_features(y, "y")
    sizes = [torch.zeros(len(rows), dtype=distances.dtype, device=x.device) for rows in (x, x, y, y)]
    for columns in _feature_slices(x, len(x) + len(y)):
        mean = y[:, columns].to(distances.dtype).mean(dim=0)
        for index, rows in enumerate((x, y)):
            part = rows[:, columns].to(distances.dtype, copy=True)
            sizes[2 * index] += part.square().sum(dim=1)
            part -= mean
            sizes[2 * index + 1] += part.square().sum(dim=1)
    x_size, x_centred, y_size, y_centred = sizes
    eps = torch.finfo(x.dtype if x.is_floating_point() else distances.dtype).eps
    rounding = (64 * eps) ** 2 * torch.maximum(x_size[:, None], y_size)
    half_the_digits = eps * (x_centred[:, None] + y_centred) / 2
    return torch.where(distances.square() <= torch.maximum(rounding, half_the_digits), 0.0, distances)


def pull_back(distance_gradient: Tensor, distances: Tensor, features: Tensor, others: Tensor) -> Tensor:
    """Gradient with respect to features, given the gradient with respect to their distances.

    With ``W_ij = G_ij / D_ij`` (zero where ``D_ij = 0``) the result is
    ``dS/dx_i = sum_j W_ij (x_i - y_j)``: linear in the features, so pooled features give pooled gradients.
    For distances of ``x`` with itself pass ``G + G.T``, since each ``x_i`` is in a row and in a column.

    Args:
        distance_gradient: ``G = dS/dD`` of shape ``(n, m)``.
        distances: ``D`` of shape ``(n, m)``.
        features: ``x`` of shape ``(n, ...)``.
        others: ``y`` of shape ``(m, ...)``, the samples that the distances were taken to.

    Returns:
        Gradient of the shape and dtype of ``features``.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
        >>> ones = torch.ones(3, 3, dtype=torch.float64)      # S = sum of all distances
        >>> pull_back(ones + ones.T, pairwise_distances(x), x, x)
        tensor([[-4.],
                [ 0.],
                [ 4.]], dtype=torch.float64)
    """
    weights = torch.where(distances > 0, distance_gradient / distances, 0.0)
    row_sums = weights.sum(dim=1, keepdim=True)
    x, y = features.reshape(len(features), -1), others.reshape(len(others), -1)
    gradient = torch.empty_like(x, memory_format=torch.contiguous_format)
    with _without_autocast(x.device):
        for columns in _feature_slices(x, len(x) + len(y)):
            x_slice, y_slice = x[:, columns].to(weights.dtype), y[:, columns].to(weights.dtype)
            # A common shift cancels in x_i - y_j; taking it out first keeps the cancellation exact.
            shift = y_slice.mean(dim=0)
            gradient[:, columns] = (row_sums * (x_slice - shift) - weights @ (y_slice - shift)).to(
                gradient.dtype
            )
    return gradient.reshape(features.shape)


class _PairwiseDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None) -> Tensor:
        distances = _distances_within(x) if y is None else _distances_between(x, y)
        if not torch.isfinite(distances).all():
            raise ValueError("Features must be finite; at least one is NaN or infinite.")
        ctx.save_for_backward(x, y, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y, distances = ctx.saved_tensors
        if y is None:
            return pull_back(gradient + gradient.T, distances, x, x), None
        needs_x, needs_y = ctx.needs_input_grad
        return (
            pull_back(gradient, distances, x, y) if needs_x else None,
            pull_back(gradient.T, distances.T, y, x) if needs_y else None,
        )


def _distances_within(x: Tensor) -> Tensor:
    dtype = accumulation_dtype(x.device)
    gram = torch.zeros(len(x), len(x), dtype=dtype, device=x.device)
    with _without_autocast(x.device):
        for columns in _feature_slices(x, len(x)):
            x_slice = x[:, columns].to(dtype, copy=True)
            x_slice -= x_slice.mean(dim=0)
            gram.addmm_(x_slice, x_slice.T)
    norms = gram.diagonal()
    scale = norms[:, None] + norms[None, :]
    squared = (scale - (gram + gram.T)).clamp_min(0)
    for rows, cols, exact in _recomputed(torch.triu(_cancelled(squared, scale, x.shape[1]), 1), x, x):
        squared[rows, cols] = exact
        squared[cols, rows] = exact
    return squared.sqrt()


def _distances_between(x: Tensor, y: Tensor) -> Tensor:
    dtype = accumulation_dtype(x.device)
    gram = torch.zeros(len(x), len(y), dtype=dtype, device=x.device)
    scale = torch.zeros_like(gram)
    with _without_autocast(x.device):
        for columns in _feature_slices(x, len(x) + len(y)):
            x_slice, y_slice = (a[:, columns].to(dtype, copy=True) for a in (x, y))
            shift = y_slice.mean(dim=0)
            x_slice -= shift
            y_slice -= shift
            gram.addmm_(x_slice, y_slice.T)
            scale += x_slice.square().sum(1)[:, None] + y_slice.square().sum(1)[None, :]
    squared = (scale - 2 * gram).clamp_min(0)
    for rows, cols, exact in _recomputed(_cancelled(squared, scale, x.shape[1]), x, y):
        squared[rows, cols] = exact
    return squared.sqrt()


def _cancelled(squared: Tensor, scale: Tensor, features: int) -> Tensor:
    """Where ``|x_i - y_j|^2`` is so far below ``|x_i|^2 + |y_j|^2`` that too many digits are lost.

    The rounding of a sum over features grows as the root of their number, and so does the tolerance.
    """
    tolerance: float = (torch.finfo(squared.dtype).eps * features) ** 0.5
    return squared <= tolerance * scale


def _recomputed(pairs: Tensor, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Squared distances of the marked pairs, by subtraction."""
    dtype = accumulation_dtype(x.device)
    all_rows, all_cols = torch.nonzero(pairs, as_tuple=True)
    count = max(1, _slice_elements(x.device) // x.shape[1])
    for start in range(0, len(all_rows), count):
        rows, cols = all_rows[start : start + count], all_cols[start : start + count]
        difference = x[rows].to(dtype) - y[cols].to(dtype)
        yield rows, cols, difference.square().sum(dim=1)


def _feature_slices(x: Tensor, rows: int) -> Iterator[slice]:
    features, width = x.shape[1], max(1, _slice_elements(x.device) // rows)
    for start in range(0, features, width):
        yield slice(start, min(start + width, features))


def _slice_elements(device: torch.device) -> int:
    return _SLICE_ELEMENTS if device.type == "cpu" else _SLICE_ELEMENTS_ACCELERATOR


def _without_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, enabled=False)
