"""One model of a comparison, with its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import nn

from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.layers import describe_layer

Model = TypeVar("Model", bound=Callable[..., Any])


@dataclass(frozen=True)
class Side(Generic[Model]):
    """A model, its layers, and what messages call it.

    Attributes:
        model: A module, or a function that runs one.
        layers: The layers that are explained or scored, in the order given.
        role: What messages call the model, for instance "student" or "base model".
        reshape_transform: Turns the output of a layer into activations ``(n, c, *spatial)``; None if the
            outputs already are.
        feature_layers: The layers whose features distances are computed from; None: ``layers``.

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

    def feature_names(self) -> list[str]:
        """What messages call the layers whose features distances are computed from."""
        layers = self.layers if self.feature_layers is None else self.feature_layers
        return [describe_layer(self.model, layer, self.role) for layer in layers]

    def only(self, indices: Sequence[int]) -> Side[Model]:
        """Return the same model with some of its layers.

        Args:
            indices: Positions in ``layers``.
        """
        return replace(self, layers=[self.layers[i] for i in indices])
