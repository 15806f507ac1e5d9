"""What UniCAM needs to know of the explained samples in one model: activations, features and distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from captum_kd.attr.reference import LayerReference, ModelReference, sample_distances
from captum_kd.functional.distance import pairwise_distances
from captum_kd.functional.objectives import (
    Distances,
    Objective,
    ObjectiveNotFiniteError,
    distances_gradient,
)
from captum_kd.functional.pooling import pool_activations
from captum_kd.labels import LabelEmbeddings, embedding_rows


class LayerSamples(NamedTuple):
    """The explained samples at one layer.

    Attributes:
        activations: Shape ``(n, c, *spatial)``.
        features: The activations, pooled: ``(n, c, *grid)``.
        others: Features of the samples that distances are taken to, ``(m, c, *grid)``.
        distances: Distances between ``features`` and ``others``.
        reference_mean: The channel mean of the reference; None where the batch is its own reference.
    """

    activations: Tensor
    features: Tensor
    others: Tensor
    distances: Distances
    reference_mean: Tensor | None


class ModelSamples(NamedTuple):
    """The explained samples in one model.

    Attributes:
        layers: The samples at each layer.
        labels: Distances of their labels; None where labels are not needed.
        names: What messages call the layers.
    """

    layers: list[LayerSamples]
    labels: Distances | None
    names: Sequence[str]


def model_samples(
    activations: Sequence[Tensor],
    target: Tensor | None,
    label_embeddings: LabelEmbeddings | Tensor | None,
    pool: int | None,
    reference: ModelReference | None,
    same: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> ModelSamples:
    """Take the distances at every layer and of the labels: between the samples, or to a reference.

    Args:
        activations: Activations ``(n, c, *spatial)`` of each layer.
        target: Class indices ``(n,)``, or None.
        label_embeddings: What represents the classes, see :func:`captum_kd.labels.embedding_rows`.
        pool: Grid of average pooling, or None.
        reference: From :func:`model_reference`.
        same: From :func:`captum_kd.attr.reference.same_samples`: which samples are known to be those that
            distances are taken to.
        names: What messages call the layers; None: their numbers.
    """
    if reference is None:
        layers = [_among_themselves(a, pool, same) for a in activations]
    else:
        layers = [_to_reference(a, pool, r, same) for a, r in zip(activations, reference.layers, strict=True)]
    labels = None
    if target is not None and reference is None:
        labels = Distances(pairwise_distances(embedding_rows(label_embeddings, target)), None)
    elif target is not None and reference is not None and reference.target is not None:
        # One look-up for both: one-hot rows of separate look-ups could not be compared.
        both = torch.cat([target, reference.target.to(target)])
        rows, reference_rows = embedding_rows(label_embeddings, both).tensor_split([len(target)])
        labels = Distances(pairwise_distances(rows, reference_rows), pairwise_distances(reference_rows))
    return ModelSamples(layers, labels, names or [f"layer {i}" for i in range(len(layers))])


def objective_gradients(objective: Objective, explained: ModelSamples, other: ModelSamples) -> list[Tensor]:
    """The gradient of an objective with respect to the explained model's distances, layer by layer.

    Args:
        objective: See :mod:`captum_kd.functional.objectives`.
        explained: The samples in the explained model.
        other: The samples in the other model.

    Returns:
        Gradients of the shape of each layer's ``distances.to``.

    Raises:
        ValueError: The objective or its gradient is NaN or infinite.
    """
    gradients = []
    for mine, theirs, name in zip(explained.layers, other.layers, explained.names, strict=True):
        to = mine.distances.to
        labels = None if explained.labels is None else explained.labels.like(to)
        try:
            gradients.append(distances_gradient(objective, mine.distances, theirs.distances.like(to), labels))
        except ObjectiveNotFiniteError as error:
            raise ValueError(
                f"{error} at {name}. It must be finite for all distances, also where they are zero: on the "
                "diagonal, and between equal samples. Avoid roots, logarithms and ratios of zero in it."
            ) from error
    return gradients


def _among_themselves(activations: Tensor, pool: int | None, same: Tensor | None) -> LayerSamples:
    features = pool_activations(activations, pool)
    distances = Distances(sample_distances(features, None, same), None)
    return LayerSamples(activations, features, features, distances, None)


def _to_reference(
    activations: Tensor, pool: int | None, reference: LayerReference, same: Tensor | None
) -> LayerSamples:
    features = pool_activations(activations, pool)
    if features.shape[1:] != reference.features.shape[1:]:
        raise ValueError(
            f"The reference has features of shape {tuple(reference.features.shape[1:])} per sample, the "
            f"inputs of {tuple(features.shape[1:])}. Use inputs of one size for both, or set pool."
        )
    distances = Distances(sample_distances(features, reference.features, same), reference.within)
    return LayerSamples(activations, features, reference.features, distances, reference.channel_mean)
