"""Runs of a recipe: what a full disk leaves, and teachers that are there already."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from captum_kd.distill import run_folder
from captum_kd.distill.recipe import Recipe
from captum_kd.distill.stages import run_recipe
from captum_kd.distill.training import TrainingSettings
from tests.pets import write_pets

# What is left out is checked where images are read and in run.json.
pytestmark = pytest.mark.filterwarnings("ignore:left out")

SETTINGS = TrainingSettings(epochs=2, batch_size=8, learning_rate=0.01, accelerator="cpu")


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pets(tmp_path_factory.mktemp("pets"))


def test_a_full_disk_leaves_what_was_finished(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(
        *(str(pets / "PetImages"), "small_resnet4", "small_resnet4"),
        **{"folds": 1, "image_size": 24, "training": SETTINGS, "skip_unreadable": True},
    )
    real, calls = run_folder.save_file, []

    def fills_up(weights: Any, path: Path, metadata: dict[str, str]) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        real(weights, path, metadata)

    monkeypatch.setattr(run_folder, "save_file", fills_up)
    with pytest.raises(OSError, match="No space left"):
        run_recipe(recipe, tmp_path / "run", report=lambda line: None)
    assert load_file(tmp_path / "run" / "fold1" / "teacher" / "model.safetensors")
    assert [p.name for p in (tmp_path / "run" / "fold1" / "base").glob("*model*")] == []
    lines: list[str] = []
    run_recipe(recipe, tmp_path / "run", report=lines.append)
    assert len(lines) == 3
    assert len(list(tmp_path.glob("run/fold1/*/model.safetensors"))) == 3


def test_a_teacher_can_be_loaded(pets: Path, tmp_path: Path) -> None:
    first = Recipe(
        *(str(pets / "PetImages"), "small_resnet6", "small_resnet4"),
        **{"folds": 1, "image_size": 24, "training": SETTINGS, "skip_unreadable": True},
    )
    run_recipe(first, tmp_path / "first", report=lambda line: None)
    teacher = tmp_path / "first" / "fold1" / "teacher" / "model.safetensors"
    recipe = Recipe(
        *(str(pets / "PetImages"), "small_resnet6", "small_resnet4"),
        **{"folds": 1, "image_size": 24, "training": dataclasses.replace(SETTINGS, epochs=1)},
        **{"skip_unreadable": True, "teacher_checkpoint": str(teacher)},
    )
    record = run_recipe(recipe, tmp_path / "run", report=lambda line: None)
    loaded = load_file(tmp_path / "run" / "fold1" / "teacher" / "model.safetensors")
    assert all(torch.equal(value, loaded[key]) for key, value in load_file(teacher).items())
    assert record["stages"][0]["epochs"] == []
    wrong = dataclasses.replace(recipe, teacher="small_resnet4")
    message = "does not fit SmallResNet.*keys differ: .* more. It was written for small_resnet6"
    with pytest.raises(ValueError, match=message):
        run_recipe(wrong, tmp_path / "wrong", report=lambda line: None)
