"""Scores laid out in percent."""

from __future__ import annotations

import pytest

from captum_kd.metrics import Score
from captum_kd.report.score_chart import PANELS, score_panels


def score(value: float, low: float, high: float, null_high: float) -> Score:
    return Score(value, low, high, 0.0, null_high, 0.005, 99, "unbiased")


def test_all_relevance_shares_one_axis_and_positions_are_its_shares() -> None:
    names = [name for _, _, quantities in PANELS for name in quantities]
    own = {(name, "layer4"): score(0.2, 0.1, 0.3, 0.05) for name in names}
    other = own | {("RS residual", "layer4"): score(-0.31, -0.42, -0.2, 0.04)}
    panels = score_panels({"one": own, "two": other}, ["layer4"])
    assert [panel.series for panel in panels["one"]] == [quantities for _, _, quantities in PANELS]
    ticks = {panel.ticks for student in panels.values() for panel in student[1:]}
    assert len(ticks) == 1
    (first, low), (last, high) = (next(iter(ticks))[i] for i in (0, -1))
    low, high = (float(text.replace("\N{MINUS SIGN}", "-")) for text in (low, high))
    assert low < 0 < high

    def place(value: float) -> float:
        return first + (last - first) * (value - low) / (high - low)

    (layer, (_, mark)) = panels["two"][2].rows[0]
    assert layer == "layer4"
    assert mark.text == "\N{MINUS SIGN}0.310"
    assert mark.at == pytest.approx(place(-0.31), abs=0.02)
    assert mark.low == pytest.approx(place(-0.42), abs=0.02)
    assert mark.low + mark.width == pytest.approx(place(-0.2), abs=0.02)
    assert mark.null == pytest.approx(place(0.04), abs=0.02)
    assert 0 <= mark.low <= mark.at <= 100


def test_similarity_has_its_own_axis_from_0_to_1() -> None:
    names = [name for _, _, quantities in PANELS for name in quantities]
    own = {(name, "a"): score(0.0004, -0.3, 0.0, -0.0) for name in names}
    panel = score_panels({"one": own}, ["a"])["one"][0]
    assert [tick for tick in panel.ticks if tick[1] in "01"] == [(0.0, "0"), (100.0, "1")]
    assert panel.rows[0][1][0].text == "0.000"
    assert panel.rows[0][1][0].low == 0
