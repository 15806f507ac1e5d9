"""Label randomisation (Adebayo et al., 2018): if a student learns nonsense, its maps must differ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kd.attr.methods import MapMethod
from captum_kd.benchmark.pairs.checked_pair import CheckedPair
from captum_kd.benchmark.sanity.checks import (
    SANITY_METHODS,
    SanityRow,
    correlations,
    distilled_maps,
    randomised,
    summarise,
)
from captum_kd.models.architectures import default_layers

EPOCHS, BATCH_SIZE, LEARNING_RATE = 40, 32, 3e-3


def check_retraining(
    checked: CheckedPair,
    methods: Mapping[str, MapMethod] = SANITY_METHODS,
    *,
    epochs: int = EPOCHS,
    report: Callable[[str], None] = lambda line: None,
) -> list[SanityRow]:
    """Compare maps with those of two students trained anew: on the pool's labels, and on permuted ones.

    Both start from the same fresh weights and have no teacher. The first shows how much the maps of two
    students share that learnt different things from images, the second how much they share with those of a
    student that memorised images.

    Args:
        checked: The models and images; the students are trained on the pool.
        methods: The methods by name.
        epochs: The number of passes over the pool.
        report: Called with a line that says what comes next.

    Returns:
        The rows of the check "training"; the setting says how much of the pool the student fits.
    """
    shuffled = checked.pool_labels[
        torch.randperm(len(checked.pool_labels), generator=torch.Generator().manual_seed(0))
    ]
    students = {}
    for name, labels in (("labels", checked.pool_labels), ("permuted labels", shuffled)):
        report(f"a student trained on {name}")
        student = retrained(checked.student, checked.pool, labels, epochs=epochs)
        students[f"{name}, fits {accuracy(student, checked.pool, labels):.0%}"] = student
    rows = []
    for title, method in methods.items():
        report(title)
        maps = distilled_maps(method, checked.pair(), checked.images, checked.labels)
        for setting, student in students.items():
            others = distilled_maps(method, checked.pair(student), checked.images, checked.labels)
            values = correlations(maps, others)
            rows += summarise("training", title, setting, default_layers(checked.student), values)
    return rows


def retrained(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int = 0) -> nn.Module:
    """Train a copy of the model from fresh weights, with AdamW and one cycle of the learning rate.

    Args:
        model: The model whose architecture is trained.
        images: The training images, ``(n, c, h, w)``.
        labels: The classes of the images, ``(n,)``.
        epochs: The number of passes over the images.
        seed: The seed of the weights and of the order.

    Returns:
        The trained model, in evaluation mode.

    Example:
        >>> from captum_kd.models.small import small_resnet
        >>> images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 2
        >>> accuracy(retrained(small_resnet(4, 2), images, labels, epochs=20), images, labels) > 0.5
        True
    """
    *_, (_, fresh) = randomised(model, seed)
    fresh = copy.deepcopy(fresh).train()
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(fresh.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(fresh(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return fresh.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose label a model predicts."""
    hits: Tensor = model(images).argmax(1) == labels
    return hits.double().mean().item()
