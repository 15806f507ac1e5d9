"""Trains the demo's teacher, base model and student, and writes everything the demo embeds.

    python scripts/train_demo.py

takes about 13 minutes on two idle CPU cores. Fashion-MNIST is read from ``--data``, a folder with its
four ``.gz`` files; without it from the Debian package ``dataset-fashion-mnist`` if that is
installed, else torchvision downloads it to ``data/``. On a machine busy with other work, set
``OMP_WAIT_POLICY=PASSIVE``: threads that spin while they wait slow each other down severalfold. The
numbers can differ a little with the number of threads and the version of torch.

1. The teacher learns from images whose cues say nothing of the label (agreement 0).
2. The base model learns from the labels of biased images (agreement 0.95).
3. The student sees the base model's images, on its schedule, but learns from the teacher's answers:
   ``0.95 T^2 KL(teacher || student)`` of outputs softened at T = 4, plus ``0.05`` cross-entropy
   (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).

Choices such as the schedule were made on decorrelated validation images, whose items come from the
training split. The test split is used once, at the end: accuracy, how often the prediction is the
cue's class, and how often it changes when the item or the cue is left out.

Written to ``--output``: ``teacher``, ``base`` and ``student`` (safetensors), ``training.json``, and
``fashion_mnist_test.safetensors`` with 512 test items.
"""

from __future__ import annotations

import gzip
import json
import platform
import time
from pathlib import Path
from typing import Any

import click
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import captum_kd
from captum_kd.demo.assets import FASHION_MNIST_CLASSES, MODEL_WIDTHS
from captum_kd.demo.networks import SmallResNet, small_resnet
from captum_kd.demo.planted_cue import PlantedCues, normalise, plant_cues

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
OUTPUT = Path(captum_kd.__file__).parent / "demo" / "data"
AGREEMENT = 0.95
TEMPERATURE = 4.0
DISTILLATION_WEIGHT = 0.95
VALIDATION_ITEMS = 4000
EMBEDDED_ITEMS = 512
BATCH_SIZE = 128


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the four .gz files of Fashion-MNIST.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=OUTPUT,
    help="Default: the package's data folder.",
)
@click.option("--epochs", type=click.IntRange(1), default=4, show_default=True, help="Of each model.")
@click.option(
    "--images", type=click.IntRange(256, 56000), default=56000, show_default=True, help="For training."
)
@click.option("--learning-rate", type=float, default=3e-3, show_default=True, help="Peak.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--test/--no-test", default=True, help="Leave the test split alone while tuning.")
def main(
    data: Path | None,
    output: Path,
    epochs: int,
    images: int,
    learning_rate: float,
    seed: int,
    threads: int,
    test: bool,
) -> None:
    """Trains the demo's models and writes what the demo embeds."""
    start = time.perf_counter()
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    items, labels = read_fashion_mnist(data, train=True)
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    chosen, held_out = order[:images], order[-VALIDATION_ITEMS:]

    click.echo("Planting cues")
    neutral = plant_cues(items[chosen], labels[chosen], agreement=0.0, seed=seed + 1)
    biased = plant_cues(items[chosen], labels[chosen], agreement=AGREEMENT, seed=seed + 2)
    validation = scenes(items[held_out], labels[held_out], seed=seed + 3)

    networks: dict[str, SmallResNet] = {}
    record: dict[str, dict[str, Any]] = {}
    for index, (name, width) in enumerate(MODEL_WIDTHS.items()):
        began = time.perf_counter()
        torch.manual_seed(seed + 100 * (index + 1))
        network = small_resnet(width, len(FASHION_MNIST_CLASSES))
        train(
            network,
            neutral if name == "teacher" else biased,
            teacher=networks["teacher"] if name == "student" else None,
            epochs=epochs,
            learning_rate=learning_rate,
            title=name,
        )
        networks[name] = network
        record[name] = {
            "width": width,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "seconds": round(time.perf_counter() - began, 1),
            "validation": measure(network, validation),
        }
        click.echo(f"{name}, validation: {record[name]['validation']}")

    if test:
        items, labels = read_fashion_mnist(data, train=False)
        final = scenes(items, labels, seed=seed + 4)
        for name, network in networks.items():
            record[name]["test"] = measure(network, final)
            click.echo(f"{name}, test: {record[name]['test']}")
        save_embedded_items(items, labels, output, seed)

    training = {
        "data": "Fashion-MNIST with planted cues; validation and test cues are decorrelated",
        "arguments": {
            "seed": seed,
            "epochs": epochs,
            "images": images,
            "learning_rate": learning_rate,
            "batch_size": BATCH_SIZE,
            "agreement": AGREEMENT,
            "temperature": TEMPERATURE,
            "distillation_weight": DISTILLATION_WEIGHT,
            "threads": threads,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "validation_images": VALIDATION_ITEMS,
        "test_images": len(labels) if test else 0,
        "models": record,
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time(), 1),  # of all threads together
    }
    for name, network in networks.items():
        # Strings only, as the safetensors header demands.
        facts = {"seed": seed, "width": MODEL_WIDTHS[name], **record[name].get("test", {})}
        save_file(
            {key: value.contiguous() for key, value in network.state_dict().items()},
            output / f"{name}.safetensors",
            metadata={key: str(value) for key, value in facts.items()},
        )
    (output / "training.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    click.echo(f"Wrote {output} after {training['seconds']:.0f} s")


def read_fashion_mnist(folder: Path | None, train: bool) -> tuple[Tensor, Tensor]:
    """Reads one split of Fashion-MNIST.

    Args:
        folder: holds the four .gz files; None looks for the Debian package, then downloads.
        train: the training split of 60,000 images or the test split of 10,000.

    Returns:
        Items, uint8 (n, 28, 28), and labels, int64 (n,).
    """
    if folder is None and DEBIAN_FOLDER.exists():
        folder = DEBIAN_FOLDER
    if folder is None:
        downloaded = torchvision.datasets.FashionMNIST("data", train=train, download=True)
        return downloaded.data, downloaded.targets
    stem = "train" if train else "t10k"
    # An idx file is a header, 16 bytes for images and 8 for labels, then the bytes themselves.
    items = read_bytes(folder / f"{stem}-images-idx3-ubyte.gz")[16:].reshape(-1, 28, 28)
    return items, read_bytes(folder / f"{stem}-labels-idx1-ubyte.gz")[8:].long()


def read_bytes(path: Path) -> Tensor:
    """Unpacks a .gz file into a uint8 tensor."""
    with gzip.open(path) as stream:
        return torch.frombuffer(bytearray(stream.read()), dtype=torch.uint8)


def scenes(items: Tensor, labels: Tensor, seed: int) -> dict[str, PlantedCues]:
    """Decorrelated images: complete, and the same ones without the item and without the cue."""
    return {
        "complete": plant_cues(items, labels, agreement=0.0, seed=seed),
        "without_item": plant_cues(items, labels, agreement=0.0, seed=seed, omit="item"),
        "without_cue": plant_cues(items, labels, agreement=0.0, seed=seed, omit="cue"),
    }


def train(
    network: nn.Module,
    planted: PlantedCues,
    teacher: nn.Module | None,
    epochs: int,
    learning_rate: float,
    title: str,
) -> None:
    """Trains a network in place, from labels or, given a teacher, by distillation."""
    batches = len(planted.labels) // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs * batches)
    network.train()
    with tqdm(total=epochs * batches, desc=title, mininterval=5) as progress:
        for _ in range(epochs):
            order = torch.randperm(len(planted.labels))[: batches * BATCH_SIZE]
            for batch in order.split(BATCH_SIZE):
                images, labels = normalise(planted.images[batch]), planted.labels[batch]
                logits = network(images)
                loss = F.cross_entropy(logits, labels)
                if teacher is not None:
                    with torch.no_grad():
                        answers = teacher(images)
                    loss = (1 - DISTILLATION_WEIGHT) * loss + DISTILLATION_WEIGHT * soft_loss(logits, answers)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    network.eval()


def soft_loss(logits: Tensor, answers: Tensor) -> Tensor:
    """T^2 KL(teacher || student) of outputs softened at temperature T."""
    return TEMPERATURE**2 * F.kl_div(
        F.log_softmax(logits / TEMPERATURE, 1),
        F.log_softmax(answers / TEMPERATURE, 1),
        reduction="batchmean",
        log_target=True,
    )


def predict(network: nn.Module, images: Tensor) -> Tensor:
    """The predicted class of each uint8 image."""
    with torch.inference_mode():
        return torch.cat([network(normalise(part)).argmax(1) for part in images.split(500)])


def measure(network: nn.Module, planted: dict[str, PlantedCues]) -> dict[str, float]:
    """Accuracy, cue agreement, and the share of predictions that an omission changes."""
    predicted = {kind: predict(network, part.images) for kind, part in planted.items()}
    complete = predicted["complete"]

    def share(hits: Tensor) -> float:
        return round(hits.double().mean().item(), 4)

    return {
        "accuracy": share(complete == planted["complete"].labels),
        "cue_agreement": share(complete == planted["complete"].cues),
        "changed_without_item": share(complete != predicted["without_item"]),
        "changed_without_cue": share(complete != predicted["without_cue"]),
    }


def save_embedded_items(items: Tensor, labels: Tensor, output: Path, seed: int) -> None:
    """Saves test items in random order, the classes as balanced as their number allows."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + 5))
    rank = torch.zeros_like(labels)  # how many of its class come before an item
    for label in range(len(FASHION_MNIST_CLASSES)):
        of_class = order[labels[order] == label]
        rank[of_class] = torch.arange(len(of_class))
    chosen = order[rank[order].argsort(stable=True)[:EMBEDDED_ITEMS]]
    # Sorted by rank, the classes would alternate; shuffle them.
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed + 6))]
    save_file(
        {"items": items[chosen].contiguous(), "labels": labels[chosen].to(torch.uint8)},
        output / "fashion_mnist_test.safetensors",
        metadata={
            "source": "https://github.com/zalandoresearch/fashion-mnist, test split",
            "license": "MIT, Copyright (c) 2017 Zalando SE",
            "seed": str(seed),
        },
    )


if __name__ == "__main__":
    main()
