"""One model of a comparison, with the layers that are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import nn

from captum_kd.models.activations import ReshapeTransform

Model = TypeVar("Model", bound=Callable[..., Any])


@dataclass(frozen=True)
class Side(Generic[Model]):
    """A model, its layers, and what messages call it.

    Attributes:
        model: A module, or a function that runs one.
        layers: The layers that are looked at, first to last.
        role: What messages call the model, for instance "student" or "base model".
        reshape_transform: Turns what a layer gives into activations ``(n, c, *spatial)``; None where layers
            give these themselves.
        feature_layers: Layers that distances are taken between; None where these are ``layers``.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> Side(model, list(model), "student").only([1]).layers
        [ReLU()]
    """

    model: Model
    layers: list[nn.Module]
    role: str
    reshape_transform: ReshapeTransform | None = None
    feature_layers: list[nn.Module] | None = None

    def only(self, indices: Sequence[int]) -> Side[Model]:
        """The same model with some of its layers."""
        return replace(self, layers=[self.layers[i] for i in indices])
