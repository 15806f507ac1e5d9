"""A user's own models: checkpoints, architectures by name, normalisation and layers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.models.architectures import build_classifier, default_layers
from captum_kd.models.checkpoints import read_checkpoint
from captum_kd.models.layers import find_layer


class NamedCheckpoint(NamedTuple):
    """A checkpoint as the command line names it: NAME=PATH::PART, of which only the path is required."""

    name: str
    path: Path
    part: str


def parse_checkpoint(text: str) -> NamedCheckpoint:
    """Parse NAME=PATH::PART; a file that is there under the whole text is a path and nothing else.

    Example:
        >>> parse_checkpoint("mine=runs/last.ckpt::student")
        NamedCheckpoint(name='mine', path=PosixPath('runs/last.ckpt'), part='student')
        >>> parse_checkpoint("student.pt").name
        'student'
    """
    named = re.match(r"([^/\\=]+)=(.+)", text)
    ways = [("", text)] if named is None else [("", text), (named[1], named[2])]
    for name, rest in ways:
        # Trainers write "=" into names of files: epoch=9-step=100.ckpt.
        for path, part in ((rest, ""), rest.rpartition("::")[::2]):
            if path and _is_file(path):
                return NamedCheckpoint(name or Path(path).stem, Path(path).expanduser(), part)
    name, rest = ways[-1]
    path, _, part = rest.partition("::")
    return NamedCheckpoint(name or Path(path).stem, Path(path).expanduser(), part)


def _is_file(path: str) -> bool:
    try:
        return Path(path).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


class LoadedModel(NamedTuple):
    """A model, and what was decided about its checkpoint; empty if nothing was."""

    model: nn.Module
    note: str


def load_model(
    option: str, checkpoint: NamedCheckpoint, architecture: str, class_names: Sequence[str]
) -> LoadedModel:
    """Build an architecture and load a checkpoint into it.

    Args:
        option: Option that messages name, for instance "--student".
        checkpoint: The file.
        architecture: See :func:`~captum_kd.models.architectures.build_classifier`.
        class_names: Names of the model's outputs, in their order.

    Returns:
        The model in evaluation mode, and which part of the file it is if the file holds others.

    Raises:
        ValueError: There is no such architecture or file, the file does not fit the architecture, or it has
            another number of classes.
    """
    model = build_classifier(architecture, len(class_names))
    try:
        content = read_checkpoint(checkpoint.path)
        told_apart = content.output_size(model, checkpoint.part)
        if told_apart not in (None, len(class_names)):
            raise ValueError(
                f"{checkpoint.path} has {told_apart} classes, but there are {len(class_names)} class names "
                f"({', '.join(class_names[:3])}, ...). Give the names of the model's outputs in their order, "
                "one per line of a file, with --class-names."
            )
        loaded = content.load_into(model, checkpoint.part)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    return LoadedModel(model.eval(), loaded.note(checkpoint.path))


class Normalisation:
    """A forward pre-hook that normalises images in [0, 1], so that the images themselves remain pictures.

    Args:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
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
    """Parse comma-separated numbers, one for each channel.

    Args:
        option: Option that messages name, for instance "--mean".
        text: The numbers, for instance "0.485,0.456,0.406".
        count: How many are needed.

    Raises:
        ValueError: The text is something else; the message names the option.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise ValueError(
            f"{option}: the models take images of {count} channel{'s' * (count > 1)}, so {count} "
            f"comma-separated number{'s are' if count > 1 else ' is'} needed; got {text!r}."
        )
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{option}: the numbers must be finite; got {text!r}.")
    if option == "--std" and min(numbers) <= 0:
        raise ValueError(
            f"{option}: every number must be above 0, because images are divided by it; got {text!r}."
        )
    return numbers


def try_model(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Run a model once on a grey image, to see whether it takes images of this size.

    Args:
        model: The model.
        shape: Shape of the image, ``(channels, height, width)``.

    Raises:
        ValueError: The model fails.
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
    """Return the number of channels of a model's images: that of its first convolution, 3 if it has none."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)


def choose_layers(option: str, model: nn.Module, named: Sequence[str]) -> list[str]:
    """Check the named layers; if none is named, take the stages of the architecture.

    Args:
        option: Option that messages name, for instance "--layer".
        model: The model.
        named: Names of its layers.

    Raises:
        ValueError: A layer does not exist (near matches are listed), or none is named and the stages are not
            known.
    """
    try:
        for name in named:
            if not name.strip():
                raise ValueError("a layer's name is empty, which would be the whole model.")
            find_layer(model, name)
        return list(named) or default_layers(model)
    except ValueError as error:
        listing = "`captum-kd layers ARCH` lists an architecture's layers with their shapes."
        raise ValueError(f"{option}: {error} {listing}") from error
