"""The samples that distances are taken to, so that a map does not depend on its batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from captum_kd.functional.distance import pairwise_distances
from captum_kd.functional.pooling import channel_mean, pool_activations

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
# Inputs; a pair of inputs and target; or batches of either, such as a DataLoader gives.
Reference: TypeAlias = Tensor | tuple[Inputs, Any] | Iterable[Tensor | tuple[Inputs, Any] | list[Any]]


class ReferenceBatch(NamedTuple):
    """Model inputs and, where given, their targets."""

    inputs: tuple[Tensor, ...]
    target: Tensor | None


class LayerReference(NamedTuple):
    """The reference samples at one layer.

    Attributes:
        features: Pooled activations ``(m, c, *grid)``.
        within: Distances between them, ``(m, m)``.
        channel_mean: Mean of each channel over samples and positions, ``(c,)``.
    """

    features: Tensor
    within: Tensor
    channel_mean: Tensor


class ModelReference(NamedTuple):
    """The reference samples in one model.

    Attributes:
        layers: The samples at each layer that distances are taken at.
        target: Class indices ``(m,)``; None where labels are not needed.
        explained_means: Channel means at the explained layers, where these are other layers.
    """

    layers: list[LayerReference]
    target: Tensor | None
    explained_means: list[Tensor]

    def means(self) -> list[Tensor]:
        """The channel means at the explained layers."""
        return self.explained_means or [layer.channel_mean for layer in self.layers]


def model_reference(
    activations: Sequence[Sequence[Tensor]],
    targets: Sequence[Tensor | None],
    pool: int | None,
    explained: Sequence[Sequence[Tensor]] = (),
) -> ModelReference:
    """Put the batches of a reference together.

    Args:
        activations: Activations by batch and layer, each of shape ``(batch, c, *spatial)``.
        targets: Class indices ``(batch,)`` by batch, or None.
        pool: Grid of average pooling, or None.
        explained: Activations by batch and explained layer, where these are other layers.
    """
    layers = []
    for batches in zip(*activations, strict=True):
        features = torch.cat([pool_activations(a, pool) for a in batches])
        layers.append(LayerReference(features, pairwise_distances(features), channel_mean(batches)))
    known = [t for t in targets if t is not None]
    means = [channel_mean(batches) for batches in zip(*explained, strict=True)]
    return ModelReference(layers, torch.cat(known) if len(known) == len(targets) else None, means)


def read_reference(reference: Reference) -> list[ReferenceBatch]:
    """Read a reference set once, so that it stays the same whatever a DataLoader shuffles.

    Args:
        reference: A tensor of inputs; a pair ``(inputs, target)``, where ``inputs`` is a tensor or a tuple of
            tensors; or an iterable of either (a DataLoader), one item a batch.

    Returns:
        The batches. All of them have targets, or none has.

    Raises:
        TypeError: Something else was given.
        ValueError: Fewer than 3 samples, a target of another length than its inputs, targets in some
            batches only, or batches of different dimensions.

    Example:
        >>> import torch
        >>> batches = read_reference([(torch.zeros(2, 3), torch.tensor([0, 1]))] * 4)
        >>> len(batches), batches[0].target
        (4, tensor([0, 1]))
    """
    if isinstance(reference, (Tensor, tuple)):
        reference = [reference]
    if not isinstance(reference, Iterable):
        raise TypeError(
            "reference must be a tensor of inputs, a pair (inputs, target), or an iterable of those such as "
            f"a DataLoader; got {type(reference).__name__}."
        )
    batches = [_read_batch(item) for item in reference]
    count = sum(len(batch.inputs[0]) for batch in batches)
    if count < 3:
        raise ValueError(
            f"reference must have at least 3 samples (with the explained one, 4 are needed), got {count}."
        )
    if len({batch.target is None for batch in batches}) > 1:
        raise ValueError("reference must have targets in every batch or in none.")
    if len({tuple(value.dim() for value in batch.inputs) for batch in batches}) > 1:
        raise ValueError(
            "reference batches have inputs of different dimensions. Is it one batch with its target? That is "
            "a tuple: (inputs, target), not a list."
        )
    return batches


def _read_batch(item: Any) -> ReferenceBatch:
    target = None
    if isinstance(item, (tuple, list)):
        if len(item) != 2:
            raise TypeError(
                f"A reference batch must be inputs or a pair (inputs, target), got {len(item)} items. "
                "Several inputs go into a tuple: ((first, second), target)."
            )
        item, target = item
    inputs = item if isinstance(item, tuple) else (item,)
    if not inputs or not all(isinstance(value, Tensor) and value.dim() for value in inputs):
        raise TypeError(
            "Reference inputs must be a tensor or a tuple of tensors, got "
            f"{', '.join(type(value).__name__ for value in inputs)}."
        )
    if target is not None:
        target = torch.as_tensor(target)
        if target.dim() != 1 or len(target) != len(inputs[0]):
            raise ValueError(
                f"A reference target must have one class index per sample: got shape {tuple(target.shape)} "
                f"for {len(inputs[0])} samples."
            )
    return ReferenceBatch(inputs, target)
