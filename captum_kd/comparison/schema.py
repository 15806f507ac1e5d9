"""What a saved comparison must hold, so that a damaged or altered file is refused and not half understood."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor

from captum_kd.comparison.features import BASE, TEACHER
from captum_kd.comparison.maps import Maps
from captum_kd.comparison.scores import COLUMNS
from captum_kd.comparison.settings import Settings
from captum_kd.metrics import Score
from captum_kd.records import check_record

# What the JSON text of a file holds.
_CONTENT: dict[str, Any] = {
    "rows": list[dict[str, Any]],
    "accuracy": dict[str, float | None],
    "sides": dict[str, tuple[str, str]],
    "settings": dict[str, Any],
    "layers_with_maps": dict[str, list[str]],
    "numbered_maps": list[tuple[str, str, str]],
}
_ROW = {**dict.fromkeys(COLUMNS, str), **get_type_hints(Score)}
_COUNTS = ("samples", "left_out", "reference", "permutations", "pool")


def check_content(content: object) -> dict[str, Any]:
    """Check the types of what a file's text holds.

    Args:
        content: What JSON gave.

    Returns:
        The content.

    Raises:
        ValueError: Something is missing, is there in addition, or has another type; the message says what.
    """
    if not isinstance(content, dict):
        raise ValueError(f"its text must be an object, got {reprlib.repr(content)}")
    _check_fields(content, _CONTENT, "it")
    for index, row in enumerate(content["rows"]):
        _check_fields(row, _ROW, f"row {index}")
    checked: dict[str, Any] = content
    return checked


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the types and ranges of settings.

    Args:
        settings: The settings by name; those that are missing have defaults.

    Raises:
        ValueError: A setting has another type or is out of range.
    """
    hints = get_type_hints(Settings)
    _check_fields(settings, {name: hints[name] for name in settings}, "settings")
    for name in ("students", "layers"):
        if not settings[name]:
            raise ValueError(f"settings: {name} is empty")
        _check_distinct(settings[name], f"settings: {name}")
    _check_known([BASE, TEACHER], settings["students"], "settings: students", must=False)
    for name in _COUNTS:
        if settings.get(name, 1) < 0:
            raise ValueError(f"settings: {name} must not be negative, got {settings[name]}")
    if not 0 < settings.get("confidence", 0.95) < 1:
        raise ValueError(f"settings: confidence must be between 0 and 1, got {settings['confidence']}")


def check_names(content: Mapping[str, Any], settings: Settings) -> None:
    """Check that rows, accuracies and maps are of models, layers and methods that there are.

    Args:
        content: The content, of the right types.
        settings: The settings.

    Raises:
        ValueError: A name is unknown, comes twice or is missing, or a share is not from 0 to 1.
    """
    students, layers, sides = settings.students, settings.layers, content["sides"]
    models = (*students, BASE, *([TEACHER] if settings.teacher else []))
    for index, row in enumerate(content["rows"]):
        _check_known([row["student"]], students, f"row {index}: student")
        _check_known([row["layer"]], layers, f"row {index}: layer")
        if row["samples"] < 0 or row["p_value"] < 0 or row["p_value"] > 1:
            raise ValueError(f"row {index}: samples or p_value is out of range")
    _check_distinct([tuple(row[key] for key in COLUMNS[:3]) for row in content["rows"]], "rows")
    _check_known(content["accuracy"], models, "accuracy")
    for name, value in content["accuracy"].items():
        if value is not None and (value < 0 or value > 1):
            raise ValueError(f"accuracy: that of {name!r} must be from 0 to 1, got {value}")
    with_maps = content["layers_with_maps"]
    _check_known(with_maps, students, "layers_with_maps")
    _check_known(students, tuple(with_maps), "layers_with_maps: students")
    for student, own in with_maps.items():
        _check_known(own, layers, f"layers_with_maps of {student!r}")
        _check_distinct(own, f"layers_with_maps of {student!r}")
    expected = {(s, layer, method) for s, own in with_maps.items() for layer in own for method in sides}
    numbered = [tuple(names) for names in content["numbered_maps"]]
    _check_distinct(numbered, "numbered_maps")
    if set(numbered) != expected:
        wrong = sorted(set(numbered) ^ expected)[0]
        raise ValueError(
            "numbered_maps must name each method of sides once for each layer with maps, which is not so for "
            f"{reprlib.repr(wrong)}"
        )


def check_tensors(tensors: Mapping[str, Tensor], maps: int) -> None:
    """Check images, labels and maps.

    Args:
        tensors: The tensors by name.
        maps: How many pairs of maps there are.

    Raises:
        ValueError: A tensor is missing, is there in addition, or has another type or shape.
    """
    names = ["images", "labels", *(f"maps.{i}.{side}" for i in range(maps) for side in range(2))]
    if set(tensors) != set(names):
        name = sorted(set(tensors) ^ set(names))[0]
        raise ValueError(f"the tensor {name!r} is {'unexpected' if name in tensors else 'missing'}")
    images, labels = tensors["images"], tensors["labels"]
    if images.dim() != 4 or not _is_plain_float(images):
        raise ValueError(f"images must be floating point (n, c, h, w), got {_described(images)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or (labels < 0).any():
        raise ValueError(
            f"labels must be a class index for each of the {len(images)} images, got {_described(labels)}"
        )
    for name in names[2:]:
        value = tensors[name]
        if value.dim() != 4 or value.shape[:2] != (len(images), 1) or not _is_plain_float(value):
            raise ValueError(
                f"{name} must be floating point ({len(images)}, 1, h, w), got {_described(value)}"
            )
        if value.numel() == 0 and len(images):
            raise ValueError(f"{name} is empty: {_described(value)}")


def numbered_maps(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Maps:
    """The maps by student, layer and method.

    Args:
        content: The content, checked.
        tensors: The tensors, checked.
    """
    maps: Maps = {s: {layer: {} for layer in own} for s, own in content["layers_with_maps"].items()}
    for i, (student, layer, method) in enumerate(content["numbered_maps"]):
        maps[student][layer][method] = (tensors[f"maps.{i}.0"], tensors[f"maps.{i}.1"])
    return maps


def _fits(value: object, hint: Any) -> bool:
    try:
        check_record(value, hint, "", finite=False)  # a score may be NaN
    except ValueError:
        return False
    return True


def _check_fields(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    if set(values) != set(hints):
        name = sorted(set(values) ^ set(hints))[0]
        raise ValueError(f"{where} has no {name!r}" if name in hints else f"{where} has an unknown {name!r}")
    for name, hint in hints.items():
        if not _fits(values[name], hint):
            wanted = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
            raise ValueError(f"{where}: {name} must be {wanted}, got {reprlib.repr(values[name])}")


def _check_known(names: Iterable[str], known: Iterable[str], where: str, must: bool = True) -> None:
    for name in names:
        if (name in known) != must:
            raise ValueError(f"{where}: {name!r} is {'unknown' if must else 'no name for one'}")


def _check_distinct(names: Iterable[Any], where: str) -> None:
    listed = list(names)
    if len(set(listed)) < len(listed):
        twice = next(name for name in listed if listed.count(name) > 1)
        raise ValueError(f"{where}: {reprlib.repr(twice)} comes twice")


def _is_plain_float(value: Tensor) -> bool:
    return value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _described(value: Tensor) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}"
