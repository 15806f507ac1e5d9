"""A user's own models: checkpoints, architectures by name, normalisation, layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.models.architectures import build_classifier, default_layers
from captum_kd.models.checkpoints import read_checkpoint
from captum_kd.models.layers import find_layer

PRECISIONS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class Checkpoint(NamedTuple):
    """A checkpoint as the command line names it: NAME=PATH::PART, of which only the path is needed."""

    name: str
    path: Path
    part: str


def parse_checkpoint(text: str) -> Checkpoint:
    """Read NAME=PATH::PART.

    Example:
        >>> parse_checkpoint("mine=runs/last.ckpt::student")
        Checkpoint(name='mine', path=PosixPath('runs/last.ckpt'), part='student')
        >>> parse_checkpoint("student.pt").name
        'student'
    """
    named = re.match(r"([^/\\=]+)=(.+)", text)
    name, rest = (named[1], named[2]) if named else ("", text)
    path, _, part = rest.partition("::")
    return Checkpoint(name or Path(path).stem, Path(path).expanduser(), part)


def load_model(
    option: str, checkpoint: Checkpoint, architecture: str, class_names: Sequence[str]
) -> nn.Module:
    """Build an architecture and load a checkpoint into it.

    Args:
        option: How messages call it, for instance "--student".
        checkpoint: The file.
        architecture: See :func:`~captum_kd.models.architectures.build_classifier`.
        class_names: Of the model's outputs.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: No such architecture or file, a file that does not fit, or another number of classes.
    """
    model = build_classifier(architecture, len(class_names))
    try:
        content = read_checkpoint(checkpoint.path)
        told_apart = content.output_size(model)
        if told_apart not in (None, len(class_names)):
            raise ValueError(
                f"{checkpoint.path} tells {told_apart} classes apart, but there are {len(class_names)} class "
                f"names ({', '.join(class_names[:3])}, ...). Give the names of the model's outputs in their "
                "order, one a line of a file, with --class-names."
            )
        content.load_into(model, checkpoint.part)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    return model.eval()


class Normalisation:
    """A forward pre-hook that normalises images in [0, 1], so that the images remain pictures.

    Args:
        mean: Of each channel.
        std: Of each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = torch.tensor(mean).reshape(-1, 1, 1)
        self.std = torch.tensor(std).reshape(-1, 1, 1)

    def __repr__(self) -> str:
        return f"Normalisation({self.mean.flatten().tolist()}, {self.std.flatten().tolist()})"

    def __call__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *others = inputs
        return ((images - self.mean.to(images)) / self.std.to(images), *others)


def parse_numbers(option: str, text: str, count: int) -> tuple[float, ...]:
    """Numbers between commas, one for each channel.

    Raises:
        ValueError: Something else; the message names the option.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise ValueError(
            f"{option}: the models take images of {count} channel{'s' * (count > 1)}, so {count} "
            f"number{'s' * (count > 1)} between commas are needed; got {text!r}."
        )
    return numbers


def try_model(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Run a model once on a grey image.

    Raises:
        ValueError: It fails.
    """
    try:
        with torch.no_grad():
            model(torch.full((1, *shape), 0.5))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"--image-size: {type(model).__name__} fails on {' x '.join(map(str, shape))} pixels: {reason}"
        ) from error


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution, 3 if it has none."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def choose_layers(option: str, model: nn.Module, named: Sequence[str]) -> list[str]:
    """The named layers, or the stages of the architecture.

    Raises:
        ValueError: A layer does not exist (near matches are listed), or none is named and the stages are not
            known.
    """
    try:
        for name in named:
            find_layer(model, name)
        return list(named) or default_layers(model)
    except ValueError as error:
        listing = "`captum-kd layers ARCH` lists an architecture's layers with their shapes."
        raise ValueError(f"{option}: {error} {listing}") from error


def choose_device(name: str) -> torch.device:
    """A device by name; "auto" takes a CUDA GPU, then Apple's, then the CPU.

    Raises:
        ValueError: No such device here.
    """
    if name == "auto":
        mps = getattr(torch.backends, "mps", None)
        name = "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device: {name} cannot be used: {reason}. --device auto takes what is there."
        ) from error
    return device
