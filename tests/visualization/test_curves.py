"""Learning curves."""

from __future__ import annotations

import numpy as np
import pytest

from captum_kd.visualization import plot_curves


def test_curves_show_mean_and_spread_over_folds() -> None:
    _, axes = plot_curves(
        {"student": [[0.5, 0.75, 0.9], [0.25, 0.5]], "base": [[0.5, 0.5]]}, ylabel="accuracy"
    )
    mean, base = axes.lines
    assert mean.get_xdata().tolist() == [1, 2]
    assert mean.get_ydata().tolist() == [0.375, 0.625]
    assert base.get_ydata().tolist() == [0.5, 0.5]
    (band,) = axes.collections
    spread = np.std([0.5, 0.25], ddof=1)
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.375 - spread)
    assert heights.max() == pytest.approx(0.625 + spread)
