"""Runs of a recipe: what a full disk leaves, and teachers that are there already."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from captum_kd.distill import run_folder
from captum_kd.distill.recipe import Recipe, stages
from captum_kd.distill.resume import RESUME_FILE
from captum_kd.distill.stages import run_recipe
from captum_kd.distill.training import TrainingSettings
from captum_kd.models.architectures import build_classifier
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


def quiet(line: str) -> None:
    """Take the report of a run."""


@pytest.fixture(scope="module")
def small(pets: Path) -> Recipe:
    """The smallest run with a student."""
    return Recipe(
        *(str(pets / "PetImages"), "small_resnet2", "small_resnet2"),
        **{"folds": 1, "image_size": 16, "training": dataclasses.replace(SETTINGS, epochs=1)},
        skip_unreadable=True,
    )


@pytest.fixture(scope="module")
def unbroken(small: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run_recipe(small, folder, report=quiet)
    return folder


def results(folder: Path) -> dict[str, Any]:
    """Everything of a run that another one of the same recipe has in common with it."""
    record = json.loads((folder / "run.json").read_text())
    return {
        "stages": record["stages"],
        "data": record["data"],
        "splits": {k: v.tolist() for k, v in load_file(folder / "splits.safetensors").items()},
        "weights": {
            p.parent.name: {k: v.tolist() for k, v in load_file(p).items()}
            for p in sorted(folder.glob("fold1/*/model.safetensors"))
        },
    }


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_bit(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-5] ^= 1
    path.write_bytes(contents)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = {
    "run.json": half,
    "splits.safetensors": another_bit,
    "curves.png": a_folder,
    "fold1/base/model.safetensors": another_bit,
    "fold1/student-response/stage.json": half,
    "fold1/teacher/model.safetensors": a_folder,
}


def test_a_damaged_run_ends_as_an_unbroken_one(small: Recipe, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for name, damage in DAMAGE.items():
        damage(folder / name)
    strays = [folder / f".{name}.abcd_123" for name in ("run.json", "splits.safetensors", "fold1/base/x")]
    strays[2] = folder / "fold1" / "base" / ".model.safetensors.abcd_123"
    for stray in strays:
        stray.touch()
    (folder / "fold1" / "student-response" / RESUME_FILE).touch()
    mine = folder / "fold1" / "base" / ".notes.abcd_123"
    mine.touch()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run_recipe(small, folder, report=quiet)
    assert results(folder) == results(unbroken)
    text = "\n".join(str(w.message) for w in said)
    for name in DAMAGE:
        assert f"{folder / name} " in text
        assert (folder / f"{name}.damaged").exists()
    assert "student-response of fold 1 is trained again" in text
    assert f"{RESUME_FILE} cannot be resumed from" in text
    assert not any(stray.exists() for stray in strays)
    assert mine.exists()


def test_students_of_another_teacher_come_again(small: Recipe, unbroken: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    own = folder / "fold1" / "teacher"
    record = json.loads((own / "stage.json").read_text())
    weights = load_file(own / "model.safetensors")
    model = build_classifier("small_resnet2", 2)
    model.load_state_dict({k: v * 1.01 if v.is_floating_point() else v for k, v in weights.items()})
    stage = next(stages(small))
    run = record.pop("checks")["run"]
    run_folder.finish_stage(folder, stage, model, 2, record["epochs"], record["test"], run=run)
    with pytest.warns(UserWarning, match="student-response of fold 1 had another teacher.* is trained again"):
        run_recipe(small, folder, report=quiet)
    before, after = results(unbroken)["weights"], results(folder)["weights"]
    assert before["base"] == after["base"]
    assert before["student-response"] != after["student-response"]


def test_a_start_that_was_killed_is_no_other_folder(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / ".run.json.abcd_123").write_text("{")
    run_folder.check_same_run(tmp_path, small)
    (tmp_path / ".run.json.mine").write_text("{")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        run_folder.check_same_run(tmp_path, small)


def test_a_damaged_record_of_something_else_is_left_alone(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"experiment": 1}')
    with pytest.raises(ValueError, match=r"run.json is damaged: .*shows that it is a run\. "):
        run_recipe(small, tmp_path, report=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_with_nothing_trained_takes_other_arguments(
    small: Recipe, unbroken: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(small, seed=5)
    for name in ("run.json", "splits.safetensors"):
        shutil.copy(unbroken / name, tmp_path)
    run_folder.check_same_run(tmp_path, other)
    (tmp_path / "fold1" / "teacher").mkdir(parents=True)
    shutil.copy(unbroken / "fold1" / "teacher" / "stage.json", tmp_path / "fold1" / "teacher")
    with pytest.raises(ValueError, match="seed was 0 and is now 5"):
        run_folder.check_same_run(tmp_path, other)


@pytest.mark.parametrize("there", ["a file", "a file above"])
def test_folders_that_cannot_be_written(small: Recipe, tmp_path: Path, there: str) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" if there == "a file" else tmp_path / "file" / "run"
    with pytest.raises(ValueError, match=r"--out: .* cannot be written, since .*file is no folder"):
        run_recipe(small, out, report=quiet)


def test_folders_that_may_not_be_written(
    small: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ValueError, match=r"--out: .* cannot be written, since .* may not be"):
        run_recipe(small, tmp_path / "new" / "run", report=quiet)


class TooMany(nn.Module):
    """A factory's network that has ten outputs whatever is asked for."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.model = build_classifier("small_resnet2", 10)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.model(images)
        return output


class Several(TooMany):
    """A network that gives a tuple while it trains."""

    def forward(self, images: Tensor) -> Any:
        return (self.model(images),) * 2 if self.training else self.model(images)


class Frozen(TooMany):
    """A network that nothing can be learnt in."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.model = build_classifier("small_resnet2", num_classes).requires_grad_(False)


HERE = __name__
ATTENTION = {"techniques": ("attention",)}
OVERHAUL = {"techniques": ("overhaul",), "teacher": "small_resnet4"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layers": ("layer9",)}, "layer9"),
        ({"teacher_layers": ("layer8",)}, "layer8"),
        (ATTENTION | {"layers": ("layer3",)}, "same number of layers"),
        (
            ATTENTION | {"layers": ("fc",), "teacher_layers": ("fc",)},
            "layers cannot be matched for attention",
        ),
        (
            OVERHAUL | {"layers": ("layer2",), "teacher_layers": ("layer3",)},
            r"student layer2 \(4, 4, 4\) with",
        ),
        (OVERHAUL | {"assistants": ("alexnet",), "image_size": 64}, "stages of AlexNet are not known"),
        ({"assistants": ("resnt18",)}, "Near matches: .*resnet18"),
        ({"assistants": ("alexnet",)}, "alexnet cannot take images of 16 x 16 pixels: .*--image-size"),
        (
            {"student": f"{HERE}:TooMany"},
            r"TooMany gives outputs of shape \(4, 10\) for 4 images of 2 classes",
        ),
        ({"assistants": (f"{HERE}:Several",)}, "Several gives tuple in training mode"),
        ({"assistants": (f"{HERE}:Frozen",)}, "Frozen has no parameters to train"),
        ({"pretrained": True}, "small_resnet2 has no pre-trained weights"),
        ({"temperature": 1e-300}, "temperature must be from 1e-06 to 10000"),
        (
            {"techniques": ("attention",), "weights": {"attention": 1e300}},
            "The loss of student-attention is inf before it has learnt anything",
        ),
        ({"folds": 40}, "class 'Cat' has 24 images, but at least 40 are needed"),
        ({"limit": 3, "folds": 2}, "has 1 image, but at least 2 are needed"),
        (
            {"training": dataclasses.replace(SETTINGS, precision="31")},
            "train with --precision 31",
        ),
        ({"training": dataclasses.replace(SETTINGS, devices=50)}, "too few images for 50 devices"),
    ],
)
def test_what_cannot_be_trained_is_found_before_anything_is_written(
    small: Recipe, tmp_path: Path, option: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        run_recipe(dataclasses.replace(small, **option), tmp_path / "run", report=quiet)
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_nan_is_not_taken(small: Recipe, unbroken: Path, tmp_path: Path) -> None:
    weights = load_file(unbroken / "fold1" / "teacher" / "model.safetensors")
    for change, message in (
        (torch.nan, r"gives weights that are NaN or infinite \(fc.bias\)"),
        (3e38, "gives outputs that are so"),
    ):
        torch.save(weights | {"fc.bias": torch.full((2,), change)}, tmp_path / "t.pt")
        if change == 3e38:
            torch.save({k: v.fill_(3e38) if "fc" in k else v for k, v in weights.items()}, tmp_path / "t.pt")
        recipe = dataclasses.replace(small, teacher_checkpoint=str(tmp_path / "t.pt"))
        with pytest.raises(ValueError, match=message):
            run_recipe(recipe, tmp_path / "run", report=quiet)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_needs_no_checkpoint_of_the_teacher(
    small: Recipe, unbroken: Path, tmp_path: Path
) -> None:
    shutil.copy(unbroken / "fold1" / "teacher" / "model.safetensors", tmp_path)
    recipe = dataclasses.replace(small, teacher_checkpoint=str(tmp_path / "model.safetensors"))
    first = run_recipe(recipe, tmp_path / "run", report=quiet)
    (tmp_path / "model.safetensors").unlink()
    assert run_recipe(recipe, tmp_path / "run", report=quiet) == first


def test_runs_of_other_images(small: Recipe, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "run")
    pets = write_pets(tmp_path / "pets")
    for path in pets.rglob("0.jpg"):
        path.unlink()
    other = dataclasses.replace(small, data=str(pets / "PetImages"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["arguments"]["data"] = other.data
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="The data set PetImages has changed since the run"):
        run_recipe(other, tmp_path / "run", report=quiet)
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"stage.json is of a run with other arguments, data or folds"):
        run_recipe(other, tmp_path / "run", report=quiet)
    assert (tmp_path / "run" / "run.json").read_text() == "{"
