"""Distance covariance, variance and correlation of features, plain, partial and semi-partial.

Székely, Rizzo and Bakirov (2007) for the biased estimators, Székely and Rizzo (2014) for the unbiased
and the partial ones. Like the paper, and unlike some libraries, all are of the squared kind: no further
root is taken.
"""

from __future__ import annotations

from typing import Literal, get_args, overload

import torch
from torch import Tensor

from captum_kd.functional.centering import (
    correlation_of,
    double_center,
    inner_product,
    u_center,
    unique_component,
)
from captum_kd.functional.distance import pairwise_distances

Estimator = Literal["unbiased", "biased"]


def check_estimator(estimator: str) -> None:
    """Raise unless ``estimator`` is one of the two words."""
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator must be one of {get_args(Estimator)}, got {estimator!r}.")


def distance_covariance(x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased") -> Tensor:
    """Squared distance covariance ``V^2(x, y)`` (App. B).

    Args:
        x: Features of shape ``(n, ...)``, flattened to ``(n, d)``; any real dtype.
        y: Features of shape ``(n, ...)`` of the same samples; the number of features may differ.
        estimator: "unbiased" (U-centred, n >= 4, may be negative) or "biased" (double-centred, n >= 1).

    Returns:
        Scalar tensor in the accumulation dtype (float64).

    Raises:
        ValueError: Different numbers of samples, ``n < 4`` for "unbiased", an unknown estimator.

    Example:
        >>> import torch
        >>> x = torch.arange(5.0)
        >>> distance_covariance(x, 2 * x), distance_covariance(x, x, estimator="biased")
        (tensor(2.1333, dtype=torch.float64), tensor(1.2160, dtype=torch.float64))
    """
    d_x, d_y, _ = features_to_distances(x, y)
    return covariance_from_distances(d_x, d_y, estimator)


def distance_variance(x: Tensor, *, estimator: Estimator = "unbiased") -> Tensor:
    """Squared distance variance ``V^2(x, x)``.

    Args:
        x: Features of shape ``(n, ...)``.
        estimator: "unbiased" or "biased".

    Returns:
        Scalar tensor, >= 0; 0 for a constant feature.

    Example:
        >>> import torch
        >>> distance_variance(torch.ones(5, 3))
        tensor(0., dtype=torch.float64)
    """
    return distance_covariance(x, x, estimator=estimator)


def distance_correlation(x: Tensor, y: Tensor, *, estimator: Estimator = "unbiased") -> Tensor:
    """Squared distance correlation ``R^2(x, y)`` (Eq. B.6).

    The unbiased estimator (bias-corrected, about 0 for independent data, in [-1, 1]) is the one to
    compare across sample sizes. The biased one (in [0, 1]) is close to 1 for small ``n`` whatever the data.

    Args:
        x: Features of shape ``(n, ...)``, flattened to ``(n, d)``; any real dtype.
        y: Features of shape ``(n, ...)`` of the same samples.
        estimator: "unbiased" (n >= 4) or "biased".

    Returns:
        Scalar tensor; 0 where a variance is 0 (a constant feature).

    Raises:
        ValueError: Different numbers of samples, ``n < 4`` for "unbiased", an unknown estimator.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
        >>> round(distance_correlation(x, 5 * x @ rotation + 1).item(), 6)
        1.0
    """
    d_x, d_y, _ = features_to_distances(x, y)
    return correlation_from_distances(d_x, d_y, estimator)


def partial_distance_correlation(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Partial distance correlation of ``x`` and ``y`` given ``z`` (Def. 3, Eq. B.8): both are projected.

    Args:
        x: Features of shape ``(n, ...)``, ``n >= 4``.
        y: Features of the same samples.
        z: Features of the same samples, whose share is taken out of ``x`` and of ``y``.

    Returns:
        Scalar tensor in [-1, 1]; 0 where nothing is left of ``x`` or ``y``.

    Raises:
        ValueError: Different numbers of samples, or ``n < 4``.

    Example:
        >>> import torch
        >>> x, z = torch.arange(8.0), torch.tensor([1.0, 5, 2, 8, 3, 1, 9, 4])
        >>> partial_distance_correlation(x, x, z), partial_distance_correlation(z, x, z)
        (tensor(1., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    d_x, d_y, d_z = features_to_distances(x, y, z)
    p_x, p_y, p_z = u_center(d_x), u_center(d_y), u_center(d_z)
    return correlation_of(unique_component(p_x, p_z), unique_component(p_y, p_z))


def semipartial_distance_correlation(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Correlation of the unique component of ``x`` given ``z`` with ``y``: only ``x`` is projected.

    With ``x`` the student's features, ``z`` the base model's and ``y`` the label embeddings this is the
    relevance of distilled features, and the objective of the published UniCAM code.

    Args:
        x: Features of shape ``(n, ...)``, ``n >= 4``.
        y: Features of the same samples.
        z: Features of the same samples, whose share is taken out of ``x``.

    Returns:
        Scalar tensor in [-1, 1]; 0 where nothing is left of ``x``.

    Raises:
        ValueError: Different numbers of samples, or ``n < 4``.

    Example:
        >>> import torch
        >>> x, z = torch.arange(8.0), torch.tensor([1.0, 5, 2, 8, 3, 1, 9, 4])
        >>> abs(semipartial_distance_correlation(x, z, z)) < 1e-12    # unique to x: orthogonal to z
        tensor(True)
    """
    d_x, d_y, d_z = features_to_distances(x, y, z)
    return semipartial_from_distances(d_x, d_y, d_z)


def covariance_from_distances(d_x: Tensor, d_y: Tensor, estimator: Estimator = "unbiased") -> Tensor:
    """``V^2`` of two distance matrices of shape ``(..., n, n)``; see :func:`distance_covariance`."""
    check_estimator(estimator)
    if estimator == "unbiased":
        return inner_product(u_center(d_x), u_center(d_y))
    return (double_center(d_x) * double_center(d_y)).mean(dim=(-2, -1))


def correlation_from_distances(d_x: Tensor, d_y: Tensor, estimator: Estimator = "unbiased") -> Tensor:
    """``R^2`` of two distance matrices of shape ``(..., n, n)``; see :func:`distance_correlation`."""
    check_estimator(estimator)
    if estimator == "unbiased":
        return correlation_of(u_center(d_x), u_center(d_y))
    a, b = double_center(d_x), double_center(d_y)
    variances = a.square().mean(dim=(-2, -1)) * b.square().mean(dim=(-2, -1))
    # A zero variance has no differentiable root; its ratio is defined as 0 whatever stands there.
    root = torch.where(variances <= 0, 1.0, variances).sqrt()
    correlation: Tensor = (a * b).mean(dim=(-2, -1)) / root
    return correlation.clamp(0, 1)


def semipartial_from_distances(d_x: Tensor, d_y: Tensor, d_z: Tensor) -> Tensor:
    """The semi-partial correlation of distance matrices; see :func:`semipartial_distance_correlation`."""
    return correlation_of(unique_component(u_center(d_x), u_center(d_z)), u_center(d_y))


def statistic_from_distances(
    d_x: Tensor, d_y: Tensor, d_given: Tensor | None, estimator: Estimator
) -> Tensor:
    """The correlation, or with ``d_given`` the semi-partial one."""
    check_estimator(estimator)
    if d_given is None:
        return correlation_from_distances(d_x, d_y, estimator)
    if estimator != "unbiased":
        raise ValueError(
            "With `given` only estimator='unbiased' is defined: the projection is one of U-centred "
            f"matrices. Got {estimator!r}."
        )
    return semipartial_from_distances(d_x, d_y, d_given)


@overload
def features_to_distances(x: Tensor, y: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def features_to_distances(
    x: Tensor, y: Tensor, given: Tensor | None = ...
) -> tuple[Tensor, Tensor, Tensor | None]: ...
def features_to_distances(
    x: Tensor, y: Tensor, given: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Distance matrices of features that must be of the same samples."""
    features = [f for f in (x, y, given) if f is not None]
    counts = [len(f) for f in features if isinstance(f, Tensor) and f.dim()]
    if len(set(counts)) > 1:
        raise ValueError(
            f"All features must be of the same samples, got {counts} samples "
            f"(shapes {[tuple(f.shape) for f in features]})."
        )
    return (
        pairwise_distances(x),
        pairwise_distances(y),
        None if given is None else pairwise_distances(given),
    )
