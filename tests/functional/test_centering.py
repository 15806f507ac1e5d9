"""Centring and projection: dcor, identities, and what is exactly zero."""

from __future__ import annotations

import math

import dcor
import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kd.functional.centering import (
    correlation_of,
    double_center,
    inner_product,
    safe_ratio,
    u_center,
    unique_component,
)
from captum_kd.functional.distance import pairwise_distances

SIZES = [4, 5, 13, 40]


def distances(n: int, seed: int = 0, d: int = 3) -> Tensor:
    return pairwise_distances(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("n", SIZES)
def test_dcor(n: int) -> None:
    d_x, d_y = distances(n), distances(n, seed=1)
    p, q = u_center(d_x), u_center(d_y)
    np.testing.assert_allclose(double_center(d_x), dcor.double_centered(d_x.numpy()), atol=1e-13)
    np.testing.assert_allclose(p, dcor.u_centered(d_x.numpy()), atol=1e-13)
    np.testing.assert_allclose(inner_product(p, q), dcor.u_product(p.numpy(), q.numpy()), atol=1e-13)
    np.testing.assert_allclose(
        unique_component(p, given=q), dcor.u_complementary_projection(q.numpy())(p.numpy()), atol=1e-12
    )


@pytest.mark.parametrize("n", SIZES)
def test_identities(n: int) -> None:
    d, p, q = distances(n), u_center(distances(n)), u_center(distances(n, seed=1))
    torch.testing.assert_close(double_center(d).sum(0), d.new_zeros(n), atol=1e-12, rtol=0)
    torch.testing.assert_close(p.sum(0), d.new_zeros(n), atol=1e-12, rtol=0)
    torch.testing.assert_close(u_center(p), p)  # a projection
    unique = unique_component(p, given=q)
    assert abs(inner_product(unique, q)) < 1e-13
    torch.testing.assert_close(unique_component(unique, given=q), unique)
    torch.testing.assert_close(inner_product(p, unique), inner_product(unique, unique))


def test_leading_dimensions_are_a_batch() -> None:
    p, q = (torch.stack([distances(6, seed=s) for s in seeds]) for seeds in ((0, 1), (2, 3)))
    for function in (double_center, u_center):
        assert torch.equal(function(p)[1], function(p[1]))
    p, q = u_center(p), u_center(q)
    for pairwise in (inner_product, unique_component, correlation_of):
        torch.testing.assert_close(pairwise(p, q)[1], pairwise(p[1], q[1]))


def test_diagonal_does_not_enter_the_inner_product() -> None:
    p, q = u_center(distances(5)), u_center(distances(5, seed=1))
    assert inner_product(p + 7 * torch.eye(5), q + torch.eye(5)) == pytest.approx(inner_product(p, q))


@pytest.mark.parametrize("distance", [1.0, math.sqrt(2), 0.1, 1e-20, 1e30])
@pytest.mark.parametrize("n", [4, 7, 100, 1001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equidistant_samples_are_exactly_zero(distance: float, n: int, dtype: torch.dtype) -> None:
    """All samples of different classes, one-hot: their U-centred distances say nothing."""
    equal = (distance * (1 - torch.eye(n))).to(dtype)
    assert not u_center(equal).any()


def test_constant_and_shared_features_are_exactly_zero() -> None:
    constant, p = torch.zeros(6, 6), u_center(distances(6))
    assert not u_center(constant).any()
    assert not double_center(constant).any()
    for factor in (1.0, 1 / 3, -7.7, 1e9):
        assert not unique_component(factor * p, given=p).any()
    assert torch.equal(unique_component(p, given=torch.zeros_like(p)), p)
    assert correlation_of(p, torch.zeros_like(p)) == 0


def test_little_but_real_structure_is_kept() -> None:
    equal, rest = 1 - torch.eye(6, dtype=torch.float64), 1e-9 * distances(6)
    torch.testing.assert_close(u_center(equal + rest), u_center(rest), atol=1e-14, rtol=0)


def test_zeros_have_zero_gradients() -> None:
    zero = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    p = u_center(distances(5))
    for value in (
        u_center(zero).sum(),
        double_center(zero).sum(),
        unique_component(p, given=u_center(zero)).sum(),
        correlation_of(p, u_center(zero)),
        safe_ratio(zero.sum() + 1, zero.sum()),
    ):
        (gradient,) = torch.autograd.grad(value, zero)
        assert torch.equal(gradient, torch.zeros_like(zero))


def test_nan_stays_nan() -> None:
    nan, p = torch.full((5, 5), math.nan), u_center(distances(5)).float()
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    assert double_center(nan).isnan().all()
    assert u_center(nan)[off_diagonal].isnan().all()
    assert inner_product(nan, p).isnan()
    assert unique_component(p, given=nan).isnan().all()
    assert unique_component(nan, given=p).isnan().all()
    assert correlation_of(nan, p).isnan()
    assert correlation_of(nan, torch.zeros_like(p)).isnan()


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 4)])
def test_not_square(shape: tuple[int, ...]) -> None:
    for function in (double_center, u_center):
        with pytest.raises(ValueError, match=r"shape \(..., n, n\) is needed, got shape"):
            function(torch.ones(shape))


def test_too_few_or_different_samples() -> None:
    with pytest.raises(ValueError, match=r"At least 4 samples .* got 3"):
        u_center(torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"At least 4 samples .* got 3"):
        inner_product(torch.ones(3, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="got 4 and 5 samples"):
        unique_component(torch.ones(4, 4), torch.ones(5, 5))
