"""What UniCAM needs to know of one model: activations, pooled features and their distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.attr.deep_features import LayerSamples, TracedFeatures
from captum_kd.functional.cam import Distances, channel_mean, pool_activations
from captum_kd.functional.distance import pairwise_distances
from captum_kd.labels import LabelEmbeddings, embedding_rows


class LayerReference(NamedTuple):
    """The reference samples at one layer."""

    features: Tensor
    within: Tensor
    channel_mean: Tensor


class ModelReference(NamedTuple):
    """The reference samples in one model; ``target`` is None where labels are not needed.

    ``explained_means`` are the channel means at explained layers that are not ``layers``.
    """

    layers: list[LayerReference]
    target: Tensor | None
    explained_means: list[Tensor]

    def means(self) -> list[Tensor]:
        """The channel means at the explained layers."""
        return self.explained_means or [layer.channel_mean for layer in self.layers]


class ModelSamples(NamedTuple):
    """The explained samples in one model; ``labels`` is None where labels are not needed.

    ``traced`` connects explained layers to ``layers``; None where they are the same.
    """

    layers: list[LayerSamples]
    labels: Distances | None
    traced: TracedFeatures | None = None


def model_samples(
    activations: Sequence[Tensor],
    target: Tensor | None,
    label_embeddings: LabelEmbeddings | Tensor | None,
    pool: int | None,
    reference: ModelReference | None,
) -> ModelSamples:
    """Distances at every layer and of the labels: among the samples, or to a reference.

    Args:
        activations: Per layer, shape ``(n, c, *spatial)``.
        target: Class indices ``(n,)``, or None.
        label_embeddings: What the classes are represented by, see :func:`captum_kd.labels.embedding_rows`.
        pool: Grid of average pooling, or None.
        reference: From :func:`model_reference`.
    """
    if reference is None:
        layers = [_among_themselves(a, pool) for a in activations]
    else:
        layers = [_to_reference(a, pool, r) for a, r in zip(activations, reference.layers, strict=True)]
    labels = None
    if target is not None and reference is None:
        labels = Distances(pairwise_distances(embedding_rows(label_embeddings, target)), None)
    elif target is not None and reference is not None and reference.target is not None:
        # One look-up for both: one-hot rows of separate look-ups could not be compared.
        both = torch.cat([target, reference.target.to(target)])
        rows, reference_rows = embedding_rows(label_embeddings, both).tensor_split([len(target)])
        labels = Distances(pairwise_distances(rows, reference_rows), pairwise_distances(reference_rows))
    return ModelSamples(layers, labels)


def model_reference(
    activations: Sequence[Sequence[Tensor]],
    targets: Sequence[Tensor | None],
    pool: int | None,
    explained: Sequence[Sequence[Tensor]] = (),
) -> ModelReference:
    """The reference from its batches.

    Args:
        activations: Per batch and layer, shape ``(batch, c, *spatial)``.
        targets: Per batch, class indices ``(batch,)``, or None.
        pool: Grid of average pooling, or None.
        explained: Per batch and explained layer, activations, where these are other layers.
    """
    layers = []
    for batches in zip(*activations, strict=True):
        features = torch.cat([pool_activations(a, pool) for a in batches])
        layers.append(LayerReference(features, pairwise_distances(features), channel_mean(batches)))
    known = [t for t in targets if t is not None]
    means = [channel_mean(batches) for batches in zip(*explained, strict=True)]
    return ModelReference(layers, torch.cat(known) if len(known) == len(targets) else None, means)


def _among_themselves(activations: Tensor, pool: int | None) -> LayerSamples:
    features = pool_activations(activations, pool)
    distances = Distances(pairwise_distances(features), None)
    return LayerSamples(activations, features, features, distances, None)


def _to_reference(activations: Tensor, pool: int | None, reference: LayerReference) -> LayerSamples:
    features = pool_activations(activations, pool)
    if features.shape[1:] != reference.features.shape[1:]:
        raise ValueError(
            f"The reference has features of shape {tuple(reference.features.shape[1:])} per sample, the "
            f"inputs of {tuple(features.shape[1:])}. Use inputs of one size for both, or set pool."
        )
    distances = Distances(pairwise_distances(features, reference.features), reference.within)
    return LayerSamples(activations, features, reference.features, distances, reference.channel_mean)
