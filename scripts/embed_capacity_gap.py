"""Embed distillation runs with and without a teacher assistant for the capacity-gap tutorial.

    for data in planted-cue fashion-mnist; do
      common="--data $data --teacher small_resnet24 --student small_resnet8 --folds 3 --limit 12000 --epochs 6
        --batch-size 128 --optimizer adamw --learning-rate 3e-3 --weight-decay 0.01 --schedule one-cycle
        --temperature 4 --weight response=0.95"
      captum-kd distill $common --technique response --technique attention --technique overhaul --out $data
      captum-kd distill $common --assistant small_resnet16 --out $data-assistant
    done
    PYTHONPATH=tutorials python scripts/embed_capacity_gap.py planted-cue planted-cue-assistant \\
      fashion-mnist fashion-mnist-assistant

It writes two files to the tutorials' data folder. ``capacity_gap.safetensors`` holds the planted-cue models:
the base model and the student with and without assistant of each fold, and one teacher.
``capacity_gap.json`` holds the records of all four runs, and how far the rounded models are from those that
were trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from capacity_gap import FOLDS, TEACHER_FOLDS, WIDTHS, restored, rounded
from safetensors.torch import load_file, save_file
from torch import Tensor

from captum_kd.comparison.features import layer_features
from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES, load_demo_images
from captum_kd.datasets.planted_cue import normalise
from captum_kd.distill.run_folder import read_run
from captum_kd.functional import distance_correlation
from captum_kd.models.side import Side
from captum_kd.models.small import small_resnet

OUTPUT = Path(__file__).parent.parent / "tutorials" / "data"
LAYERS = ("layer1", "layer2", "layer3", "layer4")
TECHNIQUE = "response"

RunFolder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("planted", type=RunFolder)
@click.argument("planted_assistant", type=RunFolder)
@click.argument("fashion", type=RunFolder)
@click.argument("fashion_assistant", type=RunFolder)
def main(planted: Path, planted_assistant: Path, fashion: Path, fashion_assistant: Path) -> None:
    """Embed the runs in four folders: of each data set, without and with assistant."""
    sources = {
        "base": (planted, "base", FOLDS),
        "direct": (planted, f"student-{TECHNIQUE}", FOLDS),
        "assisted": (planted_assistant, f"student-{TECHNIQUE}", FOLDS),
        "teacher": (planted, "teacher", TEACHER_FOLDS),
    }
    images = normalise(load_demo_images().images)
    stored: dict[str, Tensor] = {}
    changes = []
    for name, (run, stage, folds) in sources.items():
        trained = [load_file(run / f"fold{fold}" / stage / "model.safetensors") for fold in folds]
        small = [rounded(weights) for weights in trained]
        changes += [
            rounding_changes(WIDTHS[name], before, restored(after), images)
            for before, after in zip(trained, small, strict=True)
        ]
        stored.update({f"{name}/{key}": torch.stack([own[key] for own in small]) for key in small[0]})
    path = OUTPUT / "capacity_gap.safetensors"
    save_file(stored, path)
    path.chmod(0o644)

    runs = [
        {"run": kind, **without_the_rest(read_run(folder))}
        for kind, folder in (
            ("direct", planted),
            ("assisted", planted_assistant),
            ("direct", fashion),
            ("assisted", fashion_assistant),
        )
    ]
    rounding = {
        "images": len(images),
        "largest_share_of_predictions_changed": max(change for change, _ in changes),
        "smallest_dcor_of_a_layer_with_the_trained_one": min(dcor for _, dcor in changes),
    }
    (OUTPUT / "capacity_gap.json").write_text(
        json.dumps({"rounding": rounding, "runs": runs}, indent=1) + "\n", "utf-8"
    )
    click.echo(json.dumps(rounding, indent=1))


def rounding_changes(
    width: int, weights: dict[str, Tensor], again: dict[str, Tensor], images: Tensor
) -> tuple[float, float]:
    """The share of predictions that rounding changes, and the smallest dCor of a layer before and after."""
    before, after = (small_resnet(width, len(FASHION_MNIST_CLASSES)).eval() for _ in range(2))
    before.load_state_dict(weights)
    after.load_state_dict(again)
    (first, _, output), (second, _, again_output) = (
        layer_features(Side(model, [model.get_submodule(name) for name in LAYERS], "model"), images, 1)
        for model in (before, after)
    )
    changed = (output.argmax(1) != again_output.argmax(1)).double().mean().item()
    similar = [distance_correlation(x, y).item() for x, y in zip(first, second, strict=True)]
    return changed, min(similar)


def without_the_rest(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record without learning curves, other techniques and the name of its folder."""
    stages = [
        {key: value for key, value in stage.items() if key != "epochs"}
        for stage in record["stages"]
        if stage["technique"] in (None, TECHNIQUE)
    ]
    return {**{key: record[key] for key in ("arguments", "versions", "data")}, "stages": stages}


if __name__ == "__main__":
    main()
