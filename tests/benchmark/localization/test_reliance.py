"""Separation against what models rely on: by hand, by SciPy, and by exchanging the models of a pair."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from captum_kd.benchmark.localization.localize import LocalizationRow, localize
from captum_kd.benchmark.localization.methods import LOCALIZATION_METHODS
from captum_kd.benchmark.localization.parts import Part
from captum_kd.benchmark.localization.reliance import (
    PairPoint,
    correlate,
    correlate_null,
    pair_points,
    reliance_difference,
    same_sign,
    select,
)
from captum_kd.benchmark.localization.reliance_page import (
    SHOWN,
    reliance_figure,
    reliance_section,
    reliance_table,
)
from captum_kd.benchmark.pairs.trained_pairs import PairNames
from captum_kd.benchmark.pairs.truth import ModelTruth
from captum_kd.metrics.localization import CEILING, PARTS, RANDOM, separation
from tests.benchmark.localization.test_localize import pairs_of


def truth(name: str, without_item: float, without_cue: float) -> ModelTruth:
    return ModelTruth(name, 0.5, 0.5, without_item, without_cue, 100, [])


def points_of(differences, separations, *, groups: int = 1, **other) -> list[PairPoint]:
    values = {"method": "mine", "kind": "technique", "cue_has_location": True, **other}
    return [
        PairPoint(
            "free",
            i % groups,
            f"pair {i}",
            values["kind"],
            values["method"],
            x,
            y,
            values["cue_has_location"],
        )
        for i, (x, y) in enumerate(zip(differences, separations, strict=True))
    ]


RANDOM_VALUES = np.random.default_rng(0)
X, Y = RANDOM_VALUES.normal(size=(2, 15)).round(1)  # with ties


def test_a_reliance_difference_is_a_separation_of_what_predictions_depend_on() -> None:
    student, base = truth("student", 0.9, 0.15), truth("base", 0.4, 0.6)
    scores = torch.tensor([0.9, 0.4, 0.15, 0.6], dtype=torch.float64)
    assert reliance_difference(student, base) == pytest.approx(separation(*scores).item())
    assert reliance_difference(student, base) == pytest.approx(-reliance_difference(base, student))
    assert reliance_difference(student, base, cue_has_location=False) == pytest.approx(0.5)
    assert reliance_difference(truth("all", 1, 0), truth("none", 0, 1)) == 1


def part_of(geometry: str, parts: int) -> Part:
    truths = [truth("student", 0.9, 0.1), truth("base", 0.5, 0.7), truth("other", 0.6, 0.6)]
    pairs = {
        "fails": PairNames("student", "base", "technique"),
        "null": PairNames("base", "other", "null"),
    }
    rows = [
        LocalizationRow(
            geometry=geometry,
            seed=1,
            pair=pair,
            method="mine",
            layer=layer,
            measure=measure,
            separation=value,
            low=0,
            high=0,
            samples=9,
            parts=dict.fromkeys(PARTS[:parts], 0.5),
            zero_distilled=0,
            zero_residual=0,
        )
        for pair, layer, measure, value in (
            ("fails", "layer1", "auc", 0.2),
            ("fails", "layer2", "auc", 0.6),
            ("fails", "layer2", "energy", 9.0),
            ("null", "layer1", "auc", -0.1),
        )
    ]
    return Part(geometry, 1, truths, pairs, {"fails": False, "null": True}, rows, 0.0)


def test_every_pair_has_a_point_also_where_its_truth_fails() -> None:
    found = pair_points([part_of("free", 4), part_of("tint", 2)])
    assert [p[:5] for p in found] == [
        (geometry, 1, pair, kind, "mine")
        for geometry in ("free", "tint")
        for pair, kind in (("fails", "technique"), ("null", "null"))
    ]
    assert [p.separation for p in found] == pytest.approx([0.4, -0.1, 0.4, -0.1])
    # Where only the item's half is scored, only the item's half of the difference is compared.
    assert [p.difference for p in found] == pytest.approx([0.5, -0.1, 0.4, -0.1])
    assert select(found, "mine") == found[:2]
    assert select(found, "mine", ["null"], without_location=True) == [found[1], found[3]]
    assert select(found, "another") == []


def test_correlations_over_all_and_within_groups_are_scipys() -> None:
    points = points_of(X, Y, groups=3)
    pooled, within = correlate(points), correlate(points, within=True)
    assert pooled.value == pytest.approx(spearmanr(X, Y).statistic)
    assert within.value == pytest.approx(np.mean([spearmanr(X[i::3], Y[i::3]).statistic for i in range(3)]))
    assert (pooled.pairs, pooled.groups) == (15, 3)
    for found in (pooled, within):
        assert found.low < found.value < found.high


def test_differences_between_groups_add_nothing_within() -> None:
    shift = np.arange(15) % 3 * 10
    points = points_of(X + shift, Y - shift, groups=3)
    assert correlate(points).value < -0.8
    assert correlate(points, within=True) == correlate(points_of(X, Y, groups=3), within=True)


def test_groups_are_drawn_whole() -> None:
    """Of groups that are all the same, any draw has the correlation of one: the interval has no width."""
    x, y = np.repeat(X[:5], 4), np.repeat(Y[:5], 4)
    found = correlate(points_of(x, y, groups=4))
    assert found.value == pytest.approx(spearmanr(X[:5], Y[:5]).statistic)
    assert (found.low, found.high) == pytest.approx((found.value, found.value))


def test_differences_that_are_all_alike_have_no_correlation_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(correlate(points_of([0.5] * 4, Y[:4])).value)


def test_too_few_pairs_or_groups_say_so() -> None:
    assert math.isnan(correlate(points_of(X[:2], Y[:2])).value)
    assert math.isnan(correlate([]).value)
    assert math.isnan(correlate_null(points_of(X[:2], Y[:2])).value)
    one = correlate(points_of(X, Y))
    assert math.isfinite(one.value)
    assert math.isnan(one.low)
    assert math.isnan(correlate(points_of(X, Y, groups=3), draws=0).high)


def test_chance_of_null_pairs_is_that_of_all_signs() -> None:
    x, y = X[:8], Y[:8] + X[:8]
    found = correlate_null(points_of(x, y, groups=4), draws=4000)

    def both_orders(separations) -> float:
        return spearmanr([*x, *-x], [*separations, *-separations]).statistic

    signs = [np.tile(s, 2) for s in itertools.product((1, -1), repeat=4)]
    as_high = [both_orders(y * s) >= both_orders(y) - 1e-12 for s in signs]
    assert found.value == pytest.approx(both_orders(y))
    assert found.p == pytest.approx(np.mean(as_high), abs=0.02)
    assert found.same_sign == sum(np.sign(x) == np.sign(y))
    assert (found.pairs, found.groups) == (8, 4)


def test_the_order_of_a_null_pairs_models_does_not_matter() -> None:
    x, y = X[:9], Y[:9]
    order = np.where(np.arange(9) % 2, -1, 1)
    given, exchanged = (correlate_null(points_of(x * s, y * s, groups=3)) for s in (1, order))
    assert given == exchanged
    assert same_sign(points_of(x, y)) == same_sign(points_of(-x, -y))
    assert correlate(points_of(x, y)).value != correlate(points_of(x * order, y * order)).value


def test_exchanging_the_models_of_a_pair_changes_the_sign_of_its_separation() -> None:
    """Why it may be taken in both orders. Random maps and perfect masks do not look at the models."""
    made_up = pairs_of("grid")
    pairs = {
        "given": PairNames("student_response", "base_0", "null"),
        "exchanged": PairNames("base_0", "student_response", "null"),
    }
    rows = localize(made_up._replace(pairs=pairs), LOCALIZATION_METHODS)
    values: dict[str, list[float]] = {name: [] for name in pairs}
    for row in rows:
        if row.method not in (RANDOM, CEILING) and row.measure == "auc":
            values[row.pair].append(row.separation)
    given, exchanged = map(np.array, values.values())
    assert abs(given).max() > 0.05
    np.testing.assert_allclose(given, -exchanged, atol=1e-6)


@pytest.fixture(scope="module")
def points() -> list[PairPoint]:
    return [
        point
        for method in (*SHOWN, CEILING)
        for kind, some in (("technique", slice(0, 9)), ("mixed", slice(9, 12)), ("null", slice(12, 15)))
        for point in points_of(X[some], Y[some], groups=3, method=method, kind=kind)
    ]


def test_the_table_says_of_how_many_pairs(points: list[PairPoint]) -> None:
    tint = points_of([0.1], [0.1], method=RANDOM, cue_has_location=False)
    table = reliance_table([*points, *tint])
    assert [name for name, _ in table.rows] == list(SHOWN)
    assert [head for head in table.heads if head[0].isdigit() or head.startswith("all 1")] == [
        "all 15 pairs",
        "12 distilled pairs",
        "3 null pairs",
        "16 pairs, with item's halves",
    ]
    cells = table.rows[1][1]
    assert len(cells) == len(table.heads) - 1
    assert cells[0].value == f"{spearmanr(X, Y).statistic:.2f}"
    assert cells[2].value == f"{spearmanr(X[:12], Y[:12]).statistic:.2f}"
    assert cells[5].value == f"{same_sign(select(points, SHOWN[0], ['null']))} of 3"


def test_the_section_ends_with_its_picture_for_the_page_that_includes_it(points: list[PairPoint]) -> None:
    lines = reliance_section(points, "reliance.png")
    assert lines[0].startswith("## ")
    assert lines[-1].endswith("(reliance.png)")


def test_the_figure_has_a_marker_for_each_pair(points: list[PairPoint]) -> None:
    figure = reliance_figure(points)
    assert len(figure.axes) == len(SHOWN) == 6
    assert len(reliance_figure([p for p in points if p.method != SHOWN[2]]).axes) == 5
    for axes in figure.axes:
        assert [len(c.get_offsets()) for c in axes.collections] == [9, 3, 3]
    assert np.asarray(figure.axes[0].collections[0].get_offsets()) == pytest.approx(np.array([X, Y]).T[:9])
