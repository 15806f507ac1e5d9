"""The arguments of ``compare``: students, layers, devices and options, checked before any data are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from captum_kd.comparison.features import BASE, TEACHER
from captum_kd.comparison.settings import Settings
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.layers import EMPTY_NAME, Layers, check_membership, find_layer, layer_name
from captum_kd.models.side import Side


def named_students(student: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The students by name; a single one is called "student".

    Raises:
        TypeError: Something else was given.
        ValueError: There is no student, or a name is not a string or is taken.
    """
    # nn.ModuleDict is a module, and not a Mapping.
    students = {"student": student} if isinstance(student, nn.Module) else student
    if not isinstance(students, Mapping):
        raise TypeError(
            f"student must be a module or a mapping of names to modules, got {type(student).__name__}."
        )
    if not students:
        raise ValueError("student is an empty mapping; give at least one student.")
    for name in students:
        if not isinstance(name, str) or name in (BASE, TEACHER):
            raise ValueError(
                f"A student's name must be a string other than 'base' and 'teacher', got {name!r}."
            )
    return dict(students)


def named_sides(
    students: Mapping[str, nn.Module],
    base: nn.Module,
    teacher: nn.Module | None,
    layers: Layers,
    base_layers: Layers | None,
    teacher_layers: Layers | None,
    reshape_transform: ReshapeTransform | None,
) -> tuple[tuple[str, ...], dict[str, Side[nn.Module]]]:
    """Pair up the layers of all models.

    Args:
        students: The students by name.
        base: The base model.
        teacher: The teacher, or None.
        layers: The layers of the students.
        base_layers: The layers of the base model. None: those of the same names.
        teacher_layers: The layers of the teacher. None: those of the same names.
        reshape_transform: Turns what the layers give into ``(n, c, h, w)``.

    Returns:
        The names of the layers in the students; and each model with its layers: the students by name, "base",
        and "teacher" if there is one.

    Raises:
        TypeError: A model or a layer is something else.
        ValueError: A layer does not exist, or the layers do not pair up.
    """
    if teacher is None and teacher_layers is not None:
        raise ValueError("teacher_layers is given, but no teacher.")
    everyone = {**students, BASE: base, **({} if teacher is None else {TEACHER: teacher})}
    for name, model in everyone.items():
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name} must be a module, got {type(model).__name__}.")
    names = _layer_names(next(iter(students.values())), layers, "layers", "student")
    sides = {}
    for name, model in everyone.items():
        role = {BASE: "base model", TEACHER: "teacher"}.get(name, "student" if len(students) == 1 else name)
        choice = {BASE: base_layers, TEACHER: teacher_layers}.get(name)
        option = f"{name}_layers" if name in (BASE, TEACHER) else "layers"
        own = names if choice is None else _layer_names(model, choice, option, role)
        if len(own) != len(names):
            raise ValueError(f"{option} must pair up with layers: {len(own)} for {len(names)} layers.")
        try:
            sides[name] = Side(model, [find_layer(model, layer) for layer in own], role, reshape_transform)
        except ValueError as error:
            raise ValueError(f"{option}, {role}: {error}") from None
    return tuple(names), sides


def common_device(models: Mapping[str, Side[nn.Module]], device: torch.device | str | None) -> torch.device:
    """The device of all models.

    Args:
        models: The models.
        device: The device that the user wants. None: the device of the base model.

    Raises:
        ValueError: A model is on another device.
    """
    places = {
        name: parameter.device
        for name, side in models.items()
        if (parameter := next(side.model.parameters(), None)) is not None
    }
    wanted = places.get(BASE, torch.device("cpu")) if device is None else torch.device(device)
    for name, place in places.items():
        if place.type != wanted.type or (wanted.index is not None and place.index != wanted.index):
            raise ValueError(
                f"{name} is on {place}, but images are moved to {wanted}. Models are not moved: call "
                f"model.to({str(wanted)!r}) first, or set device."
            )
    return wanted


def check_options(settings: Settings, shown: int) -> None:
    """Find before the data are read what would otherwise be an error only afterwards.

    Args:
        settings: The settings of the comparison.
        shown: The number of images that maps are made of.

    Raises:
        ValueError: An option is out of range.
    """
    for option, value, least in (
        ("shown", shown, 0),
        ("pool", settings.pool, 1),
        ("permutations", settings.permutations, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{option} must be a whole number of at least {least}, got {value!r}.")
    if not 0 < settings.confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {settings.confidence}.")
    share = settings.kept_share
    if share is not None and not 0 < share < 1:
        raise ValueError(f"kept_share must be None or between 0 and 1, for instance 0.2; got {share}.")


def _layer_names(model: nn.Module, layers: Layers, option: str, role: str) -> list[str]:
    listed = [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
    names = []
    for layer in listed:
        if isinstance(layer, nn.Module):
            check_membership(model, [layer], option, role)
            layer = layer_name(model, layer) or ""
        elif layer == "":
            raise ValueError(EMPTY_NAME.format(option))
        if not isinstance(layer, str):
            raise TypeError(f"{option} must be names or modules, got {type(layer).__name__}.")
        names.append(layer)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{option} must name at least one layer and none twice, got {names}.")
    return names
