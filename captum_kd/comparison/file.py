"""A comparison as one safetensors file: its tensors, and everything else as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

# Per student, layer and method: two maps (n, 1, h, w).
Maps = dict[str, dict[str, dict[str, tuple[Tensor, Tensor]]]]

_FORMAT = "captum-kd comparison 1"


def write_comparison(path: str | os.PathLike[str], parts: Mapping[str, Any]) -> None:
    """Write the fields of a :class:`~captum_kd.comparison.Comparison`.

    Args:
        path: Of the file.
        parts: The fields: tensors ``images`` and ``labels``, ``maps``, and others that JSON can hold.
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
    content["layers_with_maps"] = {student: list(layers) for student, layers in parts["maps"].items()}
    content["numbered_maps"] = numbered
    metadata = {"format": _FORMAT, "comparison": json.dumps(content)}
    # Safetensors refuse tensors that share memory.
    own = {name: value.clone().contiguous() for name, value in tensors.items()}
    save_file(own, os.fspath(path), metadata)


def read_comparison(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields that :func:`write_comparison` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a saved comparison.
    """
    name = repr(os.fspath(path))
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {name}.")
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name} is not a safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{name} is not a comparison saved by Comparison.save (its format is {metadata.get('format')!r}, "
            f"not {_FORMAT!r})."
        )
    content: dict[str, Any] = json.loads(metadata["comparison"])
    maps: Maps = {s: {layer: {} for layer in kept} for s, kept in content.pop("layers_with_maps").items()}
    for i, (student, layer, method) in enumerate(content.pop("numbered_maps")):
        maps[student][layer][method] = (tensors[f"maps.{i}.0"], tensors[f"maps.{i}.1"])
    content["sides"] = {method: tuple(words) for method, words in content["sides"].items()}
    return {**content, "images": tensors["images"], "labels": tensors["labels"], "maps": maps}
