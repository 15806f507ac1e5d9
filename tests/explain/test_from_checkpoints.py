"""A user's own pair by one command: real checkpoints, real files, and what can be wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
from click.testing import CliRunner, Result
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import one_hot
from torchvision.utils import save_image

from captum_kd.cli.main import main
from captum_kd.comparison.result import Comparison
from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES, load_demo_images, load_demo_models
from captum_kd.datasets.image_files import evaluation_crop
from captum_kd.datasets.planted_cue import normalise
from captum_kd.explain.images import find_images
from captum_kd.functional import distance_correlation
from captum_kd.models.activations import layer_activations

COUNT = 120
NORMALISATION = ("--mean", "0.3,0.3,0.3", "--std", "0.2,0.2,0.2")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's models and images as files of a user's."""
    root = tmp_path_factory.mktemp("own")
    models, planted = load_demo_models(), load_demo_images()
    for name in ("student", "base", "teacher"):
        torch.save(getattr(models, name).state_dict(), root / f"{name}.pt")
    for i in range(COUNT):
        name = FASHION_MNIST_CLASSES[int(planted.labels[i])].replace("/", " ")
        (root / "photos" / name).mkdir(parents=True, exist_ok=True)
        save_image(planted.images[i] / 255, root / "photos" / name / f"{i}.png")
    (root / "photos" / "Bag" / "broken <b>.png").write_bytes(b"nothing")
    names = "\n".join(name.replace("/", " ") for name in FASHION_MNIST_CLASSES)
    (root / "names.txt").write_text(names)
    return root


def arguments(folder: Path, out: Path, **changed: object) -> list[object]:
    options: dict[str, object] = {
        "--student": folder / "student.pt",
        "--base": folder / "base.pt",
        "--architecture": "small_resnet16",
        "--images": folder / "photos",
        "--class-names": folder / "names.txt",
        "--image-size": 56,
        "--resize": 56,
        "--limit": 80,
        "--reference": 40,
        "--shown": 2,
        "--layer": "layer3",
        "--out": out,
    }
    options |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    listed = [part for name, value in options.items() if value is not None for part in (name, value)]
    return [*listed, *(() if "mean" in changed else NORMALISATION)]


@pytest.fixture(scope="module")
def explained(folder: Path) -> tuple[Path, str]:
    out = folder / "report"
    teacher = {"teacher": folder / "teacher.pt", "teacher_architecture": "small_resnet24"}
    result = run(*arguments(folder, out, **teacher))
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_folder_of_a_report(explained: tuple[Path, str]) -> None:
    out, output = explained
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {
        *("report.html", "scores.csv", "scores.json", "comparison.safetensors"),
        *("figures/scores-student.png", "figures/maps-student-layer3.png"),
    }
    assert (out / "report.html").resolve().as_uri() in output
    settings = json.loads((out / "scores.json").read_text())["settings"]
    assert settings["command"].startswith("captum-kd explain --student ")
    assert settings["skipped"][0]["file"] == "Bag/broken <b>.png"
    assert (settings["samples"], settings["reference"], settings["data"]) == (80, 40, "photos")
    assert "broken <b>" not in (out / "report.html").read_text("utf-8")


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


def test_an_interrupted_run_goes_on_and_gives_the_same(
    folder: Path, explained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captum_kd.comparison import features

    calls, real = 0, features.layer_features

    def counted(*given: object) -> object:
        nonlocal calls
        calls += 1
        if stop_after is not None and calls > stop_after:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "layer_features", counted)
    stop_after: int | None = 5
    given = arguments(folder, tmp_path, batch_size=16)
    stopped = run(*given)
    assert stopped.exit_code != 0
    assert "the same command goes on" in stopped.output
    assert not (tmp_path / "report.html").exists()

    calls, stop_after = 0, None
    assert run(*given).exit_code == 0
    # Two models and five batches of 16, of which two were done.
    assert calls == 2 * 3
    resumed = json.loads((tmp_path / "scores.json").read_text())["rows"]
    whole = {
        (r["layer"], r["quantity"]): r for r in json.loads((explained[0] / "scores.json").read_text())["rows"]
    }
    for row in resumed:
        assert row["value"] == pytest.approx(whole[row["layer"], row["quantity"]]["value"], abs=1e-5)


def test_other_precisions(folder: Path, explained: tuple[Path, str], tmp_path: Path) -> None:
    for precision, tolerance in (("bfloat16", 0.05), ("float64", 1e-4)):
        out = tmp_path / precision
        result = run(*arguments(folder, out, precision=precision, kept_share=0.2))
        assert result.exit_code == 0, result.output
        found = Comparison.load(out / "comparison.safetensors")
        whole = Comparison.load(explained[0] / "comparison.safetensors")
        for quantity in ("FSS", "RS student", "RS residual"):
            value = whole.score(quantity, "layer3").value
            assert found.score(quantity, "layer3").value == pytest.approx(value, abs=tolerance)
        assert found.score("RS kept by random maps, base", "layer3").samples == 80


def test_a_torchvision_pair_of_several_students(folder: Path, tmp_path: Path) -> None:
    """The README's command: torchvision's networks, folders without a list of names, default layers."""
    for name in ("first", "second", "base"):
        torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / f"{name}.pt")
    result = run(
        *("--student", tmp_path / "first.pt", "--student", f"other={tmp_path / 'second.pt'}"),
        *("--base", tmp_path / "base.pt", "--architecture", "resnet18", "--images", folder / "photos"),
        *(
            "--image-size",
            32,
            "--limit",
            24,
            "--reference",
            8,
            "--shown",
            1,
            "--method",
            "UniCAM, uniqueness",
        ),
        *("--out", tmp_path / "report"),
    )
    assert result.exit_code == 0, result.output
    comparison = Comparison.load(tmp_path / "report" / "comparison.safetensors")
    assert comparison.students == ("first", "other")
    assert comparison.layers == ("layer1", "layer2", "layer3", "layer4")
    note = "The models' outputs are taken to be in this order: Ankle boot, Bag, "
    assert comparison.settings.notes[0].startswith(note)
    assert "Ankle boot, Bag, " in (tmp_path / "report" / "report.html").read_text("utf-8")


def test_grey_images_for_models_of_one_channel(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_networks.py").write_text(
        "from torch import nn\n"
        "def grey(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, num_classes))\n"
    )
    from captum_kd.models.architectures import build_classifier

    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("student", "base"):
        torch.save(build_classifier("my_networks:grey", 10).state_dict(), f"{name}.pt")
    own = {"student": "student.pt", "base": "base.pt", "architecture": "my_networks:grey", "layer": "1"}
    refused = run(*arguments(folder, tmp_path / "report", **own))
    assert "--mean: the models take images of 1 channel, so 1 number" in refused.output
    result = run(*arguments(folder, tmp_path / "report", **own, mean="0.3", std="0.2"))
    assert result.exit_code == 0, result.output
    assert Comparison.load(tmp_path / "report" / "comparison.safetensors").images.shape == (2, 1, 56, 56)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": "nowhere.pt"}, r"--student: There is no checkpoint nowhere\.pt"),
        (
            {"architecture": "small_resnet8"},
            r"--student: .*student\.pt does not fit SmallResNet: 6\d keys",
        ),
        ({"base_architecture": "resnet18"}, r"--base: .*base\.pt does not fit ResNet"),
        (
            {"architecture": "small_resnet"},
            "No classifier is called 'small_resnet'. Near matches: small_re",
        ),
        (
            {"layer": "layer5"},
            "--layer: SmallResNet has no layer 'layer5'. Did you mean 'layer",
        ),
        ({"base_layer": "layerX"}, "--base-layer: SmallResNet has no layer"),
        ({"images": "nothing"}, "--images: 'nothing' is no folder"),
        ({"method": "CAM"}, "--method: methods: 'CAM' is unknown. Valid names are 'Grad-CAM'"),
        ({"precision": "half"}, "--precision must be one of float16"),
        ({"device": "cuda:99"}, "--device: cuda:99 cannot be used"),
        ({"mean": "a,b,c"}, "--mean: the models take images of 3 channels, so 3 numbers"),
        ({"label_encoder": "nowhere.safetensors"}, "--label-encoder: there is no file"),
        ({"base": None}, "Give --student, --base, --architecture and --images"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, changed: dict[str, str], message: str) -> None:
    result = run(*arguments(folder, tmp_path, **changed))
    assert result.exit_code in (1, 2)
    assert re.search(message, re.sub(r"\s+", " ", result.output)), result.output
    assert "Traceback" not in result.output


def test_models_of_more_classes_than_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "three").mkdir()
    for name in ("Bag", "Coat", "Dress"):
        (tmp_path / "three" / name).symlink_to(folder / "photos" / name)
    result = run(*arguments(folder, tmp_path / "out", images=tmp_path / "three", class_names=None))
    assert "tells 10 classes apart, but there are 3 class names (Bag, Coat, Dress, ...)" in result.output
    assert "--class-names" in result.output
    assert run(*arguments(folder, tmp_path / "out", images=tmp_path / "three")).exit_code == 0


def test_too_few_images(folder: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("Bag", "Coat")):
        (tmp_path / "few" / name).mkdir(parents=True)
        for j in range(2 + i):
            Image.new("RGB", (60, 60)).save(tmp_path / "few" / name / f"{j}.png")
    result = run(*arguments(folder, tmp_path / "out", images=tmp_path / "few"))
    assert "few has 5 images that can be used, but at least 11 are needed" in result.output


class Demanding(nn.Module):
    """Takes images of one size only."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 32 * 32, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc(images.flatten(1))
        return scores


def test_images_of_a_size_that_the_model_refuses(folder: Path, tmp_path: Path) -> None:
    for name in ("student", "base"):
        torch.save(Demanding(10).state_dict(), tmp_path / f"{name}.pt")
    own = {"student": tmp_path / "student.pt", "base": tmp_path / "base.pt", "layer": "fc"}
    result = run(*arguments(folder, tmp_path / "out", **own, architecture=f"{__name__}:Demanding"))
    assert "--image-size: Demanding fails on 3 x 56 x 56 pixels: " in result.output


def tiny_transformer(num_classes: int = 10) -> nn.Module:
    return VisionTransformer(
        img_size=56, patch_size=14, embed_dim=12, depth=2, num_heads=2, num_classes=num_classes
    )


def test_tokens_of_a_transformer_are_laid_out(folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("student", "base")):
        torch.manual_seed(seed)
        torch.save(tiny_transformer().state_dict(), tmp_path / f"{name}.pt")
    options = {"student": tmp_path / "student.pt", "base": tmp_path / "base.pt", "limit": 40}
    architecture = {"architecture": "tests.explain.test_from_checkpoints:tiny_transformer", "layer": None}
    result = run(*arguments(folder, tmp_path / "report", **options, **architecture))
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
