"""What a UniCAM map is the gradient of: scalars of three distance matrices.

An objective takes the distance matrices ``(explained, other, labels)``, each of shape ``(n, n)``: of the
model that is explained, of the model whose knowledge is taken out, and of the label embeddings. It
returns a scalar whose gradient with respect to ``explained`` autograd can take.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_kd.functional.centering import inner_product, safe_ratio, u_center, unique_component
from captum_kd.functional.correlation import semipartial_from_distances

Objective = Callable[..., Tensor]


def relevance(explained: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """How far the unique component follows the labels: ``S = <U, P(g)> / (|U| |P(g)|)``.

    The published code's reading of Eq. 5 (after Zhen et al., 2022). ``P(g)`` is not projected.

    Args:
        explained: Distances within the explained model's features, shape ``(n, n)``, ``n >= 4``.
        other: Distances within the other model's features.
        labels: Distances between the label embeddings of the targets.

    Returns:
        Scalar in [-1, 1]; 0 where the two models share everything or all labels are equal.

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> d = pairwise_distances(torch.arange(6.0))
        >>> relevance(d, other=2 * d, labels=d)
        tensor(0., dtype=torch.float64)
    """
    return semipartial_from_distances(explained, labels, other)


def uniqueness(explained: Tensor, other: Tensor, labels: Tensor | None = None) -> Tensor:
    """The share of the explained model's geometry that the other lacks: ``|U|^2 / |P|^2``.

    Equal to ``1 - R^2`` with ``R`` the bias-corrected distance *correlation coefficient*
    ``<P, Q> / (|P| |Q|)``: it needs no labels and asks only what the two do not share.

    Args:
        explained: Distances within the explained model's features, shape ``(n, n)``, ``n >= 4``.
        other: Distances within the other model's features.
        labels: Not used.

    Returns:
        Scalar in [0, 1].

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> d = pairwise_distances(torch.arange(6.0))
        >>> uniqueness(d, other=2 * d)
        tensor(0., dtype=torch.float64)
    """
    p = u_center(explained)
    unique = unique_component(p, u_center(other))
    return safe_ratio(inner_product(unique, unique), inner_product(p, p))


def row_max(explained: Tensor, other: Tensor, labels: Tensor | None = None) -> Tensor:
    """The sum over samples of the largest entry of the unique component, as in the paper-time code.

    Args:
        explained: Distances within the explained model's features, shape ``(n, n)``, ``n >= 4``.
        other: Distances within the other model's features.
        labels: Not used.

    Returns:
        Scalar in the unit of the features.

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> d = pairwise_distances(torch.arange(6.0))
        >>> row_max(d, other=2 * d)
        tensor(0., dtype=torch.float64)
    """
    unique = unique_component(u_center(explained), u_center(other))
    return unique.amax(dim=-1).sum(dim=-1)


OBJECTIVES: dict[str, Objective] = {
    "relevance": relevance,
    "uniqueness": uniqueness,
    "row_max": row_max,
}
IGNORE_LABELS = frozenset({uniqueness, row_max})
