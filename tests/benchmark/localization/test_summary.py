"""Means over layers, pairs and geometries, by hand and by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from captum_kd.benchmark.localization.localize import LocalizationRow
from captum_kd.benchmark.localization.parts import Part
from captum_kd.benchmark.localization.summary import findings, interval, means_by_place, over_pairs
from captum_kd.benchmark.pairs.trained_pairs import PairNames


def row(geometry: str, pair: str, layer: str, separation: float, **other) -> LocalizationRow:
    values = {"seed": 0, "method": "mine", "measure": "auc", **other}
    return LocalizationRow(
        geometry=geometry,
        pair=pair,
        layer=layer,
        separation=separation,
        low=separation - 0.1,
        high=separation + 0.1,
        samples=10,
        parts={"distilled on item": separation + 0.5},
        zero_distilled=0.0,
        zero_residual=0.0,
        **values,
    )


ROWS = [
    row("free", "response", "layer1", 0.1),
    row("free", "response", "layer2", 0.3),
    row("free", "attention", "layer1", 0.2),
    row("free", "attention", "layer2", 0.6),
    row("free", "attention", "layer2", 9.0, measure="energy"),
    row("free", "attention", "layer2", 9.0, method="other"),
    row("grid", "response", "layer1", -0.1),
    row("grid", "response", "layer2", 0.5, seed=1),
]


def test_interval_is_that_of_scipy() -> None:
    values = [0.1, 0.4, 0.3, 0.35]
    low, high = scipy.stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy.stats.sem(values))
    found = interval(values)
    assert found == pytest.approx((np.mean(values), low, high, 4))


def test_one_pair_has_no_interval() -> None:
    assert interval([0.3])[0] == 0.3
    assert all(math.isnan(end) for end in interval([0.3])[1:3])


def test_layers_are_averaged_within_a_pair() -> None:
    found = over_pairs(ROWS, method="mine", geometry="free")
    assert found == pytest.approx(interval([0.2, 0.4]))
    assert over_pairs(ROWS, method="mine", geometry="free", layer="layer2") == pytest.approx(
        interval([0.3, 0.6])
    )


def test_pairs_of_other_seeds_are_others() -> None:
    assert over_pairs(ROWS, method="mine", geometry="grid") == pytest.approx(interval([-0.1, 0.5]))


def test_each_geometry_counts_once() -> None:
    free, grid = (interval(values) for values in ([0.2, 0.4], [-0.1, 0.5]))
    found = over_pairs(ROWS, method="mine")
    assert found is not None
    assert found.mean == pytest.approx((0.3 + 0.2) / 2)
    margins = [e.high - e.mean for e in (free, grid)]
    assert found.high - found.mean == pytest.approx(math.hypot(*margins) / 2)
    assert found.pairs == 4


def test_another_quantity_and_another_measure() -> None:
    found = over_pairs(ROWS, method="mine", geometry="free", quantity=lambda r: r.parts["distilled on item"])
    assert found is not None
    assert found.mean == pytest.approx(0.8)
    energy = over_pairs(ROWS, method="mine", measure="energy")
    assert energy is not None
    assert energy.mean == 9
    assert over_pairs(ROWS, method="none") is None


def test_means_by_place() -> None:
    found = {(geometry, layer): mean for mean, geometry, layer in means_by_place(ROWS, "mine")}
    assert found == pytest.approx(
        {
            ("free", "layer1"): 0.15,
            ("free", "layer2"): 0.45,
            ("grid", "layer1"): -0.1,
            ("grid", "layer2"): 0.5,
        }
    )
    assert means_by_place(ROWS, "none") == []


def test_pairs_whose_truth_does_not_hold_are_left_out_and_counted() -> None:
    pairs = {
        "response": PairNames("student_response", "base_0", "technique"),
        "attention": PairNames("student_attention", "base_0", "technique"),
    }
    part = Part("free", 0, [], pairs, {"response": True, "attention": False}, ROWS[:4], 0.0)
    found = findings([part])
    assert found.rows["technique"] == ROWS[:2]
    assert found.left_out == [("free", 0, "attention")]
