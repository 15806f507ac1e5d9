"""The closed form is what leaving out each sample by hand gives; its interval holds known truths."""

from __future__ import annotations

import pytest
import torch

from captum_kd.functional import bootstrap_interval, jackknife_interval, pairwise_distances
from captum_kd.functional.correlation import correlation_from_distances, semipartial_from_distances
from captum_kd.functional.jackknife import leave_one_out_correlations


def features(n: int = 12) -> tuple[torch.Tensor, ...]:
    x, y, z = torch.randn(3, n, 4, generator=torch.Generator().manual_seed(0))
    return x, x + y, x + z


@pytest.mark.parametrize(("estimator", "given"), [("unbiased", False), ("biased", False), ("unbiased", True)])
def test_closed_form_is_leaving_out_by_hand(estimator: str, given: bool) -> None:
    matrices = [pairwise_distances(f) for f in features()][: 3 if given else 2]
    found = leave_one_out_correlations(*matrices, estimator=estimator)
    for k, value in enumerate(found):
        others = [j for j in range(12) if j != k]
        left = [m[others][:, others] for m in matrices]
        by_hand = semipartial_from_distances(*left) if given else correlation_from_distances(*left, estimator)
        assert value.item() == pytest.approx(by_hand.item(), abs=1e-12)


def test_margin_is_the_textbook_jackknife() -> None:
    x, y, _ = features()
    values = leave_one_out_correlations(pairwise_distances(x), pairwise_distances(y))
    found = jackknife_interval(x, y, confidence=0.6826894921370859)  # one standard error
    error = ((12 - 1) / 12 * ((values - values.mean()) ** 2).sum()).sqrt().item()
    assert found.high - found.estimate.item() == pytest.approx(error)
    assert found.estimate.item() - found.low == pytest.approx(error)


def test_large_samples_agree_with_half_samples() -> None:
    x, y, _ = features(400)
    ours = jackknife_interval(x, y)
    halves = bootstrap_interval(x, y, generator=torch.Generator().manual_seed(0))
    assert ours.estimate == halves.estimate
    assert (ours.high - ours.low) == pytest.approx(halves.high - halves.low, rel=0.15)


def test_interval_holds_the_truth_of_independent_data() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(60):
        x, y = torch.randn(2, 24, 3, generator=generator)
        interval = jackknife_interval(x, y)
        held += interval.low <= 0 <= interval.high
    assert 54 <= held <= 60


def test_constant_features_have_a_correlation_of_zero() -> None:
    x = torch.ones(8, 2)
    found = jackknife_interval(x, torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    assert (found.estimate.item(), found.low, found.high) == (0, 0, 0)


def test_equal_features_leave_no_doubt() -> None:
    x = features()[0]
    found = jackknife_interval(x, 2 * x)
    assert found.low == pytest.approx(1)
    assert found.high == pytest.approx(1)


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (4, {}, "at least 5 samples"),
        (12, {"confidence": 1.0}, "confidence must be between 0 and 1, got 1.0"),
        (12, {"estimator": "other"}, "estimator must be one of"),
        (12, {"estimator": "biased", "given": True}, "only estimator='unbiased' is defined"),
    ],
)
def test_what_cannot_be_done_is_said(n: int, options: dict, message: str) -> None:
    x, y, z = features(n)
    options = {**options, **({"given": z} if options.get("given") else {})}
    with pytest.raises(ValueError, match=message):
        jackknife_interval(x, y, **options)
