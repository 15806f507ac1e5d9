"""Do maps lie where the truth is? Scores of maps against known masks, one per image."""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """How well a map ranks the pixels of a mask above all others: the area under the ROC curve.

    Depends on the order of the pixels only, so sharpening a map gains nothing. Ties count half.

    Args:
        maps: Shape ``(n, h, w)``.
        masks: Shape ``(n, h, w)``, bool, with pixels of both kinds in every image.

    Returns:
        One value per image in [0, 1], float64; 0.5 for a constant map.

    Raises:
        ValueError: The shapes differ, or a mask is all True or all False.

    Example:
        >>> import torch
        >>> ranking_auc(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[True, False, False]]]))
        tensor([1.], dtype=torch.float64)
    """
    values, positive = _flatten(maps, masks)
    return auc_from_ranks(pixel_ranks(values), positive)


def pixel_ranks(values: Tensor) -> Tensor:
    """Rank of each pixel within its row of ``(n, pixels)``, from 1; tied pixels share their mean rank."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    not_above = torch.searchsorted(ordered, values, right=True)
    return (below + not_above + 1).double() / 2


def auc_from_ranks(ranks: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve of ``(n, pixels)`` ranks (Mann and Whitney)."""
    positives = positive.sum(1).double()
    negatives = positive.shape[1] - positives
    rank_sum = (ranks * positive).sum(1)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def energy_share(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's positive values that lies on a mask.

    Rewards any sharpening of a map, so read it beside :func:`ranking_auc`.

    Args:
        maps: Shape ``(n, h, w)``; negative values count as zero.
        masks: As in :func:`ranking_auc`.

    Returns:
        One value per image in [0, 1], float64; a map of zeros counts as a flat one.

    Example:
        >>> import torch
        >>> energy_share(torch.tensor([[[3.0, 1.0, -2.0]]]), torch.tensor([[[True, False, False]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    values, positive = _flatten(maps, masks)
    values = values.clamp_min(0).double()
    total = values.sum(1, keepdim=True)
    values = torch.where(total > 0, values, 1.0)
    return (values * positive).sum(1) / values.sum(1)


def separation(
    distilled_item: Tensor, residual_item: Tensor, distilled_cue: Tensor, residual_cue: Tensor
) -> Tensor:
    """How far distilled maps lie on what was distilled and residual maps on what was left behind.

    ``[(item score distilled - residual) + (cue score residual - distilled)] / 2``, for any score of a map
    against a mask: 0 for maps that know nothing, negative for maps that have it the wrong way round.

    Args:
        distilled_item: Score of the distilled maps against the item, ``(n,)``.
        residual_item: Of the residual maps against the item.
        distilled_cue: Of the distilled maps against the cue.
        residual_cue: Of the residual maps against the cue.

    Returns:
        One value per image.

    Example:
        >>> import torch
        >>> perfect, none = torch.ones(1), torch.zeros(1)
        >>> separation(perfect, none, none, perfect)
        tensor([1.])
    """
    return ((distilled_item - residual_item) + (residual_cue - distilled_cue)) / 2


def _flatten(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if maps.shape != masks.shape or maps.dim() != 3:
        raise ValueError(
            f"Maps and masks must have one shape (n, h, w), got {tuple(maps.shape)} and {tuple(masks.shape)}."
        )
    positive = masks.flatten(1).bool()
    if not (positive.any(1) & ~positive.all(1)).all():
        raise ValueError("Every mask must have pixels that are True and pixels that are False.")
    return maps.flatten(1), positive
