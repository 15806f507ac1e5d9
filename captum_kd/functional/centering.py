"""Centred distance matrices and their inner products: the Hilbert space in which the paper works.

All functions take matrices of shape ``(..., n, n)`` and treat leading dimensions as a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def double_center(distances: Tensor) -> Tensor:
    """Double-centred distances (App. B): ``A_ij = D_ij - row mean - column mean + grand mean``.

    Args:
        distances: Distance matrices of shape ``(..., n, n)``.

    Returns:
        Matrices of the same shape and dtype whose rows and columns sum to zero; exactly zero where
        only rounding is left (a constant feature).

    Raises:
        ValueError: The last two dimensions are not square.

    Example:
        >>> import torch
        >>> double_center(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
        tensor([[-1.,  1.],
                [ 1., -1.]])
    """
    _check_square(distances)
    centred = (
        distances
        - distances.mean(dim=-1, keepdim=True)
        - distances.mean(dim=-2, keepdim=True)
        + distances.mean(dim=(-2, -1), keepdim=True)
    )
    return _without_rounding(centred, distances)


def u_center(distances: Tensor) -> Tensor:
    """U-centred distances (Eq. 2), the projection behind the bias-corrected estimators.

    ``P_ij = D_ij - rowsum_i / (n-2) - colsum_j / (n-2) + total / ((n-1)(n-2))`` for ``i != j``; the
    diagonal is zero.

    Args:
        distances: Distance matrices of shape ``(..., n, n)`` with ``n >= 4``.

    Returns:
        Matrices of the same shape and dtype; exactly zero where only rounding is left.

    Raises:
        ValueError: ``n < 4`` (the inner product divides by ``n (n - 3)``), or the matrices are not square.

    Example:
        >>> import torch
        >>> line = torch.tensor([0.0, 1.0, 3.0, 7.0])
        >>> u_center((line[:, None] - line).abs()).round(decimals=3)
        tensor([[ 0.0000, -1.3330,  0.6670,  0.6670],
                [-1.3330,  0.0000,  0.6670,  0.6670],
                [ 0.6670,  0.6670,  0.0000, -1.3330],
                [ 0.6670,  0.6670, -1.3330,  0.0000]])
    """
    n = _check_square(distances)
    check_sample_count(n)
    off_diagonal = ~torch.eye(n, dtype=torch.bool, device=distances.device)
    centred = (
        distances
        - distances.sum(dim=-1, keepdim=True) / (n - 2)
        - distances.sum(dim=-2, keepdim=True) / (n - 2)
        + distances.sum(dim=(-2, -1), keepdim=True) / ((n - 1) * (n - 2))
    )
    return _without_rounding(torch.where(off_diagonal, centred, 0.0), distances)


def inner_product(p: Tensor, q: Tensor) -> Tensor:
    """Inner product of U-centred matrices (Eq. 4): ``<P, Q> = 1 / (n (n-3)) sum_{i != j} P_ij Q_ij``.

    For U-centred distances this is the unbiased estimator of the squared distance covariance.

    Args:
        p: U-centred matrices of shape ``(..., n, n)``, ``n >= 4``.
        q: The same for the second variable.

    Returns:
        Inner products of shape ``(...)``.

    Raises:
        ValueError: ``n < 4``, or the sizes differ.

    Example:
        >>> import torch
        >>> ones = torch.ones(4, 4) - torch.eye(4)
        >>> inner_product(ones, ones)       # 12 entries / (4 * 1)
        tensor(3.)
    """
    n = _check_square(p)
    check_sample_count(n)
    if _check_square(q) != n:
        raise ValueError(f"Both matrices must be of the same samples, got {n} and {q.shape[-1]} samples.")
    product = p * q
    diagonal = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (product.sum(dim=(-2, -1)) - diagonal) / (n * (n - 3))


def unique_component(p: Tensor, given: Tensor) -> Tensor:
    """What one model's U-centred distances have beyond another's (Eq. 3).

    ``U = P - <P, Q> / <Q, Q> Q``: with ``p`` from the student and ``given`` from the base model these are the
    distilled features, with the roles swapped the residual ones.

    Args:
        p: U-centred matrices of shape ``(..., n, n)`` of the model that is explained.
        given: U-centred matrices of the model whose knowledge is taken out.

    Returns:
        Matrices of the shape of ``p``, orthogonal to ``given``; ``p`` itself where ``given`` is zero, exactly
        zero where ``p`` is a multiple of ``given``.

    Raises:
        ValueError: ``n < 4``, or the sizes differ.

    Example:
        >>> import torch
        >>> p = u_center(torch.tensor([[0., 1, 2, 4], [1, 0, 1, 3], [2, 1, 0, 2], [4, 3, 2, 0]]))
        >>> unique_component(2 * p, given=p).abs().max()
        tensor(0.)
    """
    shared = safe_ratio(inner_product(p, given), inner_product(given, given))
    return _without_rounding(p - shared[..., None, None] * given, p)


def correlation_of(p: Tensor, q: Tensor) -> Tensor:
    """Correlation ``<P, Q> / (|P| |Q|)`` of U-centred matrices; 0 where a norm is 0.

    Args:
        p: U-centred matrices of shape ``(..., n, n)``, ``n >= 4``.
        q: The same for the second variable.

    Returns:
        Correlations in [-1, 1], of shape ``(...)``.

    Example:
        >>> import torch
        >>> p = u_center(torch.tensor([[0., 1, 2, 4], [1, 0, 1, 3], [2, 1, 0, 2], [4, 3, 2, 0]]))
        >>> correlation_of(p, -3 * p).round(decimals=3), correlation_of(p, 0 * p)
        (tensor(-1.), tensor(0.))
    """
    norms = inner_product(p, p) * inner_product(q, q)
    zero = norms <= 0
    # The square root of an exact zero has no gradient, and both branches of a `where` are differentiated.
    root = torch.where(zero, 1.0, norms).sqrt()
    return torch.where(zero, 0.0, inner_product(p, q) / root).clamp(-1, 1)


def safe_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, and 0 (with gradient 0) where the denominator is not positive."""
    zero = denominator <= 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def check_sample_count(n: int) -> None:
    """Raise if ``n`` samples are too few for a U-centred matrix."""
    if n < 4:
        raise ValueError(
            f"At least 4 samples are needed for U-centred distances (Eq. 4 divides by n(n-3)), got {n}. "
            "Pass a larger batch, or a `reference` where the caller takes one."
        )


def _check_square(matrix: Tensor) -> int:
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(
            f"A distance matrix of shape (..., n, n) is needed, got shape {tuple(matrix.shape)}."
        )
    return matrix.shape[-1]


def _without_rounding(result: Tensor, source: Tensor) -> Tensor:
    """Zero the matrices of ``result`` that are nothing but the rounding of the larger ``source``.

    Without this the correlation of a constant (or wholly shared) feature would be that of its rounding
    errors: any number at all instead of 0.
    """
    tolerance = 8 * torch.finfo(source.dtype).eps
    largest = source.detach().abs().amax(dim=(-2, -1), keepdim=True)
    rest = result.detach().abs().amax(dim=(-2, -1), keepdim=True)
    return torch.where(rest <= tolerance * largest, 0.0, result)
