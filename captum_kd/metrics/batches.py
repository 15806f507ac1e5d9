"""Mini-batches of samples, their features, and the mean of their scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_kd._warn import warn
from captum_kd.functional.correlation import Estimator
from captum_kd.functional.perturbation import road
from captum_kd.functional.pooling import pool_activations
from captum_kd.metrics.copies import first_of_each, row_digests
from captum_kd.models.activations import layer_activations
from captum_kd.models.layers import resolve_layers

PerturbFunc = Callable[[Tensor, Tensor], Tensor]
MINIMUM_SAMPLES = 4


class BatchScores(NamedTuple):
    """The mean score with what it is the mean of.

    ``score`` is the mean of ``batches``, the score of each mini-batch that was scored; ``sizes`` are their
    numbers of samples; ``left_out`` counts mini-batches of fewer than 4 samples or of a single class.
    """

    score: Tensor
    batches: Tensor
    sizes: Tensor
    left_out: int
    estimator: Estimator


def mean_score(scores: Tensor, sizes: Tensor, left_out: int, estimator: Estimator) -> BatchScores:
    """Return the mean over mini-batches.

    Args:
        scores: The score of each mini-batch that was scored.
        sizes: Their numbers of samples.
        left_out: How many others there were.
        estimator: What the scores were estimated with.

    Raises:
        ValueError: No mini-batch was scored.
    """
    if not len(scores):
        raise ValueError(
            f"No mini-batch could be scored ({left_out} left out): a mini-batch needs at least "
            f"{MINIMUM_SAMPLES} samples and, for relevance, more than one class. Use a larger "
            "batch_size and shuffle the classes."
        )
    return BatchScores(scores.mean(), scores, sizes, left_out, estimator)


def score_result(
    scores: Sequence[tuple[Tensor | None, int]], estimator: Estimator, return_batches: bool
) -> Tensor | BatchScores:
    """Return what a score function returns, and warn if mini-batches were left out.

    Args:
        scores: The score of each mini-batch, None if it was left out, and its number of samples.
        estimator: What the scores were estimated with.
        return_batches: Whether the scores of the mini-batches are returned as well.
    """
    scored = [(score.reshape(1), size) for score, size in scores if score is not None]
    values = torch.cat([score for score, _ in scored]) if scored else torch.empty(0)
    sizes = torch.tensor([size for _, size in scored], device=values.device)
    result = mean_score(values, sizes, len(scores) - len(scored), estimator)
    if result.left_out:
        warnings.warn(
            f"{result.left_out} of {len(scores)} mini-batches were left out of the "
            f"mean: fewer than {MINIMUM_SAMPLES} samples, or a single class.",
            stacklevel=3,
        )
    return result if return_batches else result.score


def layer_features(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    layer: str | nn.Module,
    pool: int | None,
    role: str,
) -> tuple[Tensor, Any]:
    """The features of one layer, ``(n, c, *grid)``, and the model's output."""
    layers = resolve_layers(forward_func, layer, "layer", role)
    (activations,), output = layer_activations(forward_func, layers, inputs, role=role)
    return pool_activations(activations, pool), output


def mini_batches(
    inputs: Tensor | tuple[Tensor, ...], batch_size: int | None, **per_sample: Tensor | None
) -> Iterator[tuple[Any, ...]]:
    """Slices of the inputs and of everything else that has one row per sample (None stays None).

    An input that is identical to an earlier one is left out, with a warning.
    """
    first = inputs[0] if isinstance(inputs, tuple) else inputs
    count = len(first)
    if batch_size is not None and batch_size < MINIMUM_SAMPLES:
        raise ValueError(
            f"batch_size must be at least {MINIMUM_SAMPLES} (smaller mini-batches cannot be scored), "
            f"got {batch_size}."
        )
    for name, value in per_sample.items():
        if value is not None and len(value) != count:
            raise ValueError(f"{name} must have one row per sample: {len(value)} rows for {count} samples.")
    inputs, per_sample, count = _without_copies(inputs, per_sample, count)
    for start in range(0, count, batch_size or count):
        rows = slice(start, start + (batch_size or count))
        batch = tuple(v[rows] for v in inputs) if isinstance(inputs, tuple) else inputs[rows]
        yield batch, *(None if value is None else value[rows] for value in per_sample.values())


def _without_copies(
    inputs: Tensor | tuple[Tensor, ...], per_sample: dict[str, Tensor | None], count: int
) -> tuple[Tensor | tuple[Tensor, ...], dict[str, Tensor | None], int]:
    """Everything without the samples that came before, where inputs do not repeat by chance."""
    values = inputs if isinstance(inputs, tuple) else (inputs,)
    # Rows of numbers may repeat by chance, images do not.
    if not any(value.is_floating_point() and value.dim() > 2 for value in values):
        return inputs, per_sample, count
    first = first_of_each(row_digests(*values))
    if len(first) == count:
        return inputs, per_sample, count
    warn(
        f"{count - len(first)} of {count} inputs are identical to earlier ones and were left out. "
        "Copies that are scored as often as they come make chance look like a finding."
    )
    kept = {name: None if value is None else value[first] for name, value in per_sample.items()}
    return tuple(v[first] for v in inputs) if isinstance(inputs, tuple) else inputs[first], kept, len(first)


def check_features(**features: Tensor) -> None:
    """Raise unless all are floating point features ``(n, ...)`` of the same samples.

    Raises:
        TypeError: One is not a floating point tensor.
        ValueError: One has no dimension for the samples, or the numbers of samples differ.
    """
    for name, value in features.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            given = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"{name} must be a floating point tensor of features, of shape (n, ...), got {given}."
            )
        if not value.dim():
            raise ValueError(f"{name} must have shape (n, ...), one row per sample, got a single number.")
    if len({len(value) for value in features.values()}) > 1:
        counts = ", ".join(f"{len(value)} rows of {name}" for name, value in features.items())
        raise ValueError(f"All features must be of the same samples, got {counts}.")


def sample_classes(target: Tensor | Sequence[int], count: int) -> Tensor:
    """Return the target as a tensor that has one class index per sample.

    Raises:
        TypeError: It does not hold integers.
        ValueError: It has another length.
    """
    try:
        indices = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "target must hold one class index per sample, as a list or a tensor, got "
            f"{type(target).__name__}: {error}"
        ) from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"target must hold integer class indices, got {indices.dtype}.")
    if tuple(indices.shape) != (count,):
        raise ValueError(
            f"target must be one class index per sample: {count} samples, but target has shape "
            f"{tuple(indices.shape)}."
        )
    return indices


def perturbed(
    inputs: Tensor | tuple[Tensor, ...], attributions: Tensor | None, perturb_func: PerturbFunc | None
) -> Tensor | tuple[Tensor, ...]:
    """The inputs reduced to what attributions mark (by ROAD if no function is given), or as they are."""
    if attributions is None:
        return inputs
    if isinstance(inputs, tuple):
        if len(inputs) != 1:
            raise ValueError(f"attributions need a single input tensor to perturb, got {len(inputs)}.")
        inputs = inputs[0]
    return (perturb_func or road)(inputs, attributions)


def check_perturbation(attributions: Tensor | None, perturb_func: PerturbFunc | None) -> None:
    """Raise an error if there are no attributions for the perturbation to follow."""
    if perturb_func is not None and attributions is None:
        raise ValueError("perturb_func needs attributions: the maps that say which pixels to keep.")
