"""A score with all that is needed to trust it: estimator, n, interval and null."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.functional.correlation import Estimator, features_to_distances
from captum_kd.functional.interval import confidence_interval_from_distances
from captum_kd.functional.permutation import permutation_test_from_distances
from captum_kd.metrics.copies import warn_of_repeated_rows


class Score(NamedTuple):
    """A distance correlation of one set of samples.

    Attributes:
        value: The distance correlation.
        low: The lower end of the confidence interval.
        high: The upper end.
        null: The mean under permutations of the samples (for relevance: of the labels).
        null_high: The 95 % quantile under these permutations.
        p_value: The one-sided p-value.
        samples: The number of samples.
        estimator: "unbiased" or "biased".
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
    """The distance correlation of two sets of features, with its interval and its permutation null.

    Args:
        features: The features to score, ``(n, ...)`` with ``n >= 8``.
        others: The base model's features (for FSS) or label embeddings (for RS), ``(n, ...)``.
        given: Features that are first taken out of ``features``, ``(n, ...)``; None: none.
        estimator: "unbiased" or "biased"; with ``given`` only "unbiased" is defined.
        confidence: The nominal coverage of the interval, in (0, 1).
        permutations: The number of permutations for the null.
        generator: The source of the permutations, on the CPU; None: PyTorch's global one.

    Returns:
        The :class:`Score`.

    Raises:
        ValueError: There are fewer than 8 samples, the numbers of samples differ, ``confidence`` is outside
            (0, 1), the estimator is unknown, or "biased" is combined with ``given``.

    Warns:
        UserWarning: Samples seem to be there more than once, which makes chance look significant.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(64, 4, generator=generator)
        >>> score = score_with_statistics(x, x + 1, generator=generator)
        >>> round(score.value, 3), score.p_value, score.samples
        (1.0, 0.005, 64)
    """
    distances = features_to_distances(features, others, given)
    warn_of_repeated_rows(features, others, *(() if given is None else (given,)))
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
