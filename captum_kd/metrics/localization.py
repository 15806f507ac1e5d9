"""Do maps lie where the truth is? Scores of maps against known masks, one per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# What a separation is made of, in the order of `separation`'s arguments.
PARTS = ("distilled on item", "residual on item", "distilled on cue", "residual on cue")


class SideScores(NamedTuple):
    """Scores of two maps per image against item and cue, ``(n,)`` each; none for a cue without a place."""

    distilled_item: Tensor
    residual_item: Tensor
    distilled_cue: Tensor | None = None
    residual_cue: Tensor | None = None

    def separation(self) -> Tensor:
        """:func:`separation`; without a place of the cue, the item's half of it alone, not halved."""
        if self.distilled_cue is None or self.residual_cue is None:
            return self.distilled_item - self.residual_item
        return separation(self.distilled_item, self.residual_item, self.distilled_cue, self.residual_cue)

    def parts(self) -> dict[str, Tensor]:
        """The scores by :data:`PARTS`, those that exist."""
        return {name: value for name, value in zip(PARTS, self, strict=True) if value is not None}


def score_sides(
    distilled: Tensor, residual: Tensor, item: Tensor, cue: Tensor | None
) -> dict[str, SideScores]:
    """Both maps against both masks by ranking AUC, share of positive energy and pointing game.

    Args:
        distilled: Maps of what was distilled, ``(n, h, w)``.
        residual: Maps of what was left behind, ``(n, h, w)``.
        item: Masks of the item, bool, ``(n, h, w)``.
        cue: Masks of the cue, or None where it has no place.

    Returns:
        The scores of each measure by its name: "auc", "energy", "pointing".

    Raises:
        ValueError: As of :func:`ranking_auc`.

    Example:
        >>> import torch
        >>> item, cue = torch.eye(4).bool()[None], torch.eye(4).bool().flip(1)[None]
        >>> score_sides(item.float(), cue.float(), item, cue)["energy"].separation()
        tensor([1.], dtype=torch.float64)
    """
    masks = [item] if cue is None else [item, cue]
    # Once for both masks: the sorting takes the time.
    ranks = [pixel_ranks(_flatten(maps, item)[0]) for maps in (distilled, residual)]
    positives = [_flatten(distilled, mask)[1] for mask in masks]
    return {
        "auc": SideScores(*(auc_from_ranks(r, positive) for positive in positives for r in ranks)),
        "energy": SideScores(*(energy_share(m, mask) for mask in masks for m in (distilled, residual))),
        "pointing": SideScores(*(pointing_game(m, mask) for mask in masks for m in (distilled, residual))),
    }


def random_maps(like: Sequence[tuple[Tensor, Tensor]], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Noise of the shapes of both maps of each layer: what knowing nothing scores."""
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = ([torch.rand(maps[side].shape, generator=generator) for maps in like] for side in range(2))
    return list(zip(ours, theirs, strict=True))


def perfect_maps(item: Tensor, cue: Tensor | None, layers: int) -> list[tuple[Tensor, Tensor]]:
    """The masks themselves as maps: what knowing both regions scores. Without a place a cue's map is flat.

    No upper limit of a separation by ranking: a map may also rank the other region last.

    Args:
        item: Masks of the item, ``(n, h, w)``.
        cue: Masks of the cue, or None.
        layers: Number of layers.

    Returns:
        For each layer the two maps ``(n, 1, h, w)``.
    """
    ours = item[:, None].float()
    theirs = torch.ones_like(ours) if cue is None else cue[:, None].float()
    return [(ours, theirs)] * layers


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
    ordered, order = values.sort(dim=1)
    count = values.shape[1]
    positions = torch.arange(1, count + 1, dtype=torch.float64, device=values.device).expand_as(values)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = begins.roll(-1, 1)
    ends[:, -1] = True
    first = torch.where(begins, positions, 0).cummax(1).values
    last = torch.where(ends, positions, count).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(first).scatter_(1, order, (first + last) / 2)


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


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the largest value of a map lies on a mask (Zhang et al., 2018, without their tolerance).

    Args:
        maps: Shape ``(n, h, w)``.
        masks: As in :func:`ranking_auc`.

    Returns:
        One value per image, float64: 1 or 0; where pixels tie for the largest, the share of them on the mask.

    Example:
        >>> import torch
        >>> pointing_game(torch.tensor([[[3.0, 1.0, 3.0]]]), torch.tensor([[[True, False, False]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    values, positive = _flatten(maps, masks)
    largest = values == values.amax(1, keepdim=True)
    return (largest & positive).sum(1) / largest.sum(1).double()


def all_zero(maps: Tensor) -> Tensor:
    """Whether a map ``(n, ...)`` is zero everywhere, bool ``(n,)``.

    Example:
        >>> import torch
        >>> all_zero(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]]))
        tensor([ True, False])
    """
    return (maps == 0).flatten(1).all(1)


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
