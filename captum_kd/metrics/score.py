"""A score with all that is needed to believe it: estimator, n, interval and null."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.functional.correlation import Estimator, features_to_distances
from captum_kd.functional.interval import confidence_interval_from_distances
from captum_kd.functional.permutation import permutation_test_from_distances


class Score(NamedTuple):
    """A distance correlation of one set of samples.

    ``low`` and ``high`` bound the confidence interval; ``null`` is the mean and ``null_high`` the 95 %
    quantile under permutation of the samples (for relevance: permuted labels); ``p_value`` is one-sided.
    """

    value: float
    low: float
    high: float
    null: float
    null_high: float
    p_value: float
    samples: int
    estimator: Estimator


def score_with_statistics(
    features: Tensor,
    others: Tensor,
    *,
    given: Tensor | None = None,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
    permutations: int = 199,
    generator: torch.Generator | None = None,
) -> Score:
    """Distance correlation of features with others, its interval and its permutation null.

    Args:
        features: Shape ``(n, ...)`` with ``n >= 8``.
        others: The base model's features (FSS) or label embeddings (RS), ``(n, ...)``.
        given: Features that are taken out of ``features`` first, or None.
        estimator: "unbiased" or "biased".
        confidence: Nominal coverage of the interval.
        permutations: Permutations for the null.
        generator: Source of the permutations, on the CPU; None takes PyTorch's global one.

    Returns:
        The :class:`Score`.

    Raises:
        ValueError: As :func:`~captum_kd.functional.confidence_interval`.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(64, 4, generator=generator)
        >>> score = score_with_statistics(x, x + 1, generator=generator)
        >>> round(score.value, 3), score.p_value, score.samples
        (1.0, 0.005, 64)
    """
    distances = features_to_distances(features, others, given)
    interval = confidence_interval_from_distances(*distances, estimator=estimator, confidence=confidence)
    test = permutation_test_from_distances(
        *distances, estimator=estimator, permutations=permutations, generator=generator
    )
    return Score(
        interval.estimate.item(),
        interval.low,
        interval.high,
        test.null.mean().item(),
        test.null.quantile(0.95).item(),
        test.p_value,
        len(features),
        estimator,
    )
