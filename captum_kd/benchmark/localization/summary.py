"""Means over layers, and means over pairs with an interval: what the tables and the figure show."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import t as students_t

from captum_kd.benchmark.localization.localize import LocalizationRow
from captum_kd.benchmark.localization.parts import Part
from captum_kd.benchmark.pairs.trained_pairs import PairKind

HEADLINE = "auc"


class Estimate(NamedTuple):
    """A mean over pairs.

    Attributes:
        mean: The mean.
        low: The lower end of the 95 % interval; NaN for a single pair.
        high: The upper end of the interval; NaN for a single pair.
        pairs: The number of pairs.
    """

    mean: float
    low: float
    high: float
    pairs: int


class Findings(NamedTuple):
    """The rows that count, and the pairs that do not.

    Attributes:
        rows: The rows of the pairs whose truth holds, by the kind of pair.
        left_out: Geometry, seed and name of every pair whose truth does not hold.
    """

    rows: dict[PairKind, list[LocalizationRow]]
    left_out: list[tuple[str, int, str]]


def findings(parts: Iterable[Part]) -> Findings:
    """The rows of all parts by the kind of pair, without the pairs whose truth does not hold."""
    rows: dict[PairKind, list[LocalizationRow]] = {"technique": [], "mixed": [], "null": []}
    left_out = []
    for part in parts:
        for name, pair in part.pairs.items():
            if part.holds[name]:
                rows[pair.kind] += [row for row in part.rows if row.pair == name]
            else:
                left_out.append((part.geometry, part.seed, name))
    return Findings(rows, left_out)


def separation_of(row: LocalizationRow) -> float:
    """The separation of a row, as a quantity to average."""
    return row.separation


def over_pairs(
    rows: Sequence[LocalizationRow],
    *,
    method: str,
    measure: str = HEADLINE,
    geometry: str | None = None,
    layer: str | None = None,
    quantity: Callable[[LocalizationRow], float] = separation_of,
) -> Estimate | None:
    """Average a quantity over the layers of each pair, then over pairs.

    Args:
        rows: The rows of pairs of one kind.
        method: The method whose rows count.
        measure: The measure whose rows count.
        geometry: The geometry whose rows count; None: all. Each geometry then counts once, however many pairs
            it has, and the interval is that of a mean of independent means.
        layer: The layer whose rows count; None: the mean over layers.
        quantity: A function of a row that gives what is averaged.

    Returns:
        The mean with a t interval over pairs (techniques x seeds); None if there are no rows. Pairs of one
        seed share their base model and images, so the interval is somewhat too narrow.
    """
    chosen = [
        row
        for row in rows
        if row.method == method
        and row.measure == measure
        and geometry in (None, row.geometry)
        and layer in (None, row.layer)
    ]
    if not chosen:
        return None
    by_pair: dict[tuple[str, int, str], list[float]] = {}
    for row in chosen:
        by_pair.setdefault((row.geometry, row.seed, row.pair), []).append(quantity(row))
    by_geometry: dict[str, list[float]] = {}
    for (name, *_), values in by_pair.items():
        by_geometry.setdefault(name, []).append(mean(values))
    estimates = [interval(values) for values in by_geometry.values()]
    if len(estimates) == 1:
        return estimates[0]
    centre = mean(e.mean for e in estimates)
    margin = math.sqrt(sum((e.high - e.mean) ** 2 for e in estimates)) / len(estimates)
    return Estimate(centre, centre - margin, centre + margin, sum(e.pairs for e in estimates))


def interval(values: Sequence[float]) -> Estimate:
    """The mean of independent values, with its t interval.

    Example:
        >>> interval([0.1, 0.2, 0.3])
        Estimate(mean=0.2, low=-0.048..., high=0.448..., pairs=3)
    """
    centre = mean(values)
    if len(values) < 2:
        return Estimate(centre, math.nan, math.nan, len(values))
    margin = float(students_t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Estimate(centre, centre - margin, centre + margin, len(values))


def means_by_place(rows: Sequence[LocalizationRow], method: str) -> list[tuple[float, str, str]]:
    """The mean separation over pairs at each geometry and layer, with their names."""
    places = dict.fromkeys((row.geometry, row.layer) for row in rows if row.method == method)
    found = []
    for geometry, layer in places:
        estimate = over_pairs(rows, method=method, geometry=geometry, layer=layer)
        if estimate is not None:
            found.append((estimate.mean, geometry, layer))
    return found
