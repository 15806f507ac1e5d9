"""Embed a distillation run on the planted-cue images as the demo's models.

    captum-kd distill --data planted-cue --teacher small_resnet24 --student small_resnet16 --folds 1 \\
        --epochs 4 --batch-size 128 --optimizer adamw --learning-rate 3e-3 --weight-decay 0.01 \\
        --schedule one-cycle --temperature 4 --weight response=0.95 --out demo-run
    python scripts/embed_demo.py demo-run

It writes to the package's data folder: ``teacher``, ``base`` and ``student`` (safetensors), ``training.json``
(the run's own record), and ``fashion_mnist_test.safetensors`` with 512 test items.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import Tensor

import captum_kd
from captum_kd.datasets.demo_pair import DEMO_STAGES, FASHION_MNIST_CLASSES
from captum_kd.datasets.in_memory import read_fashion_mnist
from captum_kd.distill.run_folder import read_run

OUTPUT = Path(captum_kd.__file__).parent / "datasets" / "data"
EMBEDDED_ITEMS = 512
SEED = 0


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder of Fashion-MNIST; downloaded if it is not there.",
)
def main(run: Path, root: Path) -> None:
    """Embed the run in the folder RUN."""
    record = read_run(run)
    for name, stage in DEMO_STAGES.items():
        shutil.copyfile(run / "fold1" / stage / "model.safetensors", OUTPUT / f"{name}.safetensors")
    del record["explain"]  # it names a folder on the machine that trained the models
    (OUTPUT / "training.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    _, test = read_fashion_mnist(root)
    save_embedded_items(test.data, test.targets)


def save_embedded_items(items: Tensor, labels: Tensor) -> None:
    """Save test items in random order, with the classes as balanced as possible."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED + 5))
    rank = torch.zeros_like(labels)  # how many items of its class come before each item
    for label in range(len(FASHION_MNIST_CLASSES)):
        of_class = order[labels[order] == label]
        rank[of_class] = torch.arange(len(of_class))
    chosen = order[rank[order].argsort(stable=True)[:EMBEDDED_ITEMS]]
    # Sorted by rank, the classes would alternate, so they are shuffled.
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(SEED + 6))]
    save_file(
        {"items": items[chosen].contiguous(), "labels": labels[chosen].to(torch.uint8)},
        OUTPUT / "fashion_mnist_test.safetensors",
        metadata={
            "source": "https://github.com/zalandoresearch/fashion-mnist, test split",
            "license": "MIT, Copyright (c) 2017 Zalando SE",
            "seed": str(SEED),
        },
    )


if __name__ == "__main__":
    main()
