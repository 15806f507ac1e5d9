"""The samples that distances are taken to, so that a map does not depend on its batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from captum_kd.functional.distance import merge_same_samples, pairwise_distances
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
    same: Tensor | None = None,
) -> ModelReference:
    """Put the batches of a reference together.

    Args:
        activations: Activations by batch and layer, each of shape ``(batch, c, *spatial)``.
        targets: Class indices ``(batch,)`` by batch, or None.
        pool: Grid of average pooling, or None.
        explained: Activations by batch and explained layer, where these are other layers.
        same: Which samples of the reference are the same, from :func:`same_samples`.
    """
    layers = []
    for batches in zip(*activations, strict=True):
        features = torch.cat([pool_activations(a, pool) for a in batches])
        layers.append(LayerReference(features, sample_distances(features, None, same), channel_mean(batches)))
    known = [t for t in targets if t is not None]
    means = [channel_mean(batches) for batches in zip(*explained, strict=True)]
    return ModelReference(layers, torch.cat(known) if len(known) == len(targets) else None, means)


def sample_distances(features: Tensor, others: Tensor | None, same: Tensor | None) -> Tensor:
    """Distances between samples, zero between those that are the same.

    Args:
        features: Features of samples.
        others: Features of other samples; None: the same ones.
        same: Which are known to be the same, from :func:`same_samples`; None: it is not known.
    """
    distances = merge_same_samples(pairwise_distances(features, others), features, others)
    return distances if same is None else distances.masked_fill(same.to(distances.device), 0.0)


def same_samples(inputs: Sequence[tuple[Tensor, ...]], others: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Find samples that models get twice, whatever the precision that they run in.

    Args:
        inputs: Batches of inputs.
        others: Other batches.

    Returns:
        Whether a sample of ``inputs`` has the very values of one of ``others``, ``(n, m)``.

    Example:
        >>> same_samples([(torch.tensor([[1.0], [2.0]]),)], [(torch.tensor([[2.0]]),)])
        tensor([[False],
                [ True]])
    """
    return torch.cat([torch.cat([_same(a, b) for b in others], dim=1) for a in inputs])


def _same(inputs: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
    same = torch.ones(len(inputs[0]), len(others[0]), dtype=torch.bool, device=inputs[0].device)
    pairs = [(a, b.to(a.device)) for a, b in zip(inputs, others, strict=False)]
    fits = all(
        a.shape[1:] == b.shape[1:] and a.dtype == b.dtype and (len(a), len(b)) == same.shape for a, b in pairs
    )
    if len(inputs) != len(others) or not fits:
        return torch.zeros_like(same)
    for a, b in pairs:
        # A few values of each tell most samples apart; the others are compared as a whole.
        step = max(1, a[:1].numel() // 32)
        some, of_others = (v.reshape(len(v), -1)[:, ::step] for v in (a, b))
        same &= (some[:, None] == of_others).all(dim=-1).to(same.device)
    for i, j in same.nonzero().tolist():
        same[i, j] = all(torch.equal(a[i], b[j]) for a, b in pairs)
    return same


def read_reference(reference: Reference) -> list[ReferenceBatch]:
    """Read and copy a reference set once, so that it stays the same whatever happens to its source.

    A DataLoader may shuffle, and the memory of a batch may be used again for the next.

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
    return ReferenceBatch(
        tuple(value.detach().clone() for value in inputs), None if target is None else target.detach().clone()
    )
