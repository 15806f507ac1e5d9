"""Objectives: identities, the gradient that the paper's equations give by hand, and zeros."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_kd.functional.centering import inner_product, u_center, unique_component
from captum_kd.functional.correlation import distance_correlation, semipartial_distance_correlation
from captum_kd.functional.distance import pairwise_distances
from captum_kd.functional.objectives import (
    OBJECTIVES,
    Distances,
    Objective,
    objective_gradient,
    relevance,
    row_max,
    uniqueness,
)

ALL = {**OBJECTIVES, "row_max": row_max}


def features(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 1, generator=generator)
    x, y, g = ((shared + torch.randn(n, d, generator=generator)).double() for d in (4, 3, 2))
    return x, y, g


@settings(max_examples=15, deadline=None)
@given(n=st.integers(5, 30), seed=st.integers(0, 2**31))
def test_identities(n: int, seed: int) -> None:
    x, y, g = features(n, seed)
    d_x, d_y, d_g = map(pairwise_distances, (x, y, g))
    r = distance_correlation(x, y).item()
    assert uniqueness(d_x, d_y).item() == pytest.approx(1 - r**2, abs=1e-10)
    semipartial = semipartial_distance_correlation(x, g, y).item()
    assert relevance(d_x, d_y, d_g).item() == pytest.approx(semipartial, abs=1e-12)
    for objective, degree in ((relevance, 0), (uniqueness, 0), (row_max, 1)):
        value = objective(d_x, d_y, d_g).item()
        scaled = objective(3 * d_x, 5 * d_y, 7 * d_g).item()
        assert scaled == pytest.approx(3**degree * value, rel=1e-8, abs=1e-10)


def test_by_hand() -> None:
    """The four samples of test_correlation: U = (-1, 0, 1), |U|^2 = 2 and |P|^2 = 8/3.

    So uniqueness is 3/4, relevance to g is -sqrt(3)/2, and every row of U holds -1, 0, 1 and a zero
    on the diagonal: the largest is 1 in each of four rows.
    """
    values = ([0.0, 1, 3, 7], [0.0, 1, 0, 1], [0.0, 1, 1, 0])
    x, y, g = (pairwise_distances(torch.tensor(v)) for v in values)
    assert uniqueness(x, y).item() == pytest.approx(3 / 4, abs=1e-14)
    assert relevance(x, y, g).item() == pytest.approx(-math.sqrt(3) / 2, abs=1e-14)
    assert row_max(x, y).item() == pytest.approx(4, abs=1e-14)


@pytest.mark.parametrize("n", [4, 9, 20])
def test_relevance_has_the_gradient_of_the_equations(n: int) -> None:
    """M = (Q(g) / (|U||P(g)|) - S U / |U|^2) / (n(n-3)), with Q(g) the label part that the other lacks."""
    d_x, d_y, d_g = map(pairwise_distances, features(n, seed=n))
    d_x.requires_grad_()
    score = relevance(d_x, d_y, d_g)
    (gradient,) = torch.autograd.grad(score, d_x)
    with torch.no_grad():
        p_g, p_y = u_center(d_g), u_center(d_y)
        u, q = unique_component(u_center(d_x), p_y), unique_component(p_g, p_y)
        u_u = inner_product(u, u)
        by_hand = (q / (u_u * inner_product(p_g, p_g)).sqrt() - score * u / u_u) / (n * (n - 3))
    off_diagonal = ~torch.eye(n, dtype=torch.bool)
    torch.testing.assert_close(gradient[off_diagonal], by_hand[off_diagonal], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_gradcheck(name: str) -> None:
    d_x, d_y, d_g = map(pairwise_distances, features(6, seed=0))
    assert torch.autograd.gradcheck(lambda d: ALL[name](d, d_y, d_g), d_x.requires_grad_())


D_X, D_Y, D_G = map(pairwise_distances, features(6, seed=0))
EQUIDISTANT = 1.0 - torch.eye(6, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "explained", "other", "labels", "value"),
    [
        ("relevance", D_X, D_X, D_G, 0),
        ("relevance", D_X, 3 * D_X, D_G, 0),
        ("relevance", D_X, D_Y, 0 * D_G, 0),
        ("relevance", D_X, D_Y, EQUIDISTANT, 0),
        ("relevance", 0 * D_X, D_Y, D_G, 0),
        ("uniqueness", D_X, 3 * D_X, None, 0),
        ("uniqueness", 0 * D_X, D_Y, None, 0),
        ("uniqueness", EQUIDISTANT, D_Y, None, 0),
        ("uniqueness", D_X, 0 * D_Y, None, 1),
        ("row_max", D_X, 3 * D_X, None, 0),
        ("row_max", 0 * D_X, D_Y, None, 0),
    ],
)
def test_nothing_unique(
    name: str, explained: Tensor, other: Tensor, labels: Tensor | None, value: float
) -> None:
    explained = explained.clone().requires_grad_()
    score = ALL[name](explained, other, labels)
    assert score.item() == pytest.approx(value, abs=0 if value == 0 else 1e-12)
    (gradient,) = torch.autograd.grad(score, explained)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_nan_stays_nan(name: str) -> None:
    nan = torch.full_like(D_X, math.nan)
    assert ALL[name](nan, D_Y, D_G).isnan()
    assert ALL[name](D_X, nan, D_G).isnan()


@pytest.mark.parametrize("name", ALL)
def test_too_few_samples(name: str) -> None:
    d = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r"At least 4 samples .* got 3"):
        ALL[name](d, d, d)


def test_objective_runs_for_callers_without_gradients() -> None:
    d = pairwise_distances(features(5, 0)[0])
    oracle = 2 * torch.ones(5, 5).double()
    with torch.no_grad():
        assert torch.equal(objective_gradient(lambda e, o, g: e.sum(), d, d, None), oracle)
    with torch.inference_mode():
        inside = d * 1
        assert torch.equal(objective_gradient(lambda e, o, g: e.sum(), inside, inside, inside), oracle)


def test_objective_may_work_in_place() -> None:
    d, other, labels = (pairwise_distances(x) for x in features(5, 0))
    before = other.clone(), labels.clone()
    gradient = objective_gradient(lambda e, o, g: (e * o.mul_(2)).sum() + g.zero_().sum(), d, other, labels)
    torch.testing.assert_close(gradient, 4 * before[0])
    assert torch.equal(other, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        (lambda e, o, g: e.sum(0), r"got \(5,\)"),
        (lambda e, o, g: 1.0, "got float"),
        (lambda e, o, g: o.sum(), r"got \(\) without a gradient"),
    ],
)
def test_objective_must_be_a_differentiable_scalar(objective: Objective, given: str) -> None:
    d = torch.ones(5, 5)
    with pytest.raises(ValueError, match=f"scalar tensor that is differentiable .*{given}"):
        objective_gradient(objective, d, d, None)


def test_distances_like() -> None:
    within = torch.ones(3, 3, dtype=torch.float64)
    half = Distances(within, within).like(torch.ones(1))
    assert half.within is not None
    assert half.to.dtype == half.within.dtype == torch.float32
    assert Distances(within, None).like(within).within is None


def test_relevance_needs_labels() -> None:
    d = pairwise_distances(features(5, 0)[0])
    with pytest.raises(ValueError, match="needs labels"):
        relevance(d, d, None)
