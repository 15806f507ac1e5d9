"""Trained models are found and measured."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from captum_kd.benchmark.pairs.training import MODELS, model_path
from captum_kd.benchmark.scores.measure import finished, measure_models
from captum_kd.models.architectures import build_classifier
from tests.datasets.test_planted_cue import made_up_items, made_up_labels


def test_trained_models_are_found_and_measured(tmp_path: Path) -> None:
    folder = tmp_path / "grid" / "seed3"
    folder.mkdir(parents=True)
    for name in MODELS:
        assert finished(tmp_path) == []
        model = build_classifier(MODELS[name].architecture, 10)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, model_path(folder, name))
    assert finished(tmp_path) == [("grid", 3, folder)]
    rows, pairs = measure_models("grid", 3, folder, made_up_items(24), made_up_labels(24), samples=24)
    assert [row.model for row in rows] == list(MODELS)
    assert len(pairs) == len(MODELS) * (len(MODELS) - 1)
    assert {tuple(p.relevance) for p in pairs} == {("layer1", "layer2", "layer3", "layer4")}
    assert sum(pair.is_distillation() for pair in pairs) == 3
    accuracy = {row.model: row.accuracy for row in rows}
    assert all(p.gain == accuracy[p.student] - accuracy[p.base] for p in pairs)
