"""Explained layers with the graph behind them, to the features of later layers and to the class scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_kd.attr.samples import LayerSamples
from captum_kd.attr.transforms import check_linear
from captum_kd.functional import cam
from captum_kd.models.activations import ReshapeTransform, check_samples
from captum_kd.models.gradients import forward_with_graph, layer_gradients
from captum_kd.models.hooks import sample_count, type_of
from captum_kd.models.layers import describe_layer
from captum_kd.models.side import Side
from captum_kd.models.targets import (
    Target,
    check_finite_scores,
    class_indices,
    class_score_gradient,
    described_output,
    has_class_scores,
)
from captum_kd.models.tokens import warn_of_channels_last


class AtLayer(NamedTuple):
    """What a map of one layer is made of.

    Attributes:
        weights: Gradient of a scalar at each position of the layer, ``(n, c, *spatial)``.
        activations: Shape ``(n, c, *spatial)``.
        reference_mean: The reference's channel mean, ``(c,)``; None without a reference.
    """

    weights: Tensor
    activations: Tensor
    reference_mean: Tensor | None


class DeepFeatures(NamedTuple):
    """What explained layers and feature layers gave in one forward pass, with the graph between them.

    Attributes:
        layers: What each explained layer gave.
        features: Activations ``(n, c, *spatial)`` of each feature layer, with a graph.
        reshape: Turns what a layer gives into activations.
        output: What the model returned, with a graph.
        role: What messages call the model.
        names: What messages call the explained layers.
        means: Channel means of the reference at the explained layers; None without a reference.
        transform: The user's part of ``reshape``, or None.
    """

    layers: list[Any]
    features: list[Tensor]
    reshape: Callable[[Any], Tensor]
    output: Any
    role: str
    names: list[str]
    means: list[Tensor] | None
    transform: ReshapeTransform | None = None

    def activations(self) -> list[Tensor]:
        """Activations of the feature layers, detached, in single or double precision."""
        return [_detached(value) for value in self.features]

    def objective_weights(
        self, samples: Sequence[LayerSamples], gradients: Sequence[Tensor]
    ) -> list[AtLayer]:
        """The objective's gradient at each explained layer, summed over the feature layers.

        Args:
            samples: The samples at the feature layers.
            gradients: The objective's gradient with respect to their distances.

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
            "No feature layer depends on {}, which seems to run after them. Name later layers with "
            "feature_layer; feature_layer=None takes the explained layer's own features.",
        )

    def class_weights(self, target: Target) -> list[AtLayer]:
        """The gradient of class scores at each explained layer.

        Of a model with one output ``z`` these are ``[-z/2, z/2]``.

        Args:
            target: Class index of each sample, see :func:`captum_kd.models.targets.class_indices`; None: the
                model's prediction.

        Raises:
            ValueError: The output is not ``(n, num_classes)``, not finite or does not depend on an explained
                layer; or its gradient there is not finite.
        """
        count = len(self.reshape(self.layers[0]))
        if not has_class_scores(self.output) or len(self.output) != count:
            given = described_output(self.output)
            raise ValueError(
                f"class_evidence needs class scores of shape ({count}, num_classes), but the {self.role} "
                f"returned {given}. Wrap the model so that it returns its class scores, or pass "
                "class_evidence=False."
            )
        check_finite_scores(self.output, self.role)
        alone = f"The class scores of the {self.role} do not depend on {{}}. Pass class_evidence=False."
        if not self.output.requires_grad:
            raise ValueError(alone.format(self.names[0]))
        classes = class_indices(target, self.output, count, self.role)
        seed = class_score_gradient(classes, self.output)
        gradients = layer_gradients(self.layers, [self.output], [seed], keep_graph=True)
        at_layers = self._at_layers(gradients, alone)
        for name, one in zip(self.names, at_layers, strict=True):
            if not torch.isfinite(one.weights).all():
                raise ValueError(
                    f"The gradient of the class scores of the {self.role} holds NaN or infinite values at "
                    f"{name}. Look for operations without a finite gradient behind it (a square root or norm "
                    "of 0, a division by 0), or pass class_evidence=False."
                )
        return at_layers

    def _at_layers(self, gradients: Sequence[Any], otherwise: str) -> list[AtLayer]:
        """Weights, activations and means of the explained layers, from gradients with respect to them."""
        result = []
        for i, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True)):
            if gradient is None:
                raise ValueError(otherwise.format(self.names[i]))
            mean = None if self.means is None else self.means[i]
            with torch.no_grad():
                check_linear(self.transform, layer, gradient, self.names[i])
            weights, activations = (_detached(self.reshape(value)) for value in (gradient, layer))
            result.append(AtLayer(weights, activations, mean))
        return result


def deep_features(
    side: Side[Callable[..., Any]],
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: Any,
    *,
    attribute_to_layer_input: bool,
    means: list[Tensor] | None,
) -> DeepFeatures:
    """Run one forward pass that keeps its graph.

    Args:
        side: The model with its explained layers and its feature layers (None: the explained ones).
        inputs: A tensor or a tuple of tensors.
        additional_forward_args: Passed to the model after the inputs.
        attribute_to_layer_input: Explain the layers' inputs instead of their outputs.
        means: Channel means of the reference at the explained layers, or None.

    Raises:
        TypeError: A layer gives something else than one floating point tensor.
        ValueError: A feature layer gives activations that are not ``(n, c, ...)`` or not finite; or a layer
            gives activations that differ from the inputs in the number of samples.
    """
    transform = side.reshape_transform
    feature_layers = side.layers if side.feature_layers is None else side.feature_layers
    modules = list(dict.fromkeys([*side.layers, *feature_layers]))
    found, output = forward_with_graph(
        side.model,
        modules,
        inputs,
        additional_forward_args,
        attribute_to_layer_input=attribute_to_layer_input,
        role=side.role,
    )
    given = dict(zip(modules, found, strict=True))
    count = sample_count(inputs if isinstance(inputs, tuple) else (inputs,))
    names = {layer: describe_layer(side.model, layer, side.role) for layer in modules}

    def reshape(value: Any) -> Tensor:
        result: Tensor = value if transform is None else transform(value)
        return result

    if transform is None:
        for layer, value in given.items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{names[layer]} gives {type(value).__name__}, but one floating point tensor is needed "
                    "for gradients at it. Pass a reshape_transform that picks it, for instance "
                    "reshape_transform=lambda output: output[0]."
                )
            warn_of_channels_last(names[layer], value)
    with torch.inference_mode(False), torch.enable_grad():
        features = [reshape(given[layer]) for layer in feature_layers]
    reshaped = [reshape(given[layer]) for layer in side.layers]
    for layer, value in zip([*side.layers, *feature_layers], [*reshaped, *features], strict=True):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{names[layer]} gives {type_of(value)}, but one tensor is needed. Pass a reshape_transform "
                "that picks it, for instance reshape_transform=lambda output: output[0]."
            )
    for layer, value in zip(side.layers, reshaped, strict=True):
        check_samples(names[layer], _detached(value), count)
    for layer, value in zip(feature_layers, features, strict=True):
        if side.feature_layers is not None and not value.requires_grad:
            raise ValueError(
                f"The reshape_transform detaches what {names[layer]} gives, so no gradient can be traced "
                "back through it. Leave out .detach(), .data, .numpy() and torch.no_grad() in it."
            )
        if value.dim() < 2:
            raise ValueError(
                f"{names[layer]} gives activations of shape {tuple(value.shape)}, but (N, C, ...) is needed."
            )
        check_samples(names[layer], value, count)
        if not torch.isfinite(value).all():
            raise ValueError(
                f"The activations of {names[layer]} hold NaN or infinite values. Check the weights and the "
                "input scaling; under float16, run the model in float32 or bfloat16."
            )
    explained = [given[layer] for layer in side.layers]
    return DeepFeatures(
        explained,
        features,
        reshape,
        output,
        side.role,
        [names[layer] for layer in side.layers],
        means,
        transform,
    )


def _detached(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype in (torch.float32, torch.float64) else value.float()
