"""A permutation test of a distance correlation against independence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.functional.centering import double_center, u_center, unique_component
from captum_kd.functional.correlation import Estimator, features_to_distances, statistic_from_distances

# Elements of a float64 stack of permuted matrices: 2 MiB stay in a processor's cache; on an accelerator
# few large operations are faster.
_STACK_ELEMENTS, _STACK_ELEMENTS_ACCELERATOR = 2**18, 2**24


class PermutationTest(NamedTuple):
    """A statistic with its distribution under independence."""

    statistic: Tensor
    p_value: float
    null: Tensor


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
    statistic = statistic_from_distances(d_x, d_y, d_given, estimator)
    center = u_center if estimator == "unbiased" else double_center
    a, b = center(d_x), center(d_y)
    if d_given is not None:
        a = unique_component(a, u_center(d_given))
    # Centring commutes with a permutation and norms do not change, so only the product has to be redone.
    norm = a.norm() * b.norm()
    null = [(a * _permuted(b, orders)).sum(dim=(-2, -1)) for orders in _orders(b, permutations, generator)]
    products = torch.cat(null)
    values = torch.zeros_like(products) if norm == 0 else products / norm
    # What is not below counts, so that NaN is never significant.
    p_value = (1 + int((~(values < statistic - 1e-12)).sum())) / (1 + permutations)
    return PermutationTest(statistic, p_value, values)


def _orders(matrix: Tensor, count: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """``count`` random orders of the samples of ``matrix``, in stacks that fit in memory."""
    elements = _STACK_ELEMENTS if matrix.device.type == "cpu" else _STACK_ELEMENTS_ACCELERATOR
    per_stack = max(1, elements // len(matrix) ** 2)
    for start in range(0, count, per_stack):
        rows = min(per_stack, count - start)
        yield torch.rand(rows, len(matrix), generator=generator).argsort(dim=1).to(matrix.device)


def _permuted(matrix: Tensor, orders: Tensor) -> Tensor:
    return matrix[orders[:, :, None], orders[:, None, :]]
