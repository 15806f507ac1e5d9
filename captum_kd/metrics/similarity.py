"""Feature similarity score (FSS): do student and base model see the same?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from captum_kd.functional.correlation import Estimator, check_estimator, distance_correlation
from captum_kd.metrics.batches import (
    MINIMUM_SAMPLES,
    BatchScores,
    PerturbFunc,
    check_perturbation,
    layer_features,
    mini_batches,
    perturbed,
    score_result,
)
from captum_kd.models.layers import pair_layers


def batch_similarity(features: Tensor, base_features: Tensor, estimator: Estimator) -> Tensor | None:
    """Return the FSS of one mini-batch; None if it has too few samples.

    Args:
        features: The student's, ``(n, ...)``.
        base_features: The base model's on the same samples, ``(n, ...)``.
        estimator: "biased" or "unbiased".
    """
    if len(features) < MINIMUM_SAMPLES:
        return None
    return distance_correlation(features, base_features, estimator=estimator)


def feature_similarity_score(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    layer: str | nn.Module,
    base_model: Callable[..., Any],
    base_layer: str | nn.Module | None = None,
    *,
    attributions: Tensor | None = None,
    base_attributions: Tensor | None = None,
    perturb_func: PerturbFunc | None = None,
    pool: int | None = None,
    batch_size: int | None = None,
    estimator: Estimator = "biased",
    return_batches: bool = False,
) -> Tensor | BatchScores:
    r"""How similar the features of student and base model are at a layer (Eq. 8).

    The mean over mini-batches of the distance correlation of :math:`\hat x_s = f_s(\hat I)` and
    :math:`\hat x_b = f_b(\hat I)`; :math:`\hat I` are the inputs, or what ``attributions`` keep of them.

    Args:
        forward_func: The student.
        inputs: A tensor ``(n, ...)`` or a tuple of tensors, as the models take them.
        layer: The student's layer, a module or its name.
        base_model: The base model.
        base_layer: The base model's layer, a module or its name; None takes the one of the same name.
        attributions: Maps ``(n, 1, h, w)`` that say which pixels are kept; None takes the inputs as they are.
        base_attributions: Maps for the base model's inputs; None takes ``attributions`` for both (Eq. 7).
        perturb_func: ``(inputs, attributions) -> inputs``; None is :func:`~captum_kd.functional.road`, which
            keeps the more relevant half of the pixels. It works in the models' input space.
        pool: None takes the flattened activations as features, a number g their average on a g x g grid.
        batch_size: Samples per mini-batch; None takes all inputs as one.
        estimator: "biased" (the paper's) or "unbiased".
        return_batches: Return :class:`BatchScores`, with the score of each mini-batch.

    Returns:
        Scalar tensor (float64), or :class:`BatchScores`.

    Raises:
        ValueError: Mini-batches that are all too small, maps of another number of samples, a layer that is
            not in its model, ``perturb_func`` without ``attributions``, an unknown estimator.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> student, base = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()) for _ in range(2))
        >>> images = torch.randn(64, 3, 8, 8)
        >>> score = feature_similarity_score(student, images, student[1], base, batch_size=32)
        >>> 0 < score < 1
        tensor(True)
    """
    (own,), (theirs,) = pair_layers(forward_func, layer, base_model, base_layer)
    check_perturbation(attributions, perturb_func)
    if base_attributions is None:
        base_attributions = attributions
    check_estimator(estimator)
    scores = []
    batches = mini_batches(inputs, batch_size, attributions=attributions, base_attributions=base_attributions)
    for batch, maps, base_maps in batches:
        kept = perturbed(batch, maps, perturb_func)
        base_kept = kept if base_maps is maps else perturbed(batch, base_maps, perturb_func)
        features, _ = layer_features(forward_func, kept, own, pool, "student")
        base_features, _ = layer_features(base_model, base_kept, theirs, pool, "base model")
        scores.append((batch_similarity(features, base_features, estimator), len(features)))
    return score_result(scores, estimator, return_batches)
