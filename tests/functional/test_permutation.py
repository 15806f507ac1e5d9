"""The permutation test: brute force with dcor, and calibration."""

from __future__ import annotations

import math
from typing import Any

import dcor
import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from captum_kd.functional import permutation
from captum_kd.functional.correlation import semipartial_distance_correlation
from captum_kd.functional.permutation import permutation_test, permutation_test_from_distances


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian_pair(n: int, correlation: float, seed: int | torch.Generator) -> tuple[Tensor, Tensor]:
    generator = seeded(seed) if isinstance(seed, int) else seed
    x, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return x, correlation * x + math.sqrt(1 - correlation**2) * noise


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("n", [5, 16])
def test_null_is_that_of_brute_force(n: int, estimator: Any) -> None:
    x = torch.randn(n, 3, generator=seeded(0), dtype=torch.float64)
    y = x[:, :2] + torch.randn(n, 2, generator=seeded(1), dtype=torch.float64)
    result = permutation_test(x, y, estimator=estimator, permutations=50, generator=seeded(2))
    oracle = dcor.u_distance_correlation_sqr if estimator == "unbiased" else dcor.distance_correlation_sqr
    orders = torch.rand(50, n, generator=seeded(2)).argsort(dim=1)
    null = np.array([oracle(x.numpy(), y[order].numpy()) for order in orders])
    np.testing.assert_allclose(result.null, null, atol=1e-12)
    statistic = oracle(x.numpy(), y.numpy())
    assert result.statistic.item() == pytest.approx(statistic, abs=1e-12)
    assert result.p_value == (1 + (null >= statistic - 1e-9).sum()) / 51


def test_null_of_the_semipartial_correlation() -> None:
    x, z = gaussian_pair(12, 0.5, seed=0)
    y = torch.randn(12, 2, generator=seeded(1), dtype=torch.float64)
    result = permutation_test(x, y, given=z, permutations=20, generator=seeded(2))
    orders = torch.rand(20, 12, generator=seeded(2)).argsort(dim=1)
    null = torch.stack([semipartial_distance_correlation(x, y[order], z) for order in orders])
    torch.testing.assert_close(result.null, null)
    assert result.statistic == semipartial_distance_correlation(x, y, z)


def test_p_values_are_uniform_under_independence() -> None:
    p_values, null_means, generator = [], [], seeded(0)
    for _ in range(100):
        x, y = gaussian_pair(10, 0.0, generator)
        result = permutation_test(x, y, permutations=99, generator=generator)
        p_values.append(result.p_value)
        null_means.append(result.null.mean().item())
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert abs(np.mean(null_means)) < 0.02


def test_p_value_is_smallest_under_dependence() -> None:
    x, y = gaussian_pair(40, 0.9, seed=0)
    assert permutation_test(x, y, permutations=199, generator=seeded(0)).p_value == 1 / 200


@pytest.mark.parametrize("y", [torch.ones(8, 2), torch.eye(8)], ids=["constant", "all classes differ"])
def test_nothing_to_test(y: Tensor) -> None:
    x, _ = gaussian_pair(8, 0.0, seed=0)
    result = permutation_test(x, y, permutations=30)
    assert result.statistic == 0
    assert result.p_value == 1
    assert not result.null.any()


def test_nan_distances_are_never_significant() -> None:
    nan, d = torch.full((6, 6), math.nan), 1 - torch.eye(6)
    result = permutation_test_from_distances(nan, d, permutations=30)
    assert result.statistic.isnan()
    assert result.null.isnan().all()
    assert result.p_value == 1


def test_seeded_and_without_side_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian_pair(12, 0.5, seed=0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = permutation_test(x, y, generator=seeded(5))
    assert torch.equal(torch.get_rng_state(), before)
    # The same whatever number of permutations is worked on at a time.
    monkeypatch.setattr(permutation, "_STACK_ELEMENTS", 7 * 12**2)
    again, other = (permutation_test(x, y, generator=seeded(seed)) for seed in (5, 6))
    torch.testing.assert_close(again, first)
    assert not torch.equal(other.null, first.null)
    from_global = [(torch.manual_seed(1), permutation_test(x, y))[1] for _ in range(2)]
    torch.testing.assert_close(*from_global)


X8, X7 = torch.arange(8.0), torch.arange(7.0)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (X8, {"permutations": 0}, "permutations must be at least 1, got 0"),
        (X8, {"estimator": "none"}, r"\('unbiased', 'biased'\), got 'none'"),
        (X8, {"estimator": "biased", "given": X8}, "only estimator='unbiased'"),
        (X8, {"given": X7}, r"got \[8, 8, 7\] samples"),
        (X7[:3], {}, r"At least 4 samples .* got 3"),
    ],
)
def test_bad_input(x: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        permutation_test(x, x, **options)


def test_different_numbers_of_samples() -> None:
    with pytest.raises(ValueError, match=r"got \[8, 7\] samples"):
        permutation_test(X8, X7)
