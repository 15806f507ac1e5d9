"""Rank correlations of scores with what models do, for made-up models."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

from captum_kd.benchmark.scores.measure import ModelRow, PairRow
from captum_kd.benchmark.scores.relation import coefficients
from captum_kd.cli.main import main


def rows_of(accuracies: list[float], relevances: list[float]) -> list[ModelRow]:
    return [
        ModelRow("free", 0, str(i), a, 1 - a, a, {"layer4": r}, {"layer4": -r}, {"layer4": -r})
        for i, (a, r) in enumerate(zip(accuracies, relevances, strict=True))
    ]


def test_coefficients_are_scipys() -> None:
    accuracies, relevances = [0.1, 0.4, 0.2, 0.9, 0.5], [0.3, 0.2, 0.1, 0.7, 0.6]
    rows = rows_of(accuracies, relevances)
    pairs = [
        PairRow("free", 0, a.model, b.model, a.accuracy - b.accuracy, {"layer4": 0.1}, {"layer4": 0.1})
        for a in rows
        for b in rows
        if a is not b
    ]
    pairs += [
        PairRow("free", 0, "student_response", "base_0", 0.1 * i, {"layer4": i}, {"layer4": -i})
        for i in (1, 2)
    ]
    found = {c.question: c for c in coefficients(rows, pairs, draws=20)}
    expected = spearmanr(accuracies, relevances).statistic
    assert found["RS, accuracy"].within == pytest.approx(expected)
    assert found["RS, accuracy"].pooled == pytest.approx(expected)
    assert found["RS on biased images, accuracy"].within == pytest.approx(-expected)
    assert found["RS, accuracy"].low <= expected <= found["RS, accuracy"].high
    assert found["RS distilled, gain (students)"].within == pytest.approx(1)
    assert (found["RS, accuracy"].points, found["RS, accuracy"].groups) == (5, 1)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["benchmark", "scores", "--out", str(tmp_path), "--models", str(tmp_path)]
    )
    assert result.exit_code != 0
    assert "no geometry and seed whose models are all trained" in result.output
