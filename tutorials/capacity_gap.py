"""A student taught by its teacher, and one taught by an assistant in between: embedded models and results.

Everything was written by ``captum-kd distill`` and ``scripts/embed_capacity_gap.py``, which anyone can run
again. To be small the weights of convolutions are stored as 8-bit integers with a scale per output channel;
``capacity_gap.json`` says how little that changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor

from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES
from captum_kd.models.small import SmallResNet, small_resnet

FOLDS = (1, 2, 3)
# The teachers are nine times as large as the students, so the one of the first fold has to do.
TEACHER_FOLDS = (1,)
WIDTHS = {"teacher": 24, "base": 8, "direct": 8, "assisted": 8}

_LARGEST = 127
_SCALE = "/scale"


class CapacityGapModels(NamedTuple):
    """One fold's networks on planted cues, in evaluation mode, on the CPU.

    Attributes:
        base: trained on the labels alone.
        direct: the same architecture, taught by the teacher.
        assisted: the same architecture, taught by an assistant that the teacher taught.
        teacher: None in folds whose teacher is not embedded.
    """

    base: SmallResNet
    direct: SmallResNet
    assisted: SmallResNet
    teacher: SmallResNet | None


def load_capacity_gap_models(fold: int = 1) -> CapacityGapModels:
    """Loads the models of one fold of the planted-cue runs.

    Args:
        fold: 1, 2 or 3; each has its own seed, training images and teacher.

    Returns:
        The models; the teacher is that of fold 1, or None.

    Raises:
        ValueError: There is no such fold.

    Example:
        >>> models = load_capacity_gap_models()
        >>> models.teacher.conv1.out_channels, models.assisted.conv1.out_channels
        (24, 8)
        >>> load_capacity_gap_models(2).teacher is None
        True
    """
    if fold not in FOLDS:
        raise ValueError(f"fold is {fold!r}; 1, 2 or 3 needed.")
    stored = load(_read("capacity_gap.safetensors"))
    networks: dict[str, SmallResNet | None] = {"teacher": None}
    for name, width in WIDTHS.items():
        # One tensor for all folds, so that the file has few names.
        own = {
            key.removeprefix(f"{name}/"): folds[fold - 1]
            for key, folds in stored.items()
            if key.startswith(f"{name}/") and fold <= len(folds)
        }
        if own:
            network = small_resnet(width, len(FASHION_MNIST_CLASSES))
            network.load_state_dict(restored(own))
            networks[name] = network.eval()
    return CapacityGapModels(**networks)  # type: ignore[arg-type]


def load_capacity_gap_results() -> list[dict[str, Any]]:
    """What the four runs measured: with and without an assistant, on planted cues and on Fashion-MNIST.

    Returns:
        A record per data set, run, model and fold: "data", "run" ("direct" or "assisted"), "model"
        ("teacher", "assistant", "base" or "student"), "architecture", "fold", and the measures on 10,000
        test images: "accuracy", and on planted cues "cue_agreement", "changed_without_item" and
        "changed_without_cue".

    Example:
        >>> record = load_capacity_gap_results()[0]
        >>> record["data"], record["model"], record["architecture"]
        ('planted-cue', 'teacher', 'small_resnet24')
    """
    return [
        {
            "data": run["data"]["name"],
            "run": run["run"],
            "model": _role(stage["name"]),
            "architecture": stage["architecture"],
            "fold": stage["fold"],
            **stage["test"],
        }
        for run in load_capacity_gap_training()["runs"]
        for stage in run["stages"]
    ]


def load_capacity_gap_training() -> dict[str, Any]:
    """``capacity_gap.json``: the records of the runs, and what storing the weights as integers changes.

    Example:
        >>> sorted(load_capacity_gap_training())
        ['rounding', 'runs']
    """
    record: dict[str, Any] = json.loads(_read("capacity_gap.json"))
    return record


def rounded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of convolutions as 8-bit integers and a scale per output channel; the rest as it is.

    Args:
        weights: A state dict.

    Returns:
        The tensors to store; :func:`restored` turns them back.

    Example:
        >>> stored = rounded({"conv.weight": torch.tensor([0.5, -1.27]).reshape(1, 2, 1, 1)})
        >>> stored["conv.weight"].flatten()
        tensor([  50, -127], dtype=torch.int8)
        >>> restored(stored)["conv.weight"].flatten()
        tensor([ 0.5000, -1.2700])
    """
    stored = {}
    for key, value in weights.items():
        if value.dim() != 4:
            stored[key] = value
            continue
        scale = value.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12) / _LARGEST
        stored[key] = (value / scale).round().to(torch.int8)
        stored[key + _SCALE] = scale
    return stored


def restored(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of what :func:`rounded` gave."""
    return {
        key: value * stored[key + _SCALE] if key + _SCALE in stored else value
        for key, value in stored.items()
        if not key.endswith(_SCALE)
    }


def _role(stage: str) -> str:
    """``assistant1-response`` is "assistant", ``student-response`` "student"."""
    return stage.split("-")[0].rstrip("0123456789")


def _read(name: str) -> bytes:
    return (Path(__file__).parent / "data" / name).read_bytes()
