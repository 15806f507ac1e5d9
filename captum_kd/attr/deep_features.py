"""Explained layers with the graph behind them: to later layers' distances, and to the scores of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kd.functional import cam
from captum_kd.functional.cam import Distances
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.gradients import forward_with_graph, layer_gradients
from captum_kd.models.layers import describe_layer
from captum_kd.models.targets import class_indices, has_class_scores
from captum_kd.models.tokens import warn_of_channels_last


class LayerSamples(NamedTuple):
    """The explained samples at one layer, and the features that distances are taken to.

    ``reference_mean`` is the reference's channel mean; None where the batch is its own reference.
    """

    activations: Tensor
    features: Tensor
    others: Tensor
    distances: Distances
    reference_mean: Tensor | None


class TracedFeatures(NamedTuple):
    """What explained layers and feature layers gave in one forward pass, with the graph between them.

    Attributes:
        layers: what each explained layer gave.
        features: activations ``(n, c, *spatial)`` of each feature layer, with a graph.
        reshape: what makes activations of what a layer gives.
        output: what the model returned, with a graph.
        role: how messages call the model.
        names: how they call the explained layers.
        means: channel means of the reference at the explained layers; None without a reference.
    """

    layers: list[Any]
    features: list[Tensor]
    reshape: Callable[[Any], Tensor]
    output: Any
    role: str
    names: list[str]
    means: list[Tensor] | None

    def feature_activations(self) -> list[Tensor]:
        """Activations of the feature layers, detached, in single or double precision."""
        return [_detached(value) for value in self.features]

    def weights(
        self, samples: Sequence[LayerSamples], gradients: Sequence[Tensor], channel: bool
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """The objectives' gradient at each explained layer, summed over the feature layers.

        Args:
            samples: Of the feature layers.
            gradients: With respect to their distances.
            channel: Average the gradient over positions (Eq. 5).

        Returns:
            For each explained layer the weights, its activations and the reference's channel mean.

        Raises:
            ValueError: No feature layer depends on an explained layer.
        """
        seeds = [
            cam.activation_gradient(
                gradient, mine.distances.to, mine.features, mine.others, mine.activations
            ).to(feature)
            for gradient, mine, feature in zip(gradients, samples, self.features, strict=True)
        ]
        return self._at_layers(
            layer_gradients(self.layers, self.features, seeds),
            channel,
            "No feature layer depends on {}, which seems to run after them. Name later layers with "
            "feature_layer; feature_layer=None takes the explained layer's own features.",
        )

    def class_weights(self, target: Any, channel: bool) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """The gradient of class scores at each explained layer; as :meth:`weights` returns it.

        Args:
            target: Class index of each sample, see :func:`captum_kd.models.targets.class_indices`. None: the
                model's prediction.
            channel: Average the gradient over positions.

        Raises:
            ValueError: The output is not ``(n, num_classes)`` or does not depend on an explained layer.
        """
        count = len(self.reshape(self.layers[0]))
        if not has_class_scores(self.output) or len(self.output) != count:
            given = (
                tuple(self.output.shape) if isinstance(self.output, Tensor) else type(self.output).__name__
            )
            raise ValueError(
                f"class_evidence needs class scores of shape ({count}, num_classes), but the {self.role} "
                f"returned {given}. Wrap the model so that it returns its class scores, or pass "
                "class_evidence=False."
            )
        alone = f"The class scores of the {self.role} do not depend on {{}}. Pass class_evidence=False."
        if not self.output.requires_grad:
            raise ValueError(alone.format(self.names[0]))
        classes = class_indices(target, self.output, count, self.role)
        seed = F.one_hot(classes.to(self.output.device), self.output.shape[1]).to(self.output)
        gradients = layer_gradients(self.layers, [self.output], [seed], keep_graph=True)
        return self._at_layers(gradients, channel, alone)

    def _at_layers(
        self, gradients: Sequence[Any], channel: bool, otherwise: str
    ) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Weights, activations and means of the explained layers, from gradients with respect to them."""
        result = []
        for i, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True)):
            if gradient is None:
                raise ValueError(otherwise.format(self.names[i]))
            weights = _detached(self.reshape(gradient))
            if channel and weights.dim() > 2:
                weights = weights.flatten(2).mean(-1)
            mean = None if self.means is None else self.means[i]
            result.append((weights, _detached(self.reshape(layer)), mean))
        return result


def trace_features(
    forward_func: Callable[..., Any],
    layers: Sequence[nn.Module],
    feature_layers: Sequence[nn.Module],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any,
    *,
    attribute_to_layer_input: bool,
    reshape_transform: ReshapeTransform | None,
    role: str,
    means: list[Tensor] | None,
) -> TracedFeatures:
    """Run one forward pass that keeps its graph; arguments as of :class:`~captum_kd.UniCAM`."""
    modules = list(dict.fromkeys([*layers, *feature_layers]))
    found, output = forward_with_graph(
        forward_func,
        modules,
        inputs,
        additional_forward_args,
        attribute_to_layer_input=attribute_to_layer_input,
        role=role,
    )
    given = dict(zip(modules, found, strict=True))
    names = [describe_layer(forward_func, layer, role) for layer in layers]

    def reshape(value: Any) -> Tensor:
        return value if reshape_transform is None else reshape_transform(value)

    for layer, value in given.items():
        if reshape_transform is not None:
            continue
        name = describe_layer(forward_func, layer, role)
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} gives {type(value).__name__}, but one floating point tensor is needed for gradients "
                "at it. Pass a reshape_transform that picks it, for instance "
                "reshape_transform=lambda output: output[0]."
            )
        warn_of_channels_last(name, value)
    with torch.inference_mode(False), torch.enable_grad():
        features = [reshape(given[layer]) for layer in feature_layers]
    for layer, value in zip(feature_layers, features, strict=True):
        name = describe_layer(forward_func, layer, role)
        if value.dim() < 2:
            raise ValueError(
                f"{name} gives activations of shape {tuple(value.shape)}, but (N, C, ...) is needed."
            )
        if not torch.isfinite(value).all():
            raise ValueError(
                f"The activations of {name} hold NaN or infinite values. Check the weights and the input "
                "scaling; under float16, run the model in float32 or bfloat16."
            )
    return TracedFeatures([given[layer] for layer in layers], features, reshape, output, role, names, means)


def _detached(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype in (torch.float32, torch.float64) else value.float()
