"""A comparison as one safetensors file: its tensors, and everything else as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_kd.atomic import write_whole
from captum_kd.comparison.schema import (
    check_content,
    check_names,
    check_settings,
    check_tensors,
    numbered_maps,
)
from captum_kd.comparison.settings import Settings

_FORMAT = "captum-kd comparison 1"


def write_comparison(path: str | os.PathLike[str], parts: Mapping[str, Any]) -> None:
    """Write a comparison.

    Args:
        path: The file.
        parts: The fields of the :class:`~captum_kd.Comparison`: the tensors ``images`` and ``labels``,
            ``maps``, ``settings``, and others that JSON can hold.
    """
    tensors = {name: value for name, value in parts.items() if isinstance(value, Tensor)}
    # Safetensors keys are flat, so a list says what the numbered maps are.
    numbered: list[tuple[str, str, str]] = []
    for student, layers in parts["maps"].items():
        for layer, methods in layers.items():
            for method, (ours, theirs) in methods.items():
                tensors[f"maps.{len(numbered)}.0"], tensors[f"maps.{len(numbered)}.1"] = ours, theirs
                numbered.append((student, layer, method))
    content = {name: value for name, value in parts.items() if name not in tensors and name != "maps"}
    content["settings"] = asdict(parts["settings"])
    content["layers_with_maps"] = {student: list(layers) for student, layers in parts["maps"].items()}
    content["numbered_maps"] = numbered
    metadata = {"format": _FORMAT, "comparison": json.dumps(content)}
    # Safetensors refuse tensors that share memory.
    own = {name: value.clone().contiguous() for name, value in tensors.items()}
    # Beside the old file, which may be where the tensors were read from.
    write_whole(Path(path), lambda temporary: save_file(own, temporary, metadata))


def read_comparison(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_comparison` wrote.

    Args:
        path: The file.

    Returns:
        The fields of the comparison.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a saved comparison, another version wrote it, or it was damaged or
            altered.
    """
    name = repr(os.fspath(path))
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {name}.")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    # Besides, PyTorch may not know a type of numbers that the file names.
    except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{name} is not a comparison saved by Comparison.save (its format is {metadata.get('format')!r}, "
            f"not {_FORMAT!r})."
        )
    try:
        content = check_content(json.loads(metadata.get("comparison", "null")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged or was altered: {error}.") from error
    try:
        settings = Settings.from_json(content["settings"])
    except TypeError as error:
        raise ValueError(
            f"{name} was saved by another version of captum-kd, whose settings cannot be read: {error}."
        ) from error
    try:
        check_settings(content["settings"])
        check_names(content, settings)
        check_tensors(tensors, len(content["numbered_maps"]))
    except ValueError as error:
        raise ValueError(f"{name} is damaged or was altered: {error}.") from error
    return {
        "rows": content["rows"],
        "accuracy": content["accuracy"],
        "images": tensors["images"],
        "labels": tensors["labels"],
        "maps": numbered_maps(content, tensors),
        "sides": {method: tuple(words) for method, words in content["sides"].items()},
        "settings": settings,
    }
