"""Whether a ``reshape_transform`` may be applied to gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.tokens import tokens_to_image

_LARGER = 64  # a power of two, so that nothing is rounded


def check_linear(transform: ReshapeTransform | None, value: Any, gradient: Any, label: str) -> None:
    """Check that a transform is linear, on the values that it is applied to.

    A transform that moves, selects, averages or scales values does the same to activations and to gradients.
    Any other one, such as ReLU, an offset or a normalisation, does not.

    Args:
        transform: The transform, or None.
        value: What a layer gave, or a map in its form.
        gradient: A gradient or another map, in the same form.
        label: What messages call the layer.

    Raises:
        ValueError: The transform is not linear.

    Example:
        >>> check_linear(lambda v: v.relu(), torch.ones(1, 2), torch.tensor([[1.0, -1.0]]), "The layer")
        Traceback (most recent call last):
        ValueError: The reshape_transform is not linear for what The layer gives, ...
    """
    if transform is None or transform is tokens_to_image:
        return
    values, form = tree_flatten(value)
    gradients, _ = tree_flatten(gradient)
    size, gradient_size = _largest(values), _largest(gradients)
    if size == 0 or gradient_size == 0:
        return
    # Of the size of the values, so that sums lose no digits of either.
    scale = size / gradient_size
    most = min(torch.finfo(v.dtype).max for v in values if _is_floating(v))
    larger = _LARGER if size * _LARGER < most else 1
    given: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "value": lambda v, g: v,
        "gradient": lambda v, g: g,
        "scaled": lambda v, g: g * scale,
        "opposite": lambda v, g: -g * scale,
        "sum": lambda v, g: v + g * scale,
        "larger": lambda v, g: v * larger,
    }
    of = {
        name: transform(
            tree_unflatten(
                [make(v, g) if _is_floating(v) else v for v, g in zip(values, gradients, strict=True)], form
            )
        )
        for name, make in given.items()
    }
    kinds = [v.dtype for v in (*values, of["value"]) if _is_floating(v)]
    eps = max(torch.finfo(kind).eps for kind in kinds)
    largest = max(of["value"].abs().max(), of["scaled"].abs().max())
    off = (
        of["sum"] - of["value"] - of["scaled"],
        of["opposite"] + of["scaled"],
        of["gradient"] * scale - of["scaled"],
        of["larger"] / larger - of["value"],
    )
    if any(not (error.abs() <= eps**0.5 * largest).all() for error in off):
        raise ValueError(
            f"The reshape_transform is not linear for what {label} gives, and it is applied to gradients as "
            "well, so it may only move, select, average or scale values. Do the rest in the model: give it a "
            "module of its own and explain that. Or use UniCAM, or DeepUniCAM with feature_layer=None and "
            "class_evidence=False, which need no gradient at the layer."
        )


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _largest(leaves: list[Any]) -> float:
    return max((float(v.detach().abs().max()) for v in leaves if _is_floating(v) and v.numel()), default=0.0)
