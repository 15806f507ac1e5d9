r"""The jackknife interval of a distance correlation, in closed form: no resampling, no randomness.

U-centring takes out whatever is added to all entries of a row or of a column, so a U-centred matrix without
one sample can be U-centred again from its own sums. With rows that sum to zero and
:math:`d_k = \sum_i A_{ik} B_{ik}`, the inner product without sample :math:`k` is, for :math:`m = n - 1`,

.. math:: \frac{1}{m(m-3)} \Big( \sum_{ij} A_{ij} B_{ij} - 2 \frac{m-1}{m-2} d_k \Big),

and all :math:`n` of them cost as much as one.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from captum_kd.functional.centering import double_center, u_center
from captum_kd.functional.correlation import (
    Estimator,
    check_estimator,
    correlation_from_distances,
    features_to_distances,
    semipartial_from_distances,
)
from captum_kd.functional.resampling import ConfidenceInterval


def jackknife_interval(
    x: Tensor,
    y: Tensor,
    *,
    given: Tensor | None = None,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
) -> ConfidenceInterval:
    """Interval for a distance correlation from leaving out each sample once.

    The estimate plus and minus the normal quantile times the jackknife's standard error (Efron and Stein,
    1981). It holds the truth nearer to its nominal coverage than half-samples do, and costs one pass over the
    distances (``benchmarks/interval_coverage.py`` measures both). Near independence it is conservative.

    Args:
        x: Features of shape ``(n, ...)`` with ``n >= 5``.
        y: Features of the same samples.
        given: As in :func:`~captum_kd.functional.bootstrap_interval`.
        estimator: "unbiased" or "biased".
        confidence: Nominal coverage, in (0, 1).

    Returns:
        ``estimate``, ``low``, ``high`` (clipped to the estimator's range) and ``confidence``.

    Raises:
        ValueError: ``n < 5``, different numbers of samples, ``confidence`` outside (0, 1), an unknown
            estimator, or "biased" together with ``given``.

    Example:
        >>> import torch
        >>> x = torch.linspace(0, 1, 30)
        >>> low, high = jackknife_interval(x, x**2)[1:3]
        >>> 0.8 < low < high <= 1
        True
    """
    return jackknife_interval_from_distances(
        *features_to_distances(x, y, given), estimator=estimator, confidence=confidence
    )


def jackknife_interval_from_distances(
    d_x: Tensor,
    d_y: Tensor,
    d_given: Tensor | None = None,
    *,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
) -> ConfidenceInterval:
    """:func:`jackknife_interval` of distance matrices of shape ``(n, n)``."""
    n = len(d_x)
    if n < 5:
        raise ValueError(f"The jackknife needs at least 5 samples (4 without one of them), got {n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    check_estimator(estimator)
    if d_given is None:
        estimate = correlation_from_distances(d_x, d_y, estimator)
    elif estimator == "unbiased":
        estimate = semipartial_from_distances(d_x, d_y, d_given)
    else:
        raise ValueError(
            "With `given` only estimator='unbiased' is defined: the projection is one of U-centred "
            f"matrices. Got {estimator!r}."
        )
    left_out = leave_one_out_correlations(d_x, d_y, d_given, estimator=estimator)
    variance = (n - 1) / n * (left_out - left_out.mean()).square().sum()
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * variance.sqrt().item()
    lowest = -1.0 if estimator == "unbiased" else 0.0
    low, high = max(lowest, estimate.item() - margin), min(1.0, estimate.item() + margin)
    return ConfidenceInterval(estimate, low, high, confidence)


def leave_one_out_correlations(
    d_x: Tensor, d_y: Tensor, d_given: Tensor | None = None, *, estimator: Estimator = "unbiased"
) -> Tensor:
    """The correlation without each sample in turn, ``(n,)``; 0 where nothing is left of a variable."""
    if estimator == "biased":
        x, y = double_center(d_x), double_center(d_y)
        xy, xx, yy = (_without_each_biased(*pair) for pair in ((x, y), (x, x), (y, y)))
        return _ratio(xy, xx, yy).clamp(0, 1)
    x, y = u_center(d_x), u_center(d_y)
    xy, xx, yy = (_without_each(*pair) for pair in ((x, y), (x, x), (y, y)))
    if d_given is not None:
        z = u_center(d_given)
        xz, zy, zz = (_without_each(*pair) for pair in ((x, z), (z, y), (z, z)))
        share = torch.where(zz > 0, xz / zz, 0.0)
        xy, xx = xy - share * zy, xx - share * xz
    return _ratio(xy, xx, yy).clamp(-1, 1)


def _without_each(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (Eq. 4) of U-centred matrices without each sample."""
    m = len(a) - 1
    products = (a * b).sum(0)
    return (products.sum() - 2 * (m - 1) / (m - 2) * products) / (m * (m - 3))


def _without_each_biased(a: Tensor, b: Tensor) -> Tensor:
    """Means of products of double-centred matrices without each sample."""
    m = len(a) - 1
    products = (a * b).sum(0)
    own = a.diagonal() * b.diagonal()
    return (products.sum() - 2 * products + own - 2 / m * (products - own) + own / m**2) / m**2


def _ratio(xy: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    # Rounding can leave a variance that should be zero slightly on either side of it.
    floor = torch.finfo(xx.dtype).eps
    known = (xx > floor * xx.abs().amax()) & (yy > floor * yy.abs().amax())
    return torch.where(known, xy / torch.where(known, xx * yy, 1.0).sqrt(), 0.0)
