"""The demo's embedded images and trained models.

``captum-kd distill`` and ``scripts/embed_demo.py`` wrote everything, and anyone can run them again.
Weights are read from safetensors, which hold tensors and strings, never code.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Literal, NamedTuple

from safetensors.torch import load
from torch import Tensor

from captum_kd.datasets.planted_cue import PlantedCues, plant_cues
from captum_kd.models.small import SmallResNet, small_resnet

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

MODEL_WIDTHS = {"teacher": 24, "base": 16, "student": 16}
# Names of the models in the distillation run that they come from.
DEMO_STAGES = {"teacher": "teacher", "base": "base", "student": "student-response"}

_IMAGES_SEED = 2024


class DemoModels(NamedTuple):
    """The demo's three networks and how they were trained and tested.

    Attributes:
        teacher: The teacher, trained on images whose cues are independent of the label.
        base: The base model, trained on the labels of images whose cues are made to name the item in 95 of
            100.
        student: The student: the base model's architecture, images and schedule, distilled from the teacher.
        tested: Accuracy and cue agreement of each model on the decorrelated test set.
        training: ``training.json``, the record of the distillation run: arguments, versions, epochs.
    """

    teacher: SmallResNet
    base: SmallResNet
    student: SmallResNet
    tested: dict[str, dict[str, float]]
    training: dict[str, Any]


def load_demo_models() -> DemoModels:
    """Load the trained teacher, base model and student, in evaluation mode, on the CPU.

    Returns:
        The models, and the record of their training.

    Raises:
        RuntimeError: A checkpoint does not fit the network.

    Example:
        >>> models = load_demo_models()
        >>> models.student.training
        False
        >>> models.tested["student"]["accuracy"] > models.tested["base"]["accuracy"]
        True
    """
    networks = {}
    for name, width in MODEL_WIDTHS.items():
        network = small_resnet(width, len(FASHION_MNIST_CLASSES))
        network.load_state_dict(load(_read(f"{name}.safetensors")))
        networks[name] = network.eval()
    training = json.loads(_read("training.json"))
    stages = {stage["name"]: stage["test"] for stage in training["stages"]}
    tested = {name: stages[stage] for name, stage in DEMO_STAGES.items()}
    return DemoModels(**networks, tested=tested, training=training)


def load_demo_items() -> tuple[Tensor, Tensor]:
    """Load the embedded part of the Fashion-MNIST test split.

    Returns:
        512 items, uint8 ``(512, 28, 28)``, and their classes, int64 ``(512,)``; 51 or 52 of each
        class, in random order.

    Example:
        >>> items, labels = load_demo_items()
        >>> items.shape, labels.bincount().min()
        (torch.Size([512, 28, 28]), tensor(51))
    """
    tensors = load(_read("fashion_mnist_test.safetensors"))
    return tensors["items"], tensors["labels"].long()


def load_demo_images(
    *,
    agreement: float = 0.0,
    omit: Literal["item", "cue"] | None = None,
    seed: int = _IMAGES_SEED,
) -> PlantedCues:
    """Plant cues beside the embedded items, which no model has seen in training.

    Args:
        agreement: Probability that a cue is made to name the item's class; by default the two are
            independent. See :func:`~captum_kd.datasets.planted_cue.plant_cues`.
        omit: Leave out the ``"item"`` or the ``"cue"`` and show the background in its place.
        seed: Seed of the drawing.

    Returns:
        512 images of 56 x 56 pixels with labels, cue classes and masks.

    Raises:
        ValueError: ``agreement`` or ``omit`` is not valid.

    Example:
        >>> planted = load_demo_images()
        >>> planted.images.shape
        torch.Size([512, 3, 56, 56])
        >>> FASHION_MNIST_CLASSES[planted.labels[0]] in FASHION_MNIST_CLASSES
        True
    """
    items, labels = load_demo_items()
    return plant_cues(items, labels, agreement=agreement, omit=omit, seed=seed)


def _read(name: str) -> bytes:
    return (resources.files("captum_kd.datasets") / "data" / name).read_bytes()
