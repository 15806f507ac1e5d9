"""One pass over the data: small features of every model are kept, activations and images are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from captum_kd.comparison.batches import Batch, check_scorable
from captum_kd.functional.pooling import pool_activations
from captum_kd.models.activations import layer_activations
from captum_kd.models.layers import describe_layer
from captum_kd.models.side import Side
from captum_kd.models.targets import class_indices, has_class_scores

# What the models beside the students are called.
BASE, TEACHER = "base", "teacher"

# A student, what keeps pixels of its images, and the index of a layer.
KeptKey: TypeAlias = tuple[str, str, int]


class BatchFeatures(NamedTuple):
    """What one batch gave.

    Attributes:
        features: For each model a tensor ``(n, d)`` for each layer.
        dimensions: For each model the number of dimensions of each layer's activations.
        right: For each classifier whether it is right about each image.
        extra: What ``extra`` of :func:`stream` gave.
    """

    features: dict[str, list[Tensor]]
    dimensions: dict[str, list[int]]
    right: dict[str, Tensor]
    extra: dict[KeptKey, Tensor]


class Stream(NamedTuple):
    """What one pass over the data kept.

    Attributes:
        features: For each model a tensor ``(n, d)`` for each layer.
        dimensions: For each model the number of dimensions of each layer's activations.
        accuracy: The accuracy of each model; None if its output is not ``(n, num_classes)``.
        target: The class indices, ``(n,)``.
        shown: The first samples.
        extra: What ``extra`` of :func:`stream` gave, concatenated.
    """

    features: dict[str, list[Tensor]]
    dimensions: dict[str, list[int]]
    accuracy: dict[str, float | None]
    target: Tensor
    shown: Batch
    extra: dict[KeptKey, Tensor]


def layer_features(side: Side[nn.Module], images: Tensor, pool: int) -> tuple[list[Tensor], list[int], Any]:
    """Run one forward pass and pool the activations.

    Args:
        side: The model with its layers.
        images: Shape ``(n, c, h, w)``.
        pool: The grid size that activations are averaged on.

    Returns:
        The features ``(n, d)`` of each layer, the number of dimensions of its activations, and the model's
        output.

    Raises:
        ValueError: Activations are neither ``(n, c)`` nor ``(n, c, h, w)``.
    """
    activations, output = layer_activations(
        side.model, side.layers, images, role=side.role, reshape_transform=side.reshape_transform
    )
    for layer, value in zip(side.layers, activations, strict=True):
        if value.dim() not in (2, 4):
            raise ValueError(
                f"{describe_layer(side.model, layer, side.role)} gives activations of shape "
                f"{tuple(value.shape)}, but (n, c) or (n, c, h, w) is needed. For "
                "tokens pass reshape_transform=captum_kd.tokens_to_image, or one of your own."
            )
    features = [pool_activations(value, pool).flatten(1) for value in activations]
    return features, [value.dim() for value in activations], output


def compute_batch(
    models: Mapping[str, Side[nn.Module]],
    batch: Batch,
    pool: int,
    extra: Callable[[Tensor], dict[KeptKey, Tensor]] | None = None,
) -> BatchFeatures:
    """Run every model once on a batch; the arguments are those of :func:`stream`.

    Raises:
        ValueError: The models have different numbers of classes, or a target is out of range.
    """
    features, dimensions, right, outputs = {}, {}, {}, {}
    for name, side in models.items():
        features[name], dimensions[name], outputs[name] = layer_features(side, batch.images, pool)
    _check_same_classes({models[name].role: output for name, output in outputs.items()})
    for name, side in models.items():
        output = outputs[name]
        target = class_indices(batch.target, output, len(batch.target), side.role)
        if has_class_scores(output):
            right[name] = output.argmax(dim=1) == target
    return BatchFeatures(features, dimensions, right, {} if extra is None else extra(batch.images))


def _check_same_classes(outputs: Mapping[str, object]) -> None:
    # A single output is the logit of the second of two classes.
    counts = {role: output.shape[1] for role, output in outputs.items() if has_class_scores(output)}
    if len({max(count, 2) for count in counts.values()}) > 1:
        listed = ", ".join(f"{role}: {count}" for role, count in counts.items())
        raise ValueError(
            f"The models must have the same classes, but have different numbers of outputs ({listed}). "
            "Compare models of the same classes; if outputs are no class scores, return them in a tuple."
        )


def stream(
    models: Mapping[str, Side[nn.Module]],
    batches: Iterable[Batch],
    *,
    pool: int,
    shown: int,
    check: Callable[[Tensor], object],
    extra: Callable[[Tensor], dict[KeptKey, Tensor]] | None = None,
    remember: Callable[[int, Batch, Callable[[], BatchFeatures]], BatchFeatures] | None = None,
) -> Stream:
    """Run every model once on every batch and keep what scores need.

    Args:
        models: The models by name.
        batches: Images and classes, on the device of the models.
        pool: The grid size that activations are averaged on.
        shown: The number of images to keep, the first ones.
        check: Called with the target of each batch; raises if it is not valid.
        extra: Called with the images of each batch; gives further tensors with a row per sample.
        remember: Called with the number of a batch, the batch, and a function that computes its features;
            gives the features.

    Returns:
        What was kept.

    Raises:
        ValueError: There are no images, too few for scores, or one class only; or a target is out of range.
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
    check_scorable(target)
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
