"""Relevance score (RS): do features follow the labels?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_kd.functional.correlation import (
    Estimator,
    check_estimator,
    distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.labels import LabelEmbeddings, embedding_rows
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
from captum_kd.models.targets import class_indices


def batch_relevance(
    features: Tensor,
    target: Tensor,
    label_embeddings: LabelEmbeddings | Tensor | None,
    given: Tensor | None,
    estimator: Estimator,
) -> Tensor | None:
    """Return the RS of one mini-batch; None if it has too few samples or a single class.

    Args:
        features: Features ``(n, ...)``.
        target: Class indices ``(n,)``.
        label_embeddings: What represents the classes; None: one-hot.
        given: Another model's features on the same samples, which are taken out; or None.
        estimator: "unbiased" or, without ``given``, "biased".

    Raises:
        ValueError: "biased" together with ``given``.
    """
    if given is not None and estimator != "unbiased":
        raise ValueError(
            "The relevance of unique features is defined for estimator='unbiased' only (the projection "
            f"is one of U-centred distances), got {estimator!r}."
        )
    rows = embedding_rows(label_embeddings, target).to(features.device)
    if len(features) < MINIMUM_SAMPLES or len(torch.unique(target)) < 2:
        return None
    if given is None:
        return distance_correlation(features, rows, estimator=estimator)
    return semipartial_distance_correlation(features, rows, given.to(features.device))


def relevance_score(
    forward_func: Callable[..., Any],
    inputs: Tensor | tuple[Tensor, ...],
    layer: str | nn.Module,
    target: Any,
    *,
    label_embeddings: LabelEmbeddings | Tensor | None = None,
    given: tuple[Callable[..., Any], str | nn.Module] | None = None,
    attributions: Tensor | None = None,
    perturb_func: PerturbFunc | None = None,
    pool: int | None = None,
    batch_size: int | None = None,
    estimator: Estimator = "unbiased",
    return_batches: bool = False,
) -> Tensor | BatchScores:
    r"""How far the features at a layer follow the ground-truth labels (Eq. 9).

    The mean over mini-batches of the distance correlation of features and label embeddings. With
    ``given`` it is the relevance of unique features: of what the features have beyond another model's.

    Never score maps on the labels that made them: maps by the relevance objective know those labels, and
    score high even for permuted ones, also where their ``reference`` is disjoint from ``inputs``. Take maps
    that see neither labels nor predictions: :class:`~captum_kd.DeepUniCAM` with ``class_evidence=False``.

    Args:
        forward_func: The model whose features are scored.
        inputs: A tensor ``(n, ...)`` or a tuple of tensors, as the model takes them.
        layer: Its layer, a module or its name.
        target: Ground-truth class of each sample: a list or a tensor ``(n,)``.
        label_embeddings: :class:`~captum_kd.LabelEmbeddings` or a tensor ``(num_classes, d)``; None: one-hot.
        given: ``(model, layer)`` whose features are taken out: with the base model here the score is that
            of the distilled features; with the models swapped, of the residual ones.
        attributions: Maps ``(n, 1, h, w)`` that say which pixels are kept; None takes the inputs as they are.
        perturb_func: As in :func:`feature_similarity_score`.
        pool: None takes the flattened activations as features, a number g their average on a g x g grid.
        batch_size: Samples per mini-batch; None takes all inputs as one. At 32 samples the noise of the
            unbiased estimator is about 0.05 for wide features, at 5 samples 0.4.
        estimator: "unbiased" or "biased" (close to 1 for small mini-batches whatever the data).
        return_batches: Return :class:`BatchScores`, with the score of each mini-batch.

    Returns:
        Scalar tensor (float64), or :class:`BatchScores`.

    Raises:
        ValueError: Mini-batches that are all too small or of one class; a target of the wrong length or out
            of range; too few label embeddings; a layer that is not in its model; "biased" with ``given``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> model, target = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.arange(64) % 4
        >>> images = torch.randn(64, 3, 8, 8) + target.reshape(-1, 1, 1, 1)      # brighter by class
        >>> relevance_score(model, images, model[1], target, pool=1) > 0.5
        tensor(True)
    """
    check_perturbation(attributions, perturb_func)
    first = inputs[0] if isinstance(inputs, tuple) else inputs
    if target is None:
        raise ValueError("target is needed: relevance is measured against the ground-truth classes.")
    check_estimator(estimator)
    scores = []
    batches = mini_batches(
        inputs, batch_size, target=class_indices(target, None, len(first)), attributions=attributions
    )
    for batch, batch_target, maps in batches:
        kept = perturbed(batch, maps, perturb_func)
        other = None if given is None else layer_features(given[0], kept, given[1], pool, "given model")[0]
        features, output = layer_features(forward_func, kept, layer, pool, "model")
        # Again, since only now the number of classes is known.
        batch_target = class_indices(batch_target, output, len(batch_target))
        score = batch_relevance(features, batch_target, label_embeddings, other, estimator)
        scores.append((score, len(features)))
    return score_result(scores, estimator, return_batches)
