"""The interval: its closed forms are what leaving out by hand gives, and it holds known truths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import dcor
import numpy as np
import pytest
import torch
from scipy.stats import norm as normal
from scipy.stats import t as students_t
from torch import Tensor

from captum_kd.functional import confidence_interval, distance_correlation, interval, pairwise_distances
from captum_kd.functional.centering import double_center, u_center
from captum_kd.functional.correlation import statistic_from_distances
from captum_kd.functional.interval import leave_one_out, leave_out, leave_two_out

N = 12
KINDS: list[tuple[Any, bool]] = [("unbiased", False), ("biased", False), ("unbiased", True)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int = N, size: int = 4) -> tuple[Tensor, ...]:
    x, y, z = torch.randn(3, n, size, generator=seeded(0), dtype=torch.float64)
    return x, x + y, x + z


def distances(given: bool, n: int = N) -> list[Tensor]:
    return [pairwise_distances(f) for f in features(n)][: 3 if given else 2]


def by_hand(matrices: Sequence[Tensor], estimator: Any, *left_out: int) -> float:
    kept = [k for k in range(len(matrices[0])) if k not in left_out]
    d_x, d_y, *given = (m[kept][:, kept] for m in matrices)
    return statistic_from_distances(d_x, d_y, given[0] if given else None, estimator).item()


@pytest.mark.parametrize(("estimator", "given"), KINDS)
def test_closed_forms_are_leaving_out_by_hand(estimator: Any, given: bool) -> None:
    matrices = distances(given)
    centred = [(u_center if estimator == "unbiased" else double_center)(m) for m in matrices]
    one = leave_one_out(centred, estimator)
    two = leave_two_out(centred, torch.tensor([0, 3, 11]), estimator)
    np.testing.assert_allclose(one, [by_hand(matrices, estimator, k) for k in range(N)], atol=1e-12)
    for row, i in zip(two, (0, 3, 11), strict=True):
        for j in set(range(N)) - {i}:
            assert row[j].item() == pytest.approx(by_hand(matrices, estimator, i, j), abs=1e-12)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_correlations_without_samples_are_those_of_dcor(estimator: Any) -> None:
    x, y, _ = features()
    oracle = dcor.u_distance_correlation_sqr if estimator == "unbiased" else dcor.distance_correlation_sqr
    center = u_center if estimator == "unbiased" else double_center
    two = leave_two_out([center(d) for d in distances(False)], torch.arange(N), estimator)
    for i, j in combinations(range(N), 2):
        kept = np.delete(np.arange(N), [i, j])
        expected = oracle(x.numpy()[kept], y.numpy()[kept])
        assert [two[i, j].item(), two[j, i].item()] == pytest.approx([expected] * 2, abs=1e-12)


@pytest.mark.parametrize(("estimator", "given"), KINDS)
@pytest.mark.parametrize("n", [12, 40])
def test_variance_is_the_corrected_jackknife_of_the_textbook(estimator: Any, given: bool, n: int) -> None:
    """Efron and Stein (1981), written out over all pairs; the jackknife of those without each sample."""
    matrices = distances(given, n)

    def jackknife(values: np.ndarray) -> float:
        return float((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())

    whole = by_hand(matrices, estimator)
    one = np.array([by_hand(matrices, estimator, k) for k in range(n)])
    two = {frozenset(p): by_hand(matrices, estimator, *p) for p in combinations(range(n), 2)}
    q = np.array(
        [
            n * whole - (n - 1) * (one[i] + one[j]) + (n - 2) * two[frozenset((i, j))]
            for i, j in combinations(range(n), 2)
        ]
    )
    plain, correction = jackknife(one), ((q - q.mean()) ** 2).sum() / (n * (n - 1))
    # At 12 samples the correction would exceed half of the variance; at 40 all of it counts.
    assert (correction > plain / 2) == (n == 12)
    variance = max(plain - correction, plain / 2)
    without = np.array(
        [jackknife(np.array([two[frozenset((i, j))] for j in range(n) if j != i])) for i in range(n)]
    )
    slope = np.polyfit(one, without, 1)[0]
    found = leave_out(*matrices, estimator=estimator)
    assert found.statistic.item() == whole
    assert found.variance == pytest.approx(variance)
    assert found.slope == pytest.approx(slope * variance / plain)


def test_some_variances_are_corrected_by_less_than_half() -> None:
    def share(n: int) -> float:
        d_x, d_y = distances(False, n)
        one = leave_one_out([u_center(d_x), u_center(d_y)], "unbiased")
        plain = (n - 1) / n * (one - one.mean()).square().sum().item()
        return leave_out(d_x, d_y).variance / plain

    assert 0.5 <= share(12) < share(200) < 1


def test_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = leave_out(*distances(True))
    monkeypatch.setattr(interval, "_PAIRS", 5 * N)
    assert leave_out(*distances(True))[1:] == pytest.approx(whole[1:])


@pytest.mark.parametrize(("estimator", "given"), KINDS)
def test_ends_are_the_farthest_truths_not_contradicted_but_for_skewness(estimator: Any, given: bool) -> None:
    x, y, z = features(40)
    z = z if given else None
    found = confidence_interval(x, y, given=z, estimator=estimator, confidence=0.9)
    statistic, variance, slope = leave_out(*distances(given, 40), estimator=estimator)
    assert found.estimate == statistic
    quantile = students_t.ppf(0.95, 20)
    for end in (found.low, found.high):
        away = end - found.estimate.item() + slope * (quantile**2 - 1) / 6
        assert away**2 == pytest.approx(quantile**2 * (variance + slope * away))
    assert found.low < found.estimate < found.high
    assert found.confidence == 0.9


@pytest.mark.parametrize("seed", range(12))
def test_zero_is_inside_just_where_independence_is_not_contradicted(seed: int) -> None:
    n = 24
    x, noise = torch.randn(2, n, 1, generator=seeded(seed), dtype=torch.float64)
    estimate, low, high, _ = confidence_interval(x, 0.4 * x + noise, confidence=0.9)
    deviation = math.sqrt(2 / (n * (n - 3)))
    assert (low > 0) == (estimate > normal.ppf(0.95) * deviation)
    assert low <= estimate <= high
    assert high >= 0


def test_low_end_is_halfway_to_where_the_interpolated_variance_puts_it() -> None:
    n, found = 24, 0
    independent = 2 / (n * (n - 3))
    for seed in range(12):
        x, noise = torch.randn(2, n, 1, generator=seeded(seed), dtype=torch.float64)
        y = 0.4 * x + noise
        estimate, low, _, _ = confidence_interval(x, y)
        statistic, variance, slope = leave_out(pairwise_distances(x), pairwise_distances(y))
        t = students_t.ppf(0.975, n / 2)
        usual = estimate + slope * (t**2 / 3 + 1 / 6) - math.hypot(t * variance**0.5, t**2 * slope / 2)
        if usual < 0 < low:
            found += 1
            interpolated = independent + (variance - independent) * 2 * low / statistic
            assert (estimate - 2 * low) ** 2 == pytest.approx(normal.ppf(0.975) ** 2 * interpolated)
    assert found


def test_variance_under_independence_is_that_of_permutations() -> None:
    n = 24
    x, y = torch.randn(2, n, 3, generator=seeded(0), dtype=torch.float64)
    orders = [torch.randperm(n, generator=seeded(k)) for k in range(2000)]
    permuted = torch.stack([distance_correlation(x, y[order]) for order in orders])
    assert permuted.var().item() == pytest.approx(2 / (n * (n - 3)), rel=0.1)


def test_more_confidence_is_wider() -> None:
    narrow, wide = (confidence_interval(*features()[:2], confidence=c) for c in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.high < wide.high


def bivariate_normal_truth(rho: float) -> float:
    """Székely et al. (2007), Theorem 7."""
    above = (
        rho * math.asin(rho) + math.sqrt(1 - rho**2) - rho * math.asin(rho / 2) - math.sqrt(4 - rho**2) + 1
    )
    return above / (1 + math.pi / 3 - math.sqrt(3))


@pytest.mark.parametrize(("rho", "n", "size"), [(0, 32, 5), (0, 128, 1), (0.25, 32, 1), (0.5, 64, 1)])
def test_holds_the_truth_about_as_often_as_it_says(rho: float, n: int, size: int) -> None:
    """The plain jackknife holds it in 99 of 100 of the first, and in 87 of the third."""
    generator, trials, held = seeded(2), 200, 0
    for _ in range(trials):
        x, noise = torch.randn(2, n, size, generator=generator, dtype=torch.float64)
        found = confidence_interval(x, rho * x + math.sqrt(1 - rho**2) * noise)
        held += found.low <= bivariate_normal_truth(rho) <= found.high
    assert 0.92 <= held / trials <= 0.98


@pytest.mark.parametrize("y", [torch.ones(8, 2), torch.eye(8)], ids=["constant", "all classes differ"])
def test_nothing_to_measure_is_a_correlation_of_zero(y: Tensor) -> None:
    found = confidence_interval(features(8)[0], y)
    assert (found.estimate.item(), found.low, found.high) == (0, 0, 0)


def test_without_one_sample_a_variable_may_be_constant() -> None:
    y = torch.eye(8)[[0, 0, 1, 2, 3, 4, 5, 6]]  # without sample 0 or 1 all classes differ
    found = confidence_interval(features(8)[0], y)
    assert -1 <= found.low < found.estimate < found.high <= 1


def test_equal_features_leave_no_doubt() -> None:
    x = features()[0]
    found = confidence_interval(x, 2 * x)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)


def test_nothing_is_left_of_what_is_given() -> None:
    x, y, _ = features()
    found = confidence_interval(x, y, given=3 * x)
    assert (found.estimate.item(), found.low, found.high) == (0, 0, 0)


def test_interval_stays_in_range() -> None:
    x, _, y = torch.randn(3, 8, 2, generator=seeded(3))
    found = confidence_interval(x, y, estimator="biased", confidence=1 - 1e-12)
    assert (found.low, found.high) == (0, 1)
    found = confidence_interval(x, y, confidence=1 - 1e-12)
    assert -1 <= found.low < found.high == 1


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (7, {}, "An interval needs at least 8 samples, got 7"),
        (12, {"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        (12, {"confidence": 95}, "between 0 and 1, got 95"),
        (12, {"estimator": "other"}, r"\('unbiased', 'biased'\), got 'other'"),
        (12, {"estimator": "biased", "given": features()[2]}, "only estimator='unbiased' is defined"),
        (12, {"given": features()[2][:11]}, r"got \[12, 12, 11\] samples"),
    ],
)
def test_what_cannot_be_done_is_said(n: int, options: dict[str, Any], message: str) -> None:
    x, y, _ = features(n)
    with pytest.raises(ValueError, match=message):
        confidence_interval(x, y, **options)
