"""One pass over the data: small features of every model are kept, activations and images are not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from captum_kd.attr.reference import read_reference
from captum_kd.functional.pooling import pool_activations
from captum_kd.models.activations import layer_activations
from captum_kd.models.layers import describe_layer
from captum_kd.models.side import Side
from captum_kd.models.targets import class_indices, has_class_scores

SET_ASIDE = 64  # samples for the reference; of less than four times as many, a quarter
SMALLEST_REFERENCE = 3
SMALLEST_SCORED = 8


class Batch(NamedTuple):
    """Images ``(n, c, h, w)`` and the class index of each."""

    images: Tensor
    target: Tensor


class BatchFeatures(NamedTuple):
    """What one batch gave: each model's features and dimensions per layer, and hits, extras."""

    features: dict[str, list[Tensor]]
    dimensions: dict[str, list[int]]
    right: dict[str, Tensor]
    extra: dict[Any, Tensor]


class Stream(NamedTuple):
    """What one pass kept.

    Attributes:
        features: for each model a tensor ``(n, d)`` for each layer.
        dimensions: for each model the number of dimensions of each layer's activations.
        accuracy: of each model; None where the output is not ``(n, num_classes)``.
        target: class indices, ``(n,)``.
        shown: the first samples.
        extra: what the callback gave, concatenated.
    """

    features: dict[str, list[Tensor]]
    dimensions: dict[str, list[int]]
    accuracy: dict[str, float | None]
    target: Tensor
    shown: Batch
    extra: dict[Any, Tensor]


def read_batches(data: Any, device: torch.device, progress: bool = False) -> Iterator[Batch]:
    """Check each batch of ``data`` and move it to ``device``; ``progress`` shows a bar.

    Raises:
        TypeError: ``data`` cannot be iterated over, or a target is not of integers.
        ValueError: A batch is not ``(images, target)``, or images are not all of one size.
    """
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(
            "data must be a DataLoader, or another iterable of batches (images, target); got "
            f"{type(data).__name__}. Tensors go into a list, data=[(images, target)]; a Dataset into a "
            "DataLoader."
        )
    size = None
    for item in tqdm(data, "images", unit="batch", leave=False, disable=not progress):
        batch = _read_batch(item, device)
        size = size or batch.images.shape[1:]
        if batch.images.shape[1:] != size:
            raise ValueError(
                f"data must have images of one size, got {tuple(size)} and {tuple(batch.images.shape[1:])}."
            )
        if len(batch.images):
            yield batch


def set_aside(batches: Iterable[Batch]) -> tuple[list[Batch], Iterator[Batch]]:
    """Split off the first samples as the reference: 64, or a quarter where there are fewer than 256.

    Args:
        batches: The data. At most 256 samples and a batch are held in memory.

    Returns:
        The reference, and the other batches.

    Raises:
        ValueError: Too few samples for a reference and for scores.

    Example:
        >>> batches = [Batch(torch.zeros(20, 3, 4, 4), torch.arange(20)) for _ in range(2)]
        >>> reference, others = set_aside(batches)
        >>> [len(b.target) for b in reference], [len(b.target) for b in others]
        ([10], [10, 20])
    """
    remaining, held, count = iter(batches), [], 0
    for batch in remaining:
        held.append(batch)
        count += len(batch.target)
        if count >= 4 * SET_ASIDE:
            break
    size = min(SET_ASIDE, max(SMALLEST_REFERENCE, count // 4))
    if count and count - size < SMALLEST_SCORED:
        raise ValueError(
            f"data has {count} images, but at least {SMALLEST_REFERENCE + SMALLEST_SCORED} are needed: "
            f"{SMALLEST_SCORED} to score, and others as the reference of the maps. Pass more, or a reference."
        )
    reference, others = [], []
    for batch in held:
        taken = min(size, len(batch.target))
        size -= taken
        if taken:
            reference.append(Batch(*(value[:taken] for value in batch)))
        if taken < len(batch.target):
            others.append(Batch(*(value[taken:] for value in batch)))
    return reference, itertools.chain(others, remaining)


def given_reference(
    reference: Any, data: Any, batches: Iterator[Batch], device: torch.device
) -> tuple[list[Any], Iterator[Batch]]:
    """The user's reference, on the device, where it is not plainly the data themselves.

    Returns:
        The reference as :class:`~captum_kd.UniCAM` takes it, and all of the data's batches.

    Raises:
        ValueError: ``reference`` is ``data``, begins with the same images, or has several inputs a sample.
    """
    shared = (
        "reference and data hold the same images. Maps need a reference that is disjoint from what is "
        "scored: split the data set first, or pass reference=None to set a part of data aside."
    )
    if reference is data:
        raise ValueError(shared)
    read = read_reference(reference)
    if any(len(batch.inputs) != 1 for batch in read):
        raise ValueError("reference must hold one images tensor per batch, got several inputs.")
    moved = [(b.inputs[0].to(device), None if b.target is None else b.target.to(device)) for b in read]
    first = next(batches, None)
    if first is not None:
        count = min(len(first.images), len(moved[0][0]))
        if torch.equal(first.images[:count], moved[0][0][:count]):
            raise ValueError(shared)
        batches = itertools.chain([first], batches)
    return [images if target is None else (images, target) for images, target in moved], batches


def layer_features(
    explained: Side[nn.Module], images: Tensor, pool: int
) -> tuple[list[Tensor], list[int], Any]:
    """One forward: pooled features ``(n, d)`` of each layer, its activations' dimensions, and the output."""
    model, role = explained.model, explained.role
    found = layer_activations(
        model, explained.layers, images, role=role, reshape_transform=explained.reshape_transform
    )
    for layer, activations in zip(explained.layers, found.activations, strict=True):
        if activations.dim() not in (2, 4):
            raise ValueError(
                f"{describe_layer(model, layer, role)} gives activations of shape "
                f"{tuple(activations.shape)}, but (n, c) or (n, c, h, w) is needed. For "
                "tokens pass reshape_transform=captum_kd.models.tokens.tokens_to_image, or one of your own."
            )
    features = [pool_activations(a, pool).flatten(1) for a in found.activations]
    return features, [a.dim() for a in found.activations], found.output


def compute_batch(
    models: Mapping[str, Side[nn.Module]],
    batch: Batch,
    pool: int,
    extra: Callable[[Tensor], dict[Any, Tensor]] | None = None,
) -> BatchFeatures:
    """Run every model once on a batch; arguments as of :func:`stream`."""
    features, dimensions, right = {}, {}, {}
    for name, explained in models.items():
        features[name], dimensions[name], output = layer_features(explained, batch.images, pool)
        target = class_indices(batch.target, output, len(batch.target), explained.role)
        if has_class_scores(output):
            right[name] = output.argmax(dim=1) == target
    return BatchFeatures(features, dimensions, right, {} if extra is None else extra(batch.images))


def stream(
    models: Mapping[str, Side[nn.Module]],
    batches: Iterable[Batch],
    *,
    pool: int,
    shown: int,
    check: Callable[[Tensor], Any],
    extra: Callable[[Tensor], dict[Any, Tensor]] | None = None,
    remember: Callable[[int, Batch, Callable[[], BatchFeatures]], BatchFeatures] | None = None,
) -> Stream:
    """Run every model once on every batch and keep what scores need.

    Args:
        models: The models by name.
        batches: Images and classes, on the models' device.
        pool: Features are activations averaged on a grid of this size.
        shown: How many of the first samples are kept as images.
        check: Called with each batch's target; raises if it is not valid.
        extra: Called with each batch's images; gives further tensors with a row per sample.
        remember: Called with the number of a batch, the batch, and what computes its features.

    Raises:
        ValueError: No images, too few for scores, or all of one class; a target that no output stands for.
    """
    found: list[BatchFeatures] = []
    targets: list[Tensor] = []
    images: list[Tensor] = []
    for index, batch in enumerate(batches):
        check(batch.target)
        compute = partial(compute_batch, models, batch, pool, extra)
        found.append(compute() if remember is None else remember(index, batch, compute))
        missing = shown - sum(map(len, images))
        if missing > 0 or not images:
            images.append(batch.images[: max(missing, 0)].clone())
        targets.append(batch.target)
    if not targets:
        raise ValueError("data gave no images to score. Check that the folder or DataLoader is not empty.")
    target = torch.cat(targets)
    _check_scorable(target)
    scored = [name for name in models if all(name in batch.right for batch in found)]
    right = {name: torch.cat([batch.right[name] for batch in found]) for name in scored}
    return Stream(
        {
            name: [torch.cat(parts) for parts in zip(*(b.features[name] for b in found), strict=True)]
            for name in models
        },
        found[-1].dimensions,
        {name: right[name].double().mean().item() if name in right else None for name in models},
        target,
        Batch(torch.cat(images), target[:shown]),
        {key: torch.cat([batch.extra[key] for batch in found]) for key in found[0].extra},
    )


def _read_batch(item: Any, device: torch.device) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], Tensor):
        given = (
            f"a {type(item).__name__} of {len(item)} ({', '.join(type(v).__name__ for v in item)})"
            if isinstance(item, (tuple, list))
            else type(item).__name__
        )
        raise ValueError(
            f"Every batch of data must be a pair (images, target) that begins with a tensor, got {given}."
        )
    images, target = item
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            "The images of a batch must be a floating point tensor of shape (n, c, h, w), got "
            f"{images.dtype} of shape {tuple(images.shape)}. A Dataset goes into a DataLoader first."
        )
    target = torch.as_tensor(target)
    if target.shape != (len(images),):
        raise ValueError(
            f"The target of a batch must be one class index per image: got shape {tuple(target.shape)} for "
            f"{len(images)} images."
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"The target of a batch must hold integer class indices, got {target.dtype}.")
    return Batch(images.to(device), target.long().to(device))


def _check_scorable(target: Tensor) -> None:
    if len(target) < SMALLEST_SCORED:
        raise ValueError(
            f"Scores with intervals need at least {SMALLEST_SCORED} images, got {len(target)}; for narrow "
            "intervals pass some hundreds."
        )
    if len(target.unique()) < 2:
        raise ValueError(
            f"All {len(target)} scored images are of class {int(target[0])}, so relevance has nothing to "
            "follow. Pass images of several classes."
        )
