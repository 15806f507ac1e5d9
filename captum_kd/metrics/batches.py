"""A score per mini-batch and their mean, as torchmetrics state and as a plain result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from captum_kd.functional.cam import pool_activations
from captum_kd.functional.correlation import Estimator, check_estimator
from captum_kd.functional.perturbation import road
from captum_kd.models.activations import capture
from captum_kd.models.layers import as_layer_list, check_membership

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


class MeanOverBatches(Metric):
    """Mean of a score over mini-batches; the scores of many processes are gathered."""

    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    sizes: list[Tensor]
    left_out: Tensor

    def __init__(self, *, estimator: Estimator, **options: Any) -> None:
        super().__init__(**options)
        check_estimator(estimator)
        self.estimator = estimator
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("sizes", default=[], dist_reduce_fx="cat")
        self.add_state("left_out", default=torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, score: Callable[[], Tensor], size: int, one_class: bool = False) -> None:
        if size < MINIMUM_SAMPLES or one_class:
            self.left_out += 1
            return
        self.scores.append(score().reshape(1))
        self.sizes.append(torch.tensor([size], device=self.scores[-1].device))

    def compute(self) -> Tensor:
        """The mean over the mini-batches that could be scored."""
        return self.batch_scores().score

    def batch_scores(self) -> BatchScores:
        """The mean together with the score and size of each mini-batch."""
        left_out = int(self.left_out)
        if not len(self.scores):
            raise ValueError(
                f"No mini-batch could be scored ({left_out} left out): a mini-batch needs at least "
                f"{MINIMUM_SAMPLES} samples and, for relevance, more than one class. Use a larger "
                "batch_size and shuffle the classes."
            )
        scores, sizes = dim_zero_cat(self.scores), dim_zero_cat(self.sizes)
        return BatchScores(scores.mean(), scores, sizes, left_out, self.estimator)


def score_result(metric: MeanOverBatches, return_batches: bool) -> Tensor | BatchScores:
    """What a score function returns; says so if mini-batches were left out."""
    result = metric.batch_scores()
    if result.left_out:
        warnings.warn(
            f"{result.left_out} of {result.left_out + len(result.batches)} mini-batches were left out of the "
            f"mean: fewer than {MINIMUM_SAMPLES} samples, or a single class.",
            stacklevel=3,
        )
    return result if return_batches else result.score


def layer_features(
    forward_func: Any, inputs: Tensor | tuple[Tensor, ...], layer: nn.Module, pool: int | None, role: str
) -> Tensor:
    """The features of one layer, ``(n, c, *grid)``."""
    check_membership(forward_func, as_layer_list(layer, "layer"), "layer", role)
    (activations,), _ = capture(forward_func, [layer], inputs, role=role)
    return pool_activations(activations, pool)


def mini_batches(
    inputs: Tensor | tuple[Tensor, ...], batch_size: int | None, **per_sample: Tensor | None
) -> Iterator[tuple[Any, ...]]:
    """Slices of the inputs and of everything else that has one row per sample (None stays None)."""
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
    for start in range(0, count, batch_size or count):
        rows = slice(start, start + (batch_size or count))
        batch = tuple(v[rows] for v in inputs) if isinstance(inputs, tuple) else inputs[rows]
        yield batch, *(None if value is None else value[rows] for value in per_sample.values())


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
