"""How sure a distance correlation is: a permutation test against independence and an interval.

The interval comes from half-samples drawn *without* replacement. The ordinary bootstrap repeats samples, and
repeated samples are at distance zero in both variables, which looks like dependence: for independent
data with n = 128 its nominal 95 % interval never held the truth (``benchmarks/interval_coverage.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.functional.centering import double_center, u_center, unique_component
from captum_kd.functional.correlation import (
    Estimator,
    check_estimator,
    correlation_from_distances,
    features_to_distances,
    semipartial_from_distances,
)

# Elements of a float64 stack of resampled matrices: 2 MiB stay in a processor's cache; on an accelerator
# few large operations are faster.
_STACK_ELEMENTS, _STACK_ELEMENTS_ACCELERATOR = 2**18, 2**24


class PermutationTest(NamedTuple):
    """A statistic with its distribution under independence."""

    statistic: Tensor
    p_value: float
    null: Tensor


class ConfidenceInterval(NamedTuple):
    """An estimate and the interval around it."""

    estimate: Tensor
    low: float
    high: float
    confidence: float


def permutation_test(
    x: Tensor,
    y: Tensor,
    *,
    given: Tensor | None = None,
    estimator: Estimator = "unbiased",
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> PermutationTest:
    """Test whether ``x`` and ``y`` are independent by permuting the samples of ``y``.

    Args:
        x: Features of shape ``(n, ...)``.
        y: Features (for instance label embeddings) of shape ``(n, ...)``.
        given: Features whose share is first taken out of ``x`` (the semi-partial correlation), or None.
        estimator: "unbiased" or "biased"; with ``given`` only "unbiased" is defined.
        permutations: Number of random permutations.
        generator: Source of randomness on the CPU; None takes PyTorch's global one.

    Returns:
        ``statistic`` (the distance correlation), one-sided ``p_value``
        ``(1 + #{null >= statistic}) / (1 + permutations)``, and ``null``, the permuted statistics.

    Raises:
        ValueError: Different numbers of samples, too few samples, fewer than one permutation, an unknown
            estimator, or "biased" together with ``given``.

    Example:
        >>> import torch
        >>> x = torch.linspace(0, 1, 30)
        >>> result = permutation_test(x, x**2, generator=torch.Generator().manual_seed(0))
        >>> result.p_value
        0.001
    """
    return permutation_test_from_distances(
        *features_to_distances(x, y, given),
        estimator=estimator,
        permutations=permutations,
        generator=generator,
    )


def bootstrap_interval(
    x: Tensor,
    y: Tensor,
    *,
    given: Tensor | None = None,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
    resamples: int = 999,
    generator: torch.Generator | None = None,
) -> ConfidenceInterval:
    """Interval for a distance correlation from half-samples (bootstrap without replacement).

    The statistic of a random half differs from that of all samples with the variance that the latter has
    around its expectation (Politis and Romano, 1994), so the interval is the estimate plus and minus
    the normal quantile times the standard deviation over half-samples. It is conservative near
    independence. For the biased estimator it is an interval for that estimator's expectation at this n.

    Args:
        x: Features of shape ``(n, ...)`` with ``n >= 8``, so that a half has at least 4 samples.
        y: Features of the same samples.
        given: As in :func:`permutation_test`.
        estimator: "unbiased" or "biased".
        confidence: Nominal coverage, in (0, 1).
        resamples: Number of half-samples.
        generator: Source of randomness on the CPU; None takes PyTorch's global one.

    Returns:
        ``estimate``, ``low``, ``high`` (clipped to the estimator's range) and ``confidence``.

    Raises:
        ValueError: ``n < 8``, different numbers of samples, ``confidence`` outside (0, 1), fewer than two
            resamples, an unknown estimator, or "biased" together with ``given``.

    Example:
        >>> import torch
        >>> x = torch.linspace(0, 1, 30)
        >>> low, high = bootstrap_interval(x, x**2, generator=torch.Generator().manual_seed(0))[1:3]
        >>> 0.8 < low < high <= 1
        True
    """
    return bootstrap_interval_from_distances(
        *features_to_distances(x, y, given),
        estimator=estimator,
        confidence=confidence,
        resamples=resamples,
        generator=generator,
    )


def permutation_test_from_distances(
    d_x: Tensor,
    d_y: Tensor,
    d_given: Tensor | None = None,
    *,
    estimator: Estimator = "unbiased",
    permutations: int = 999,
    generator: torch.Generator | None = None,
) -> PermutationTest:
    """:func:`permutation_test` of distance matrices of shape ``(n, n)``."""
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}.")
    statistic = _statistic(d_x, d_y, d_given, estimator)
    center = u_center if estimator == "unbiased" else double_center
    a, b = center(d_x), center(d_y)
    if d_given is not None:
        a = unique_component(a, u_center(d_given))
    # Centring commutes with a permutation and norms do not change, so only the product has to be redone.
    norm = a.norm() * b.norm()
    null = [
        (a * _submatrices(b, order)).sum(dim=(-2, -1))
        for order in _index_stacks(b, len(b), permutations, generator)
    ]
    products = torch.cat(null)
    values = torch.zeros_like(products) if norm == 0 else products / norm
    # What is not below counts, so that NaN is never significant.
    p_value = (1 + int((~(values < statistic - 1e-12)).sum())) / (1 + permutations)
    return PermutationTest(statistic, p_value, values)


def bootstrap_interval_from_distances(
    d_x: Tensor,
    d_y: Tensor,
    d_given: Tensor | None = None,
    *,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
    resamples: int = 999,
    generator: torch.Generator | None = None,
) -> ConfidenceInterval:
    """:func:`bootstrap_interval` of distance matrices of shape ``(n, n)``."""
    n = len(d_x)
    if n < 8:
        raise ValueError(f"An interval needs at least 8 samples (a half must have 4), got {n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}.")
    estimate = _statistic(d_x, d_y, d_given, estimator)
    halves = torch.cat(
        [
            _statistic(
                _submatrices(d_x, index),
                _submatrices(d_y, index),
                None if d_given is None else _submatrices(d_given, index),
                estimator,
            )
            for index in _index_stacks(d_x, n // 2, resamples, generator)
        ]
    )
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * halves.std().item()
    lowest = -1.0 if estimator == "unbiased" else 0.0
    low, high = max(lowest, estimate.item() - margin), min(1.0, estimate.item() + margin)
    return ConfidenceInterval(estimate, low, high, confidence)


def _statistic(d_x: Tensor, d_y: Tensor, d_given: Tensor | None, estimator: Estimator) -> Tensor:
    check_estimator(estimator)
    if d_given is None:
        return correlation_from_distances(d_x, d_y, estimator)
    if estimator != "unbiased":
        raise ValueError(
            "With `given` only estimator='unbiased' is defined: the projection is one of U-centred "
            f"matrices. Got {estimator!r}."
        )
    return semipartial_from_distances(d_x, d_y, d_given)


def _index_stacks(
    matrix: Tensor, size: int, count: int, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """``count`` random orders of ``size`` of the samples of ``matrix``, in stacks that fit in memory."""
    elements = _STACK_ELEMENTS if matrix.device.type == "cpu" else _STACK_ELEMENTS_ACCELERATOR
    per_stack = max(1, elements // size**2)
    for start in range(0, count, per_stack):
        rows = min(per_stack, count - start)
        yield torch.rand(rows, len(matrix), generator=generator).argsort(dim=1)[:, :size].to(matrix.device)


def _submatrices(matrix: Tensor, index: Tensor) -> Tensor:
    return matrix[index[:, :, None], index[:, None, :]]
