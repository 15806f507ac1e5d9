"""Do maps separate two models as far as the models differ in what they rely on? Over pairs of every kind."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from captum_kd.benchmark.localization.parts import Part
from captum_kd.benchmark.localization.summary import HEADLINE
from captum_kd.benchmark.pairs.trained_pairs import PairKind
from captum_kd.benchmark.pairs.truth import ModelTruth
from captum_kd.metrics.localization import PARTS

FEWEST = 3  # two points are always in the same or in opposite order
DRAWS = 499


class PairPoint(NamedTuple):
    """What the models of a pair rely on, and how far one method's maps separate them.

    Attributes:
        geometry: The name of the images' geometry.
        seed: The seed of the training.
        pair: The name of the pair.
        kind: The kind of pair.
        method: The name of the method.
        difference: The :func:`reliance_difference` of student and base model.
        separation: The mean separation over layers.
        cue_has_location: Whether the cue has a location; if not, difference and separation are those of the
            item's half.
    """

    geometry: str
    seed: int
    pair: str
    kind: PairKind
    method: str
    difference: float
    separation: float
    cue_has_location: bool


class RankCorrelation(NamedTuple):
    """Spearman's correlation over pairs.

    Attributes:
        value: The correlation; NaN for fewer than three pairs.
        low: The lower end of the percentile interval over groups; NaN for fewer than two groups.
        high: The upper end.
        pairs: The number of pairs.
        groups: The number of groups; the pairs of one geometry and seed share models and images.
    """

    value: float
    low: float
    high: float
    pairs: int
    groups: int


class NullCorrelation(NamedTuple):
    """Spearman's correlation over null pairs, each in both orders of its models.

    Attributes:
        value: The correlation; NaN for fewer than three pairs.
        p: How often a correlation is as high by chance.
        same_sign: The number of pairs whose separation and reliance difference have the same sign.
        pairs: The number of pairs.
        groups: The number of groups, each a geometry and seed.
    """

    value: float
    p: float
    same_sign: int
    pairs: int
    groups: int


def reliance_difference(student: ModelTruth, base: ModelTruth, cue_has_location: bool = True) -> float:
    """How much more a student relies on the item than its base model does, and how much less on the cue.

    This is :func:`captum_kd.metrics.localization.separation`, with the share of predictions that change when
    the item (the cue) is left out instead of the scores of maps: both halves are averaged, and if only the
    item's half of a separation can be scored, it is the item's half alone.

    Args:
        student: What the student follows.
        base: What its base model follows.
        cue_has_location: Whether both halves count.

    Returns:
        A value from -1 to 1; exchanging the models changes its sign.

    Example:
        >>> student = ModelTruth("student", 0.7, 0.1, 0.9, 0.1, 1024, [])
        >>> base = ModelTruth("base", 0.4, 0.5, 0.5, 0.6, 1024, [])
        >>> round(reliance_difference(student, base), 3)
        0.45
    """
    item = student.changed_without_item - base.changed_without_item
    if not cue_has_location:
        return item
    return (item + base.changed_without_cue - student.changed_without_cue) / 2


def pair_points(parts: Iterable[Part]) -> list[PairPoint]:
    """A point for every pair and method, whether or not the truth of the pair holds."""
    points = []
    for part in parts:
        truths = {truth.model: truth for truth in part.truths}
        values: dict[tuple[str, str, bool], list[float]] = {}
        for row in part.rows:
            if row.measure == HEADLINE:
                key = (row.pair, row.method, len(row.parts) == len(PARTS))
                values.setdefault(key, []).append(row.separation)
        for (name, method, located), separations in values.items():
            pair = part.pairs[name]
            difference = reliance_difference(truths[pair.student], truths[pair.base], located)
            points.append(
                PairPoint(
                    part.geometry, part.seed, name, pair.kind, method, difference, mean(separations), located
                )
            )
    return points


def select(
    points: Iterable[PairPoint],
    method: str,
    kinds: Collection[PairKind] = ("technique", "mixed", "null"),
    without_location: bool = False,
) -> list[PairPoint]:
    """The points of one method and some kinds of pairs.

    Args:
        points: The points of all pairs and methods.
        method: The method whose points are selected.
        kinds: The kinds of pairs.
        without_location: Whether points whose cue has no location are selected as well.
    """
    return [
        p
        for p in points
        if p.method == method and p.kind in kinds and (without_location or p.cue_has_location)
    ]


def correlate(points: Sequence[PairPoint], *, within: bool = False, draws: int = DRAWS) -> RankCorrelation:
    """Rank correlation of separation with reliance difference.

    Args:
        points: The points of one method.
        within: True: the mean of the correlations within each geometry and seed, to which differences between
            geometries add nothing. False: one correlation over all points.
        draws: The number of bootstrap samples of geometries and seeds, each drawn with all of its pairs;
            0: no interval.

    Returns:
        The correlation with its interval, which is too narrow if there are few groups.

    Example:
        >>> points = [PairPoint("free", s, "mine", "null", "mine", s / 9, -s, True) for s in range(5)]
        >>> found = correlate(points)
        >>> round(found.value, 3), found.pairs, found.groups
        (-1.0, 5, 5)
    """
    groups = _groups(points)
    own = torch.tensor([_correlation(group) for group in groups], dtype=torch.float64)

    def statistic(chosen: Tensor) -> float:
        if within:
            return own[chosen].nanmean().item()
        return _correlation(torch.cat([groups[i] for i in chosen.tolist()], dim=1))

    count = len(groups)
    if not count:
        return RankCorrelation(math.nan, math.nan, math.nan, 0, 0)
    low = high = math.nan
    if count > 1 and draws:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(count, (draws, count), generator=generator)
        # If a draw repeats a single pair, its correlation is NaN.
        statistics = torch.tensor([statistic(chosen) for chosen in drawn], dtype=torch.float64)
        low, high = statistics.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return RankCorrelation(statistic(torch.arange(count)), low, high, len(points), count)


def correlate_null(points: Sequence[PairPoint], draws: int = DRAWS) -> NullCorrelation:
    """Rank correlation of separation with reliance difference over null pairs.

    Which of two base models comes first is arbitrary. So each pair is taken in both orders, and the
    correlation is compared with those of separations whose signs are drawn at random: one sign for all pairs
    of a geometry and seed, since they share models. (A bootstrap would not do: if all signs agree, no draw of
    pairs makes them disagree.)

    Args:
        points: The points of null pairs and one method.
        draws: The number of draws of signs.

    Returns:
        The correlation, and how often it is as high by chance.

    Example:
        >>> points = [PairPoint("free", s, "null", "null", "mine", s / 9, s / 7, True) for s in range(1, 8)]
        >>> found = correlate_null(points)
        >>> round(found.value, 3), found.p < 0.05, found.same_sign
        (1.0, True, 7)
    """
    groups = _groups(points)
    if len(points) < FEWEST:
        return NullCorrelation(math.nan, math.nan, same_sign(points), len(points), len(groups))
    value = _in_both_orders(groups)
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(2, (draws, len(groups)), generator=generator) - 1
    flipped = (
        _in_both_orders([torch.stack([g[0], s * g[1]]) for g, s in zip(groups, row, strict=True)])
        for row in signs.tolist()
    )
    as_high = sum(other >= value - 1e-12 for other in flipped)
    return NullCorrelation(value, (1 + as_high) / (1 + draws), same_sign(points), len(points), len(groups))


def same_sign(points: Iterable[PairPoint]) -> int:
    """The number of pairs whose separation and reliance difference agree in sign, in whichever order."""
    return sum(p.difference * p.separation > 0 for p in points)


def _groups(points: Iterable[PairPoint]) -> list[Tensor]:
    """Differences and separations ``(2, pairs)`` of each geometry and seed."""
    members: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for p in points:
        members.setdefault((p.geometry, p.seed), []).append((p.difference, p.separation))
    return [torch.tensor(values, dtype=torch.float64).T for values in members.values()]


def _correlation(values: Tensor) -> float:
    if values.shape[1] < FEWEST:
        return math.nan
    # As scipy.stats.spearmanr, which takes three times as long for its p-value.
    with np.errstate(invalid="ignore"):  # the correlation with values that are all equal is NaN
        return float(np.corrcoef(rankdata(values.numpy(), axis=1))[0, 1])


def _in_both_orders(groups: Sequence[Tensor]) -> float:
    values = torch.cat(list(groups), dim=1)
    return _correlation(torch.cat([values, -values], dim=1))
