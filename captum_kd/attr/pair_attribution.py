"""A Captum layer attribution of two models: runs both on samples, and keeps what a reference gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from captum.attr import LayerAttribution
from torch import Tensor, nn

from captum_kd.attr.deep_features import trace_features
from captum_kd.attr.reference import read_reference
from captum_kd.attr.samples import ModelReference, ModelSamples, model_reference, model_samples
from captum_kd.labels import LabelEmbeddings
from captum_kd.models.activations import ReshapeTransform, layer_activations, weights_version
from captum_kd.models.layers import Layers, pair_layers
from captum_kd.models.targets import class_indices, has_class_scores

ROLES = ("student", "base model")
# Whether class labels are needed, used where a model's output or the caller gives them, or ignored.
LabelUse = Literal["needed", "if known", "ignored"]


class PairAttribution(LayerAttribution):
    """Layers of two models, with what distances of their features are taken to.

    :class:`~captum_kd.UniCAM` documents the arguments.

    Args:
        forward_func: The student.
        layer: Its layer or layers.
        base_model: The model that it is compared with.
        base_layer: Layers of that, in the same order, or None for those of the same names.
        label_embeddings: What classes are represented by.
        pool: Grid of average pooling, or None.
        reference: What distances are taken to, or None for the batch itself.
        reshape_transform: Makes activations of what a layer gives.
        device_ids: Under DataParallel.
        feature_layer: Layers that distances are taken between, or None for ``layer``.
        base_feature_layer: Those of the base model.
        label_use: Whether labels are needed.
        traced: Keep the graph from the explained layers to the output.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_model: Callable[..., Any],
        base_layer: Layers | None,
        *,
        label_embeddings: LabelEmbeddings | Tensor | None,
        pool: int | None,
        reference: Any,
        reshape_transform: ReshapeTransform | None,
        device_ids: list[int] | None,
        feature_layer: Layers | None,
        base_feature_layer: Layers | None,
        label_use: LabelUse,
        traced: bool,
    ) -> None:
        for option, model in (("forward_func", forward_func), ("base_model", base_model)):
            if not callable(model):
                raise TypeError(f"{option} must be callable, got {type(model).__name__}.")
        super().__init__(forward_func, layer, device_ids)
        self.base_model = base_model
        self._layers, self._base_layers = pair_layers(forward_func, layer, base_model, base_layer)
        if pool is not None and (not isinstance(pool, int) or pool < 1):
            raise ValueError(f"pool must be None or a grid size of at least 1, got {pool!r}.")
        self._feature_layers: tuple[list[nn.Module], list[nn.Module]] | None = None
        if feature_layer is not None:
            try:
                self._feature_layers = pair_layers(
                    forward_func, feature_layer, base_model, base_feature_layer
                )
            except (TypeError, ValueError) as error:
                raise type(error)(f"feature_layer: {error}") from error
        elif base_feature_layer is not None:
            raise ValueError("base_feature_layer is given, but no feature_layer.")
        self.label_embeddings = label_embeddings
        self.pool = pool
        self.reshape_transform = reshape_transform
        self._label_use = label_use
        self._traced = traced or feature_layer is not None
        self._reference = None if reference is None else read_reference(reference)
        self._reference_cache: tuple[Any, list[ModelReference]] | None = None

    def _samples(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        additional_forward_args: Any,
        layer_input: bool,
    ) -> list[ModelSamples]:
        """The samples in both models, the student's first."""
        references = self._references(additional_forward_args, layer_input)
        samples = []
        for side, reference in enumerate(references):
            traced = None
            if not self._traced:
                activations, classes = self._run(side, inputs, target, additional_forward_args, layer_input)
            else:
                layers = (self._layers, self._base_layers)[side]
                means = None if reference is None else reference.means()
                traced = trace_features(
                    (self.forward_func, self.base_model)[side],
                    layers,
                    layers if self._feature_layers is None else self._feature_layers[side],
                    inputs,
                    additional_forward_args,
                    attribute_to_layer_input=layer_input,
                    reshape_transform=self.reshape_transform,
                    role=ROLES[side],
                    means=means,
                )
                activations = traced.feature_activations()
                classes = self._classes(target, traced.output, len(activations[0]), ROLES[side])
            with torch.autocast(activations[0].device.type, enabled=False):
                found = model_samples(activations, classes, self.label_embeddings, self.pool, reference)
                samples.append(found._replace(traced=traced))
        return samples

    def _references(
        self, additional_forward_args: Any, layer_input: bool
    ) -> list[ModelReference] | list[None]:
        """The reference in both models; computed again only when weights have changed."""
        if self._reference is None:
            return [None, None]
        key = (layer_input, weights_version(self.forward_func), weights_version(self.base_model))
        if self._reference_cache is None or self._reference_cache[0] != key:
            result = []
            for side in range(2):
                runs = [
                    self._run(side, b.inputs, b.target, additional_forward_args, layer_input)
                    for b in self._reference
                ]
                activations, targets = zip(*runs, strict=True)
                count = 0 if self._feature_layers is None else len(self._feature_layers[side])
                with torch.autocast(activations[0][0].device.type, enabled=False):
                    features = [batch[-count:] if count else batch for batch in activations]
                    explained = [batch[:-count] for batch in activations] if count else []
                    result.append(model_reference(features, targets, self.pool, explained))
            self._reference_cache = (key, result)
        return self._reference_cache[1]

    def _run(
        self,
        side: int,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        additional_forward_args: Any,
        layer_input: bool,
    ) -> tuple[list[Tensor], Tensor | None]:
        """One forward pass of one model: activations per layer, and class indices where labels are needed.

        Feature layers, if any, come after the explained ones.
        """
        explained = (self._layers, self._base_layers)[side]
        features = [] if self._feature_layers is None else self._feature_layers[side]
        activations, output = layer_activations(
            (self.forward_func, self.base_model)[side],
            [*explained, *features],
            inputs,
            additional_forward_args,
            attribute_to_layer_input=layer_input,
            reshape_transform=self.reshape_transform,
            device_ids=self.device_ids,
            role=ROLES[side],
        )
        return activations, self._classes(target, output, len(activations[0]), ROLES[side])

    def _classes(self, target: Any, output: Any, count: int, role: str) -> Tensor | None:
        """Class indices where labels are needed or known."""
        known = target is not None or (self._label_use == "if known" and has_class_scores(output))
        if not known and self._label_use != "needed":
            return None
        indices = class_indices(target, output, count, role)  # a bad target is an error in any case
        return None if self._label_use == "ignored" else indices
