"""Distance correlations: dcor, a case by hand, invariances, independence."""

from __future__ import annotations

import math
from collections.abc import Callable

import dcor
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_kd.functional.correlation import (
    correlation_from_distances,
    covariance_from_distances,
    distance_correlation,
    distance_covariance,
    distance_variance,
    partial_distance_correlation,
    semipartial_distance_correlation,
)

ESTIMATORS = ["unbiased", "biased"]


def related(n: int, widths: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    """Features of the given widths that share a common part."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 1, generator=generator)
    return [(shared + torch.randn(n, w, generator=generator)).double() for w in widths]


@pytest.mark.parametrize("n", [5, 12, 40])
@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 3, 2), (2, 10, 1)])
def test_dcor(n: int, widths: tuple[int, int, int]) -> None:
    x, y, z = related(n, widths)
    a, b, c = x.numpy(), y.numpy(), z.numpy()
    for ours, oracle in (
        (distance_covariance(x, y), dcor.u_distance_covariance_sqr(a, b)),
        (distance_covariance(x, y, estimator="biased"), dcor.distance_covariance_sqr(a, b)),
        (distance_variance(x), dcor.u_distance_covariance_sqr(a, a)),
        (distance_variance(x, estimator="biased"), dcor.distance_covariance_sqr(a, a)),
        (distance_correlation(x, y), dcor.u_distance_correlation_sqr(a, b)),
        (distance_correlation(x, y, estimator="biased"), dcor.distance_correlation_sqr(a, b)),
        (partial_distance_correlation(x, y, z), dcor.partial_distance_correlation(a, b, c)),
    ):
        np.testing.assert_allclose(ours.item(), oracle, rtol=1e-10, atol=1e-12)


def test_by_hand() -> None:
    """Four samples. U-centred 4 x 4 matrices have P01 = P23 = a, P02 = P13 = b, P03 = P12 = c with
    a + b + c = 0, and <P,Q> = 4 (aa' + bb' + cc') / (n (n-3)) = aa' + bb' + cc'.

    x = 0 1 3 7: row sums 11 9 9 17, total 46, P01 = 1 - 20/2 + 46/6 = -4/3, so (a, b, c) = (-4, 2, 2)/3.
    y = 0 1 0 1: row sums 2, total 8, P01 = 1 - 4/2 + 8/6 = 1/3, P02 = -2/3, so (1, -2, 1)/3.
    g = 0 1 1 0: the same with the last two swapped, (1, 1, -2)/3.
    <x,y> = (-4 - 4 + 2)/9 = -2/3, <x,x> = 24/9 = 8/3, <y,y> = 6/9 = 2/3, so R^2 = (-2/3)/(4/3) = -1/2.
    x given y: U = P_x + P_y = (-1, 0, 1); g given y: <g,y> = -1/3, P_g + P_y/2 = (1, 0, -1)/2.
    Semi-partial: <U,g> = -1, |U|^2 = 2, |g|^2 = 2/3, so -1/sqrt(4/3) = -sqrt(3)/2. Partial: -1.

    Biased: y's centred distances are -1/2 within and +1/2 between its groups {0,2} and {1,3}.
    With h = 0 0 1 1, x has distances of 3+7+2+6 = 18 between and 1+4 = 5 within, each twice:
    V^2(x,h) = (36 - 10)/2/16 = 13/16. V^2(h,h) = 1/4. V^2(x,x) = mean D^2 - 2 mean (row mean)^2 + (mean)^2
    = 230/16 - 2 * 572/64 + (46/16)^2 = 305/64. So R^2 = (13/16)/(sqrt(305)/16) = 13/sqrt(305).
    """
    x, y, g, h = (torch.tensor(v) for v in ([0.0, 1, 3, 7], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]))
    for value, by_hand in (
        (distance_covariance(x, y), -2 / 3),
        (distance_variance(x), 8 / 3),
        (distance_correlation(x, y), -1 / 2),
        (semipartial_distance_correlation(x, g, y), -math.sqrt(3) / 2),
        (partial_distance_correlation(x, g, y), -1.0),
        (distance_covariance(x, h, estimator="biased"), 13 / 16),
        (distance_variance(x, estimator="biased"), 305 / 64),
        (distance_correlation(x, h, estimator="biased"), 13 / math.sqrt(305)),
        (distance_correlation(y, h, estimator="biased"), 0.0),
    ):
        assert value.item() == pytest.approx(by_hand, abs=1e-14)


Correlation = Callable[[Tensor, Tensor, Tensor], Tensor]
CORRELATIONS: list[Correlation] = [
    lambda x, y, z: distance_correlation(x, y),
    lambda x, y, z: distance_correlation(x, y, estimator="biased"),
    partial_distance_correlation,
    semipartial_distance_correlation,
]


@settings(max_examples=8, deadline=None)
@given(
    n=st.integers(5, 30),
    widths=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_invariances(n: int, widths: tuple[int, int, int], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y, z = related(n, widths, seed)
    order = torch.randperm(n, generator=generator)
    rotation = torch.linalg.qr(torch.randn(widths[0], widths[0], generator=generator).double()).Q
    moved = scale * x @ rotation + 10 * torch.randn(widths[0], generator=generator)
    for correlation in CORRELATIONS:
        value = correlation(x, y, z).item()
        assert -1 <= value <= 1
        assert correlation(moved, y, z).item() == pytest.approx(value, abs=1e-8)
        assert correlation(x, -scale * y, z).item() == pytest.approx(value, abs=1e-8)
        assert correlation(x, y, scale * z).item() == pytest.approx(value, abs=1e-8)
        assert correlation(x[order], y[order], z[order]).item() == pytest.approx(value, abs=1e-8)
    for symmetric in (CORRELATIONS[0], CORRELATIONS[1], CORRELATIONS[2]):
        assert symmetric(y, x, z).item() == pytest.approx(symmetric(x, y, z).item(), abs=1e-12)
    for plain in CORRELATIONS[:2]:
        assert plain(x, moved, z).item() == pytest.approx(1, abs=1e-8)
    assert CORRELATIONS[1](x, y, z).item() >= 0


@settings(max_examples=15, deadline=None)
@given(n=st.integers(5, 30), seed=st.integers(0, 2**31))
def test_partial_and_semipartial(n: int, seed: int) -> None:
    x, y, z = related(n, (3, 2, 4), seed)
    constant = torch.ones(n, 1)
    plain, partial = distance_correlation(x, y).item(), partial_distance_correlation(x, y, z).item()
    assert partial_distance_correlation(x, y, constant).item() == pytest.approx(plain, abs=1e-12)
    assert semipartial_distance_correlation(x, y, constant).item() == pytest.approx(plain, abs=1e-12)
    assert semipartial_distance_correlation(x, z, z).item() == pytest.approx(0, abs=1e-10)
    # Only the norm of the other variable differs: <P_z(x), P(y)> = <P_z(x), P_z(y)>.
    r_xy, r_xz, r_yz = plain, distance_correlation(x, z).item(), distance_correlation(y, z).item()
    semipartial = semipartial_distance_correlation(x, y, z).item()
    assert semipartial == pytest.approx(partial * math.sqrt(1 - r_yz**2), abs=1e-9)
    assert semipartial == pytest.approx((r_xy - r_xz * r_yz) / math.sqrt(1 - r_xz**2), abs=1e-9)


@pytest.mark.parametrize("n", [5, 20])
def test_unbiased_is_about_zero_for_independent_data(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1000, n, d, generator=generator, dtype=torch.float64) for d in (3, 2))
    d_x, d_y = torch.cdist(x, x), torch.cdist(y, y)
    for value in (covariance_from_distances(d_x, d_y), correlation_from_distances(d_x, d_y)):
        assert value.shape == (1000,)
        assert abs(value.mean()) < 4 * value.std() / math.sqrt(1000)
    assert correlation_from_distances(d_x, d_y, "biased").mean() > 0.15


DISTINCT = torch.eye(6)
FEATURES = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
ZERO = {
    "constant": (torch.ones(6, 3), FEATURES),
    "constant, not representable": (torch.full((6, 3), 0.1), FEATURES),
    "all of one class": (DISTINCT[[2] * 6], FEATURES),
    "all of different classes": (DISTINCT, FEATURES),
    "both constant": (torch.ones(6, 3), torch.zeros(6, 1)),
}


@pytest.mark.parametrize("name", ZERO)
def test_nothing_to_correlate_is_exactly_zero(name: str) -> None:
    x, y = (f.clone().requires_grad_() for f in ZERO[name])
    values = [
        distance_correlation(x, y),
        distance_covariance(x, y),
        partial_distance_correlation(x, y, FEATURES.flip(0)),
        semipartial_distance_correlation(y, x, FEATURES.flip(0)),
        semipartial_distance_correlation(x, y, FEATURES.flip(0)),
    ]
    if name != "all of different classes":  # whose double-centred distances are not zero
        values += [
            distance_correlation(x, y, estimator="biased"),
            distance_covariance(x, y, estimator="biased"),
        ]
    for value in values:
        assert value.item() == 0
        for gradient in torch.autograd.grad(value, (x, y), retain_graph=True):
            assert torch.equal(gradient, torch.zeros_like(gradient))


def test_identical_features() -> None:
    y = FEATURES.flip(0)
    for estimator in ESTIMATORS:
        assert distance_correlation(FEATURES, FEATURES, estimator=estimator) == pytest.approx(1, abs=1e-12)
    assert partial_distance_correlation(FEATURES, y, FEATURES) == 0
    assert semipartial_distance_correlation(FEATURES, y, 4 * FEATURES) == 0


def test_duplicated_samples() -> None:
    x, y, z = (torch.cat([f, f]) for f in related(4, (3, 2, 2)))
    for correlation in CORRELATIONS:
        leaf = x.clone().requires_grad_()
        value = correlation(leaf, y, z)
        value.backward()
        assert value.isfinite()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        torch.testing.assert_close(leaf.grad[:4], leaf.grad[4:])
    assert distance_correlation(x, x) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nan_distances_stay_nan(estimator: str) -> None:
    nan, zero = torch.full((5, 5), math.nan), torch.zeros(5, 5)
    for other in (zero, 1 - torch.eye(5)):
        assert correlation_from_distances(nan, other, estimator).isnan()
        assert covariance_from_distances(nan, other, estimator).isnan()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient(estimator: str) -> None:
    x, y, _ = related(6, (3, 2, 1))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: distance_correlation(a, y, estimator=estimator), x)


def test_bad_input() -> None:
    x = torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"\('unbiased', 'biased'\), got 'bias'"):
        distance_correlation(x, x, estimator="bias")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"same samples, got \[5, 4\] samples"):
        distance_correlation(x, x[:4])
    with pytest.raises(ValueError, match=r"same samples, got \[5, 5, 4\] samples"):
        partial_distance_correlation(x, x, x[:4])
    with pytest.raises(ValueError, match="At least 4 samples"):
        distance_correlation(x[:3], x[:3])
    with pytest.raises(ValueError, match="must be finite"):
        distance_correlation(x, torch.full((5, 1), math.nan))
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got list"):
        distance_correlation(x, [1.0] * 5)  # type: ignore[arg-type]
    assert distance_correlation(x[:3], x[:3], estimator="biased") == pytest.approx(1)
