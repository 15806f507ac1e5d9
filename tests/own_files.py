"""The demo's models and images as files of a user's, and the command that explains them."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner, Result
from torchvision.utils import save_image

from captum_kd.cli.main import main
from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES, load_demo_images, load_demo_models

COUNT = 120
NORMALISATION = ("--mean", "0.3,0.3,0.3", "--std", "0.2,0.2,0.2")


def explain(*arguments: object) -> Result:
    """Run captum-kd explain."""
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


def write_files(root: Path) -> Path:
    """Checkpoints, folders of images with one that is damaged, and a list of class names."""
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
    """The options of a small run, some of them changed; None leaves one out."""
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
