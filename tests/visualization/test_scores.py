"""Scores with intervals."""

from __future__ import annotations

from captum_kd.metrics import Score
from captum_kd.visualization import plot_intervals, scores_figure


def test_intervals_are_drawn_as_given() -> None:
    _, axes = plot_intervals(
        {"a": [(1.0, 0.5, 1.25), (2.0, 1.0, 3.0)], "b": [(0.0, 0.0, 0.0)] * 2},
        ["layer1", "layer2"],
        ylabel="separation",
        lines={"ceiling": 4.0},
    )
    (bars,) = axes.containers[0].lines[2]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[0.5, 1.25], [1.0, 3.0]]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", "b"]
    assert [t.get_text() for t in axes.texts] == ["ceiling"]


def test_the_dash_of_the_null_is_in_the_legend() -> None:
    score = Score(0.5, 0.4, 0.6, 0.0, 0.125, 0.005, 99, "unbiased")
    _, axes = scores_figure({"RS student": [score, score]}, ["layer3", "layer4"])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["RS student", "95 % of the null"]
    assert axes.lines[-1].get_ydata().tolist() == [0.125, 0.125]
    handles = axes.get_legend().legend_handles
    assert handles[-1].get_marker() == axes.lines[-1].get_marker() == "_"
