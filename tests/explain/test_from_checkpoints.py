"""A user's own models and images: real checkpoints, real files, and what can be wrong with them."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from captum_kd.comparison.result import Comparison
from tests.own_files import arguments, explain, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("own"))


def test_a_torchvision_pair_of_several_students(folder: Path, tmp_path: Path) -> None:
    """The README's command: torchvision's networks, folders without a list of names, default layers."""
    for name in ("first", "second", "base"):
        torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / f"{name}.pt")
    both = {k: torch.load(tmp_path / "second.pt") for k in ("state_dict", "state_dict_ema")}
    torch.save({**both, "args": argparse.Namespace(lr=0.1)}, tmp_path / "epoch=9-step=100.ckpt")
    result = explain(
        *("--student", tmp_path / "first.pt", "--student", f"other={tmp_path / 'epoch=9-step=100.ckpt'}"),
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
    note = "The models' outputs are assumed to be in this order: Ankle boot, Bag, "
    assert comparison.settings.notes[0].startswith(note)
    said = "the part 'state_dict' was loaded; it also holds state_dict_ema."
    assert comparison.settings.notes[1].startswith("other: Of ")
    assert said in comparison.settings.notes[1]
    assert said in result.output
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
    refused = explain(*arguments(folder, tmp_path / "report", **own))
    assert "--mean: the models take images of 1 channel, so 1 comma-separated number is" in refused.output
    result = explain(*arguments(folder, tmp_path / "report", **own, mean="0.3", std="0.2"))
    assert result.exit_code == 0, result.output
    assert Comparison.load(tmp_path / "report" / "comparison.safetensors").images.shape == (2, 1, 56, 56)


def test_models_of_more_classes_than_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "three").mkdir()
    for name in ("Bag", "Coat", "Dress"):
        (tmp_path / "three" / name).symlink_to(folder / "photos" / name)
    result = explain(*arguments(folder, tmp_path / "out", images=tmp_path / "three", class_names=None))
    assert "has 10 classes, but there are 3 class names (Bag, Coat, Dress, ...)" in result.output
    assert "--class-names" in result.output
    assert explain(*arguments(folder, tmp_path / "out", images=tmp_path / "three")).exit_code == 0


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
    result = explain(*arguments(folder, tmp_path / "out", **own, architecture=f"{__name__}:Demanding"))
    assert "--image-size: Demanding fails on 3 x 56 x 56 pixels: " in result.output
