"""The comparison behind a report: scores, precisions, tokens, and too few images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import one_hot

from captum_kd.comparison.result import Comparison
from captum_kd.datasets.demo_pair import load_demo_images, load_demo_models
from captum_kd.datasets.image_files import evaluation_crop
from captum_kd.datasets.planted_cue import normalise
from captum_kd.explain.images import find_images
from captum_kd.explain.report import file_name
from captum_kd.functional import distance_correlation
from captum_kd.models.activations import layer_activations
from tests.own_files import arguments, explain, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def explained(folder: Path) -> tuple[Path, str]:
    out = folder / "report"
    teacher = {"teacher": folder / "teacher.pt", "teacher_architecture": "small_resnet24"}
    result = explain(*arguments(folder, out, **teacher))
    assert result.exit_code == 0, result.output
    return out, result.output


def test_scores_and_accuracy_are_those_of_the_images_normalised_as_in_training(
    folder: Path, explained: tuple[Path, str]
) -> None:
    comparison = Comparison.load(explained[0] / "comparison.safetensors")
    models, planted = load_demo_models(), load_demo_images()
    # The same drawing as the command's, whose first 40 images are the reference.
    drawn = find_images(str(folder / "photos"), evaluation_crop(56, 56), limit=120).names[40:]
    indices = [int(Path(name).stem) for name in drawn]
    assert comparison.settings.image_names == tuple(drawn[:2])
    torch.testing.assert_close(comparison.images, planted.images[indices[:2]] / 255)
    inputs, labels = normalise(planted.images[indices]), planted.labels[indices]
    with torch.no_grad():
        for name in ("student", "base", "teacher"):
            hits = (getattr(models, name)(inputs).argmax(1) == labels).double().mean()
            assert comparison.accuracy[name] == pytest.approx(float(hits))
    features = (
        layer_activations(models.student, [models.student.layer3], inputs).activations[0].mean(dim=(2, 3))
    )
    expected = distance_correlation(features, one_hot(labels).float())
    assert comparison.score("RS student", "layer3").value == pytest.approx(float(expected), abs=1e-5)


def test_other_precisions(folder: Path, explained: tuple[Path, str], tmp_path: Path) -> None:
    for precision, tolerance in (("bfloat16", 0.05), ("float64", 1e-4)):
        out = tmp_path / precision
        result = explain(*arguments(folder, out, precision=precision, kept_share=0.2))
        assert result.exit_code == 0, result.output
        found = Comparison.load(out / "comparison.safetensors")
        whole = Comparison.load(explained[0] / "comparison.safetensors")
        for quantity in ("FSS", "RS student", "RS residual"):
            value = whole.score(quantity, "layer3").value
            assert found.score(quantity, "layer3").value == pytest.approx(value, abs=tolerance)
        assert found.score("RS kept by random maps, base", "layer3").samples == 80


def test_too_few_images(folder: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("Bag", "Coat")):
        (tmp_path / "few" / name).mkdir(parents=True)
        for j in range(2 + i):
            Image.new("RGB", (60, 60)).save(tmp_path / "few" / name / f"{j}.png")
    result = explain(*arguments(folder, tmp_path / "out", images=tmp_path / "few"))
    assert "few has 5 images that can be used, but at least 11 are needed" in result.output


def tiny_transformer(num_classes: int = 10) -> nn.Module:
    return VisionTransformer(
        img_size=56, patch_size=14, embed_dim=12, depth=2, num_heads=2, num_classes=num_classes
    )


def test_tokens_of_a_transformer_are_laid_out(folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("student", "base")):
        torch.manual_seed(seed)
        torch.save(tiny_transformer().state_dict(), tmp_path / f"{name}.pt")
    options = {"student": tmp_path / "student.pt", "base": tmp_path / "base.pt", "limit": 40}
    architecture = {"architecture": "tests.explain.test_report:tiny_transformer", "layer": None}
    result = explain(*arguments(folder, tmp_path / "report", **options, **architecture))
    assert result.exit_code == 0, result.output
    comparison = Comparison.load(tmp_path / "report" / "comparison.safetensors")
    assert comparison.settings.reshape_transform == "tokens_to_image"
    assert "The layers give tokens" in (tmp_path / "report" / "report.html").read_text()
    assert list(comparison.maps["student"]) == ["blocks.0", "blocks.1"]
    for maps in comparison.maps["student"]["blocks.0"].values():
        for map_ in maps:
            assert map_.shape == (2, 1, 4, 4)
            assert map_.abs().max() > 0


def test_models_without_tokens_are_not_reshaped(explained: tuple[Path, str]) -> None:
    settings = json.loads((explained[0] / "scores.json").read_text())["settings"]
    assert settings["reshape_transform"] is None


def test_names_of_figures_are_distinct() -> None:
    taken: set[str] = set()
    students = (
        "a b",
        "a?b",
        "a/b",
        "A b",
        "a_b-2",
        "x" * 400,
        "x" * 401,
        "\N{KELVIN SIGN}",
        "K",
        "k",
        "é" * 300,
    )
    names = [file_name(["maps", student, layer], taken) for student in students for layer in ("layer1", "1")]
    names += [file_name(words, taken) for words in (["maps-a", "b"], ["maps", "a-b"])]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(name.encode()) <= 200 and "/" not in name for name in names)
    assert names[0] == "maps-a_b-layer1"
