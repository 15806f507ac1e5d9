"""Explaining a run: the same numbers as the functions give, and the errors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from captum_kd.cli.main import main
from captum_kd.datasets.load import load_data
from captum_kd.distill.recipe import Recipe
from captum_kd.distill.stages import load_stage, run_recipe
from captum_kd.distill.training import TrainingSettings
from captum_kd.metrics import feature_similarity_score

LAYERS = 4


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for channel, name in enumerate(("red <b>", "green", "blue")):
        (root / name).mkdir()
        for i in range(60):
            pixels = torch.randint(0, 120, (32, 32, 3), generator=generator, dtype=torch.uint8)
            pixels[..., channel] += 60
            Image.fromarray(pixels.numpy()).save(root / name / f"{i}.png")
    settings = TrainingSettings(epochs=1, batch_size=16, learning_rate=0.02, accelerator="cpu")
    recipe = Recipe(
        *(str(root), "small_resnet6", "small_resnet4"),
        folds=1,
        image_size=32,
        training=settings,
        augment=False,
    )
    out = root.parent / "run"
    run_recipe(recipe, out, report=lambda line: None)
    return out


@pytest.fixture(scope="module")
def explained(finished: Path) -> str:
    result = run("explain", str(finished), "--limit", "18", "--reference", "16")
    assert result.exit_code == 0, result.output
    return result.output


def scores_of(finished: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads((finished / "explain" / "fold1" / "scores.json").read_text())[
        "rows"
    ]
    return rows


def test_the_report_is_written_beside_the_run(finished: Path, explained: str) -> None:
    page = finished / "explain" / "fold1" / "report.html"
    assert page.resolve().as_uri() in explained
    text = page.read_text("utf-8")
    assert "student-response" in text
    # Five of the pair, three with the teacher, three of the progression.
    assert len(scores_of(finished)) == 11 * LAYERS
    for row in scores_of(finished):
        assert f"{round(row['value'], 3) + 0.0:.3f}" in explained
        assert row["samples"] == 18
    settings = json.loads((finished / "explain" / "fold1" / "scores.json").read_text())["settings"]
    assert settings["command"] == f"captum-kd explain {finished} --limit 18 --reference 16"
    assert settings["class_names"] == ["blue", "green", "red <b>"]
    assert settings["teacher"]
    accuracy = json.loads((finished / "run.json").read_text())["stages"][0]["test"]["accuracy"]
    assert f"{accuracy:.4f}" in settings["notes"][1]


def test_scores_are_those_of_the_pair_on_test_images(finished: Path, explained: str) -> None:
    data = load_data(json.loads((finished / "run.json").read_text())["arguments"]["data"], image_size=32)
    student, base = (load_stage(finished, 1, n, "small_resnet4", 3) for n in ("student-response", "base"))
    order = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(0))
    images = torch.stack([data.test[i][0] for i in order.tolist()])[16:34]
    # Pooled features are those behind the last pooling.
    expected = feature_similarity_score(student, images, student.avgpool, base)
    found = next(s for s in scores_of(finished) if (s["quantity"], s["layer"]) == ("FSS", "layer4"))
    assert found["value"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--student", "student-magic"], "no student 'student-magic'; it has student-response"),
        (["--base", "base.pt", "--mean", "0,0,0"], "leave out --base, --mean"),
        (["--fold", "2"], r"Fold 2 of this run has no finished student.*folds with models: \[1\]"),
    ],
)
def test_bad_arguments(finished: Path, arguments: list[str], message: str) -> None:
    result = run("explain", str(finished), *arguments)
    assert result.exit_code in (1, 2)
    assert re.search(message, result.output)


def test_other_images_than_those_of_the_run_are_refused(finished: Path) -> None:
    folder = Path(json.loads((finished / "run.json").read_text())["arguments"]["data"])
    new = folder / "green" / "new.png"
    Image.new("RGB", (32, 32)).save(new)
    result = run("explain", str(finished))
    new.unlink()
    assert result.exit_code == 1
    assert "is not the one that the run" in result.output
