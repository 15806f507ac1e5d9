"""Scores at small n, circularity and the relation to what models do, on small and made-up settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors.torch import save_file
from scipy.stats import spearmanr

from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
from captum_kd.benchmark.pairs.training import MODELS, model_path
from captum_kd.benchmark.scores.relation import ModelRow, PairRow, coefficients, finished, relate
from captum_kd.benchmark.scores.small_samples import circularity, score_sizes
from captum_kd.cli.main import main
from captum_kd.models.architectures import build_classifier
from tests.datasets.test_planted_cue import made_up_items, made_up_labels


def test_the_biased_estimator_is_high_at_small_n_whatever_the_data() -> None:
    rows = score_sizes(checked_demo_pair(64, 64), sizes=[8, 64], subsets=6)
    null = {(r.estimator, r.samples): r.null for r in rows if (r.quantity, r.features) == ("FSS", "pooled")}
    assert null["biased", 8] > 0.5 > null["biased", 64]
    assert abs(null["unbiased", 64]) < 0.1
    wide = [r for r in rows if r.quantity == "RS distilled" and r.features == "pooled"]
    assert wide[0].half_width > wide[1].half_width


def test_maps_that_know_labels_score_on_false_ones() -> None:
    found = {row.maps: row.score for row in circularity(checked_demo_pair(32, 128), batches=4)}
    assert found["labels, the batch itself"] > found["recommended, no class evidence"] + 0.05
    assert found["labels, disjoint reference"] > found["random maps"] + 0.05
    with pytest.raises(ValueError, match="a reference of at least 32 others"):
        circularity(checked_demo_pair(16, 32), batches=2)


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


def test_trained_models_are_found_and_measured(tmp_path: Path) -> None:
    folder = tmp_path / "grid" / "seed3"
    folder.mkdir(parents=True)
    for name in MODELS:
        assert finished(tmp_path) == []
        model = build_classifier(MODELS[name].architecture, 10)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, model_path(folder, name))
    assert finished(tmp_path) == [("grid", 3, folder)]
    rows, pairs = relate("grid", 3, folder, made_up_items(24), made_up_labels(24), samples=24)
    assert [row.model for row in rows] == list(MODELS)
    assert len(pairs) == len(MODELS) * (len(MODELS) - 1)
    assert {tuple(p.relevance) for p in pairs} == {("layer1", "layer2", "layer3", "layer4")}
    assert sum(pair.is_distillation() for pair in pairs) == 3
    accuracy = {row.model: row.accuracy for row in rows}
    assert all(p.gain == accuracy[p.student] - accuracy[p.base] for p in pairs)


def test_the_command_writes_numbers_tables_and_figure(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["benchmark", "scores", "--out", str(tmp_path), "--subsets", "2"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert {row["maps"] for row in record["circularity"]} >= {"random maps", "recommended, no class evidence"}
    assert "Scores of random subsets" in (tmp_path / "scores.md").read_text("utf-8")
    assert (tmp_path / "score_sizes.png").stat().st_size > 10_000


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["benchmark", "scores", "--out", str(tmp_path), "--models", str(tmp_path)]
    )
    assert result.exit_code != 0
    assert "no geometry and seed whose models are all trained" in result.output
