"""Training of the benchmark's models: who starts where, learns from what, and is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from captum_kd.benchmark.pairs.training import MODELS, Budget, is_trained, load_model, train_models
from tests.datasets.test_planted_cue import made_up_items, made_up_labels

BUDGET = Budget(images=64, epochs=1, batch_size=32)
ITEMS, LABELS = made_up_items(400), made_up_labels(400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    train_models("grid", 3, ITEMS, LABELS, folder, BUDGET, lambda line: None)
    return folder


def test_every_model_is_there_and_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{m}.safetensors" for m in MODELS)
    for name in MODELS:
        assert is_trained(folder, name, "grid", 3, BUDGET)
        assert not load_model(folder, name).training


def test_models_of_one_architecture_differ(folder: Path) -> None:
    small = [name for name, kind in MODELS.items() if kind.architecture == "small_resnet8"]
    weights = [load_file(folder / f"{name}.safetensors")["fc.weight"] for name in small]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert not torch.equal(one, other)


def test_finished_models_are_kept_and_a_missing_one_comes_out_the_same(folder: Path) -> None:
    before = {name: load_file(folder / f"{name}.safetensors") for name in MODELS}
    (folder / "student_attention.safetensors").unlink()
    lines: list[str] = []
    train_models("grid", 3, ITEMS, LABELS, folder, BUDGET, lines.append)
    assert len(lines) == 1
    assert "student_attention" in lines[0]
    for name, weights in before.items():
        after = load_file(folder / f"{name}.safetensors")
        assert all(torch.equal(after[key], value) for key, value in weights.items())


def test_models_that_were_trained_with_other_settings_are_refused(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"teacher\.safetensors was trained with other settings.*\"epochs\": 2"
    ):
        train_models("grid", 3, ITEMS, LABELS, folder, Budget(64, 2, 32))


def test_base_and_students_start_from_the_same_weights() -> None:
    starts = {name: kind.start for name, kind in MODELS.items()}
    students = [name for name in MODELS if name.startswith("student")]
    assert {starts[name] for name in students} == {starts["base_0"]}
    assert len({starts[name] for name in ("teacher", "base_0", "base_1", "base_wide", "base_regnet")}) == 5
