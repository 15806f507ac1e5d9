"""A score with its statistics: each field is what the functions of distances say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kd.functional import confidence_interval, permutation_test
from captum_kd.functional.correlation import Estimator
from captum_kd.metrics import score_with_statistics

SAMPLES, PERMUTATIONS = 24, 50


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features() -> tuple[Tensor, Tensor, Tensor]:
    x, noise, z = torch.randn(3, SAMPLES, 3, generator=seeded())
    return x, x + noise, x + z


@pytest.mark.parametrize(("estimator", "given"), [("unbiased", False), ("biased", False), ("unbiased", True)])
def test_fields_are_those_of_interval_and_permutations(estimator: Estimator, given: bool) -> None:
    x, y, z = features()
    options = {"given": z if given else None, "estimator": estimator}
    score = score_with_statistics(
        x, y, **options, confidence=0.8, permutations=PERMUTATIONS, generator=seeded(1)
    )
    interval = confidence_interval(x, y, **options, confidence=0.8)
    test = permutation_test(x, y, **options, permutations=PERMUTATIONS, generator=seeded(1))
    assert (score.value, score.low, score.high) == pytest.approx((interval.estimate.item(), *interval[1:3]))
    # The mean of 50 values, not their sum, and a quantile of them.
    null = test.null.tolist()
    assert len(null) == PERMUTATIONS
    assert score.null == pytest.approx(sum(null) / PERMUTATIONS)
    assert min(null) < score.null < score.null_high < max(null)
    assert score.null_high == pytest.approx(np.quantile(null, 0.95))
    assert score.p_value == test.p_value
    assert (score.samples, score.estimator) == (SAMPLES, estimator)


def test_the_null_of_the_biased_estimator_is_high_and_that_of_the_unbiased_is_about_zero() -> None:
    x, noise = torch.randn(2, 16, 8, generator=seeded(2))
    biased, unbiased = (
        score_with_statistics(x, noise, estimator=estimator, generator=seeded())
        for estimator in ("biased", "unbiased")
    )
    assert 0.4 < biased.null < 0.9
    assert abs(unbiased.null) < 0.05
