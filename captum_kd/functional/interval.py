r"""The confidence interval of a distance correlation, in closed form: no resampling, no randomness.

It is made of the correlations without one sample and without two. Centring takes out whatever is added to
all entries of a row or of a column, so a centred matrix without some samples can be centred again from its
own sums :math:`a_k`, which are those of the rows that were left out. For samples :math:`i, j` that is

.. math:: a_k = -A_{ki} - A_{kj}, \qquad \sum_k a_k = A_{ii} + A_{jj} + 2 A_{ij},

and the sums :math:`\sum_k a_k b_k` of all pairs at once take one product of the two matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from captum_kd.functional.centering import double_center, u_center
from captum_kd.functional.correlation import Estimator, features_to_distances, statistic_from_distances

FEWEST_SAMPLES = 8
# Pairs of samples that are worked on at a time, so that memory does not grow with all of them.
_PAIRS = 2**22
# What is left of a variable when it is less than this share of what there was is rounding.
_ROUNDING = 1e-12


class ConfidenceInterval(NamedTuple):
    """An estimate and the interval around it."""

    estimate: Tensor
    low: float
    high: float
    confidence: float


class LeftOut(NamedTuple):
    """What leaving out one sample or two says about a statistic.

    Attributes:
        statistic: That of all samples.
        variance: The jackknife's, corrected (Efron and Stein, 1981).
        slope: How much this variance grows with the statistic.
    """

    statistic: Tensor
    variance: float
    slope: float


def confidence_interval(
    x: Tensor,
    y: Tensor,
    *,
    given: Tensor | None = None,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
) -> ConfidenceInterval:
    r"""Confidence interval of a distance correlation.

    From correlations without one sample and without two come the variance :math:`V` of the estimate
    :math:`R`, the jackknife's with Efron and Stein's (1981) correction, and the slope :math:`s` with which
    it grows with the correlation. With :math:`t` the quantile of Student's distribution with :math:`n / 2`
    degrees of freedom, the interval is

    .. math:: R + s \left(\frac{t^2}{3} + \frac{1}{6}\right) \pm t \sqrt{V + t^2 s^2 / 4}.

    - Without the correction the jackknife finds twice the variance near independence.
    - All :math:`\theta` with :math:`(R - \theta)^2 \le t^2 (V + s (\theta - R))`, so with the variance at
      :math:`\theta`, are :math:`R + s t^2 / 2` plus and minus that root, as in Wilson's (1927) interval of a
      proportion. A variance that grows with the estimate makes that skewed as well. Its quantiles move by
      :math:`s (t^2 - 1) / 6` (Cornish and Fisher, 1938), which leaves Johnson's (1978) shift.
    - The terms of a variance have heavier tails than those of normal samples. Half the degrees of freedom
      are what is left with an excess kurtosis of 2.

    Unbiased and without ``given``, the correlation is never negative and is 0 for independence alone, where
    the estimate's variance is :math:`V_0 = 2 / (n (n - 3))` (Székely and Rizzo, 2013). With :math:`z` the
    normal quantile, 0 is in the interval if and only if :math:`R \le z \sqrt{V_0}`. If it is not, and the
    low end would still be below 0, it is half of where a variance puts it that is interpolated between
    :math:`V_0` at 0 and :math:`V` at :math:`R`. (Half by simulation: all of it is too much at ``n = 16``.)

    For the biased estimator it is an interval for that estimator's expectation at this ``n``. How often
    it holds the truth is in :doc:`/scores`.

    Args:
        x: Features of shape ``(n, ...)`` with ``n >= 8``.
        y: Features (for instance label embeddings) of the same samples.
        given: Features whose share is first taken out of ``x`` (the semi-partial correlation), or None.
        estimator: "unbiased" or "biased"; with ``given`` only "unbiased" is defined.
        confidence: Nominal coverage, in (0, 1).

    Returns:
        ``estimate``, ``low``, ``high`` (clipped to the estimator's range) and ``confidence``.

    Raises:
        ValueError: ``n < 8``, different numbers of samples, ``confidence`` outside (0, 1), an unknown
            estimator, or "biased" together with ``given``.

    Example:
        >>> import torch
        >>> x = torch.linspace(0, 1, 30)
        >>> low, high = confidence_interval(x, x**2)[1:3]
        >>> 0.8 < low < high <= 1
        True
    """
    return confidence_interval_from_distances(
        *features_to_distances(x, y, given), estimator=estimator, confidence=confidence
    )


def confidence_interval_from_distances(
    d_x: Tensor,
    d_y: Tensor,
    d_given: Tensor | None = None,
    *,
    estimator: Estimator = "unbiased",
    confidence: float = 0.95,
) -> ConfidenceInterval:
    """:func:`confidence_interval` of distance matrices of shape ``(n, n)``."""
    n = len(d_x)
    if n < FEWEST_SAMPLES:
        raise ValueError(f"An interval needs at least {FEWEST_SAMPLES} samples, got {n}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    statistic, variance, slope = leave_out(d_x, d_y, d_given, estimator=estimator)
    quantile = float(stdtrit(n / 2, (1 + confidence) / 2))
    estimate, shift = statistic.item(), slope * (quantile**2 / 3 + 1 / 6)
    margin = math.hypot(quantile * variance**0.5, quantile**2 * slope / 2)
    low, high = min(estimate, estimate + shift - margin), max(estimate, estimate + shift + margin)
    if estimator == "unbiased" and d_given is None and variance > 0:
        low, high = _near_independence(estimate, variance, low, high, n, float(ndtri((1 + confidence) / 2)))
    lowest = -1.0 if estimator == "unbiased" else 0.0
    return ConfidenceInterval(statistic, max(lowest, low), min(1.0, high), confidence)


def _near_independence(
    estimate: float, variance: float, low: float, high: float, n: int, quantile: float
) -> tuple[float, float]:
    """The ends, such that 0 is between them if and only if independence is not contradicted."""
    independent = 2 / (n * (n - 3))
    if estimate <= quantile * independent**0.5:
        return min(low, 0.0), max(high, 0.0)
    if low > 0:
        return low, high
    # The low root of (estimate - x)^2 = quantile^2 (independent + growth x).
    growth = max(variance - independent, 0) / estimate
    middle = estimate + quantile**2 * growth / 2
    root = (middle**2 - estimate**2 + quantile**2 * independent) ** 0.5
    return (middle - root) / 2, high


def leave_out(
    d_x: Tensor, d_y: Tensor, d_given: Tensor | None = None, *, estimator: Estimator = "unbiased"
) -> LeftOut:
    r"""A correlation with its variance, and how that depends on the correlation, from leaving out samples.

    With :math:`R_{(i)}` and :math:`R_{(ij)}` the correlations without one sample and without two, the
    jackknife's variance counts interactions of two samples twice. Efron and Stein's correction takes one of
    them away: :math:`\sum_{i<j} (Q_{ij} - \bar Q)^2 / (n (n - 1))` with
    :math:`Q_{ij} = n R - (n - 1) (R_{(i)} + R_{(j)}) + (n - 2) R_{(ij)}`. What is counted twice is at most
    half of all, so no more than that is taken away, and the variance is never negative.

    The :math:`R_{(ij)}` give the jackknife's variance without each sample, too. The slope is that of their
    regression on the :math:`R_{(i)}`, reduced by the factor of the correction.
    """
    statistic = statistic_from_distances(d_x, d_y, d_given, estimator)
    n = len(d_x)
    center = u_center if estimator == "unbiased" else double_center
    matrices = [center(d) for d in (d_x, d_y, d_given) if d is not None]
    without_one = leave_one_out(matrices, estimator)
    deviations = without_one - without_one.mean()
    plain = (n - 1) / n * deviations.square().sum().item()
    if plain == 0:
        return LeftOut(statistic, 0.0, 0.0)
    variances, total, squares = [], 0.0, 0.0
    for rows in torch.arange(n, device=d_x.device).split(max(1, _PAIRS // n)):
        without_two = leave_two_out(matrices, rows, estimator)
        others = torch.arange(n, device=d_x.device) != rows[:, None]
        spread = without_two - (without_two * others).sum(dim=1, keepdim=True) / (n - 1)
        variances.append((n - 2) / (n - 1) * (spread * others).square().sum(dim=1))
        interactions = n * statistic - (n - 1) * (without_one[rows, None] + without_one)
        interactions = torch.where(others, interactions + (n - 2) * without_two, 0.0)
        total += interactions.sum().item()
        squares += interactions.square().sum().item()
    pairs = n * (n - 1)  # each twice
    counted_twice = (squares - total**2 / pairs) / 2 / pairs
    variance = max(plain - counted_twice, plain / 2)
    scatter = torch.cat(variances)
    slope = (((scatter - scatter.mean()) * deviations).sum() / deviations.square().sum()).item()
    return LeftOut(statistic, variance, slope * variance / plain)


def leave_one_out(matrices: list[Tensor], estimator: Estimator) -> Tensor:
    """The correlation of centred matrices without each sample in turn, ``(n,)``."""

    def products(a: Tensor, b: Tensor) -> Tensor:
        of_rows, own = (a * b).sum(0), a.diagonal() * b.diagonal()
        within = of_rows.sum() - 2 * of_rows + own
        return _centred_again(within, of_rows - own, own, len(a) - 1, estimator)

    return _correlations(matrices, products, estimator)


def leave_two_out(matrices: list[Tensor], rows: Tensor, estimator: Estimator) -> Tensor:
    """The correlation without the samples of ``rows`` and each other one, ``(len(rows), n)``.

    What stands where a sample would be left out twice means nothing.
    """

    def products(a: Tensor, b: Tensor) -> Tensor:
        of_rows, own_a, own_b = (a * b).sum(0), a.diagonal(), b.diagonal()
        own, a_ij, b_ij = own_a * own_b, a[rows], b[rows]
        within = of_rows.sum() - 2 * (of_rows[rows, None] + of_rows) + own[rows, None] + own + 2 * a_ij * b_ij
        # The sums over all k, less those of the two samples themselves.
        sums = of_rows[rows, None] + of_rows + a_ij @ b + b_ij @ a
        sums = sums - (own_a[rows, None] + a_ij) * (own_b[rows, None] + b_ij)
        sums = sums - (own_a + a_ij) * (own_b + b_ij)
        totals = (own_a[rows, None] + own_a + 2 * a_ij) * (own_b[rows, None] + own_b + 2 * b_ij)
        return _centred_again(within, sums, totals, len(a) - 2, estimator)

    return _correlations(matrices, products, estimator)


def _centred_again(within: Tensor, sums: Tensor, totals: Tensor, count: int, estimator: Estimator) -> Tensor:
    """Sums of products of what is left of two matrices, when centred again.

    ``within`` are those without centring, ``sums`` those of row sums, ``totals`` those of sums of all.
    """
    if estimator == "unbiased":
        return within - 2 / (count - 2) * sums + totals / ((count - 1) * (count - 2))
    return within - 2 / count * sums + totals / count**2


def _correlations(
    matrices: list[Tensor], products: Callable[[Tensor, Tensor], Tensor], estimator: Estimator
) -> Tensor:
    x, y, *given = matrices
    xy, xx, yy = products(x, y), products(x, x), products(y, y)
    for z in given:
        xz, zy, zz = products(x, z), products(z, y), products(z, z)
        share = torch.where(zz > _ROUNDING * z.square().sum(), xz / zz, 0.0)
        xy, xx = xy - share * zy, xx - share * xz
    known = (xx > _ROUNDING * x.square().sum()) & (yy > _ROUNDING * y.square().sum())
    correlations = torch.where(known, xy / torch.where(known, xx * yy, 1.0).sqrt(), 0.0)
    return correlations.clamp(-1.0 if estimator == "unbiased" else 0.0, 1.0)
