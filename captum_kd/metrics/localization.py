"""How well two maps separate what was distilled from what was left behind, scored against known masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor

from captum_kd.attr.methods import TwoMaps, upsample

# The names of the floor and the ceiling of every comparison: `random_maps` and `perfect_maps`.
RANDOM = "random maps"
CEILING = "perfect masks"
# The four scores that make a separation, in the order of `separation`'s arguments.
PARTS = ("distilled on item", "residual on item", "distilled on cue", "residual on cue")


@dataclass(frozen=True)
class Separation:
    """How well two maps of each image separate item and cue, by one measure: the mean over images.

    Attributes:
        measure: "auc" (:func:`ranking_auc`), "energy" (:func:`energy_share`) or "pointing"
            (:func:`pointing_game`).
        separation: The mean of :func:`separation` over images.
        low: The lower end of the normal 95 % interval over images.
        high: The upper end.
        samples: The number of images.
        parts: The mean scores that make the separation, by :data:`PARTS`; only the first two if the cue has
            no location.
    """

    measure: str
    separation: float
    low: float
    high: float
    samples: int
    parts: dict[str, float]


def separations(maps: TwoMaps, item: Tensor, cue: Tensor | None) -> list[Separation]:
    """Score two maps of each image against the masks of item and cue, by every measure.

    Args:
        maps: The distilled and the residual maps, ``(n, 1, h', w')`` each; upsampled to the masks.
        item: The masks of the item, bool, ``(n, h, w)``.
        cue: The masks of the cue, bool, ``(n, h, w)``; None if the cue has no location.

    Returns:
        One record for each of "auc", "energy" and "pointing".

    Raises:
        ValueError: The numbers of maps and masks differ, or a mask is all True or all False.

    Example:
        >>> import torch
        >>> item, cue = torch.eye(4).bool().repeat(2, 1, 1), torch.eye(4).bool().flip(1).repeat(2, 1, 1)
        >>> found = separations((item[:, None].float(), cue[:, None].float()), item, cue)
        >>> [(one.measure, one.separation) for one in found]
        [('auc', 0.666...), ('energy', 1.0), ('pointing', 1.0)]
    """
    both = [upsample(side, (item.shape[1], item.shape[2])) for side in maps]
    masks = [item] if cue is None else [item, cue]
    # Sorting the pixels takes most of the time, so it is done once for both masks.
    ranks = [pixel_ranks(_flatten(side, item)[0]) for side in both]
    positives = [_flatten(both[0], mask)[1] for mask in masks]
    scores = {
        "auc": [auc_from_ranks(r, positive) for positive in positives for r in ranks],
        "energy": [energy_share(side, mask) for mask in masks for side in both],
        "pointing": [pointing_game(side, mask) for mask in masks for side in both],
    }
    return [_mean_separation(measure, values) for measure, values in scores.items()]


def _mean_separation(measure: str, scores: Sequence[Tensor]) -> Separation:
    """The mean over images of the scores ``(n,)`` of two maps against one mask or two."""
    of_images = separation(*scores)
    mean = of_images.mean().item()
    margin = 1.96 * of_images.std().item() / len(of_images) ** 0.5
    parts = {name: values.mean().item() for name, values in zip(PARTS, scores, strict=False)}
    return Separation(measure, mean, mean - margin, mean + margin, len(of_images), parts)


def random_maps(like: Sequence[TwoMaps], seed: int = 0) -> list[TwoMaps]:
    """Uniform noise of the same shapes: what maps score that know nothing.

    Args:
        like: The two maps of each layer whose shapes are taken.
        seed: The seed of the noise.

    Returns:
        The two maps of each layer.
    """
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = ([torch.rand(maps[side].shape, generator=generator) for maps in like] for side in range(2))
    return list(zip(ours, theirs, strict=True))


def perfect_maps(item: Tensor, cue: Tensor | None, layers: int) -> list[TwoMaps]:
    """The masks themselves as maps: what maps score that know both regions.

    This is no upper limit of a separation by ranking: a map can also rank the other region last.

    Args:
        item: The masks of the item, ``(n, h, w)``.
        cue: The masks of the cue, ``(n, h, w)``; None if the cue has no location, which makes its map flat.
        layers: The number of layers.

    Returns:
        The two maps ``(n, 1, h, w)`` of each layer.
    """
    ours = item[:, None].float()
    theirs = torch.ones_like(ours) if cue is None else cue[:, None].float()
    return [(ours, theirs)] * layers


def ranking_auc(maps: Tensor, masks: Tensor) -> Tensor:
    """How well a map ranks the pixels of a mask above all others: the area under the ROC curve.

    It depends on the order of the pixels alone, so sharpening a map gains nothing. Ties count half.

    Args:
        maps: The maps, ``(n, h, w)``.
        masks: The masks, bool, ``(n, h, w)``, with pixels of both kinds in every image.

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
    """The rank of each pixel within its row of ``(n, pixels)``, from 1; tied pixels share their mean rank."""
    ranks = rankdata(values.detach().double().cpu().numpy(), axis=1)
    return torch.from_numpy(ranks).to(values.device)


def auc_from_ranks(ranks: Tensor, positive: Tensor) -> Tensor:
    """The area under the ROC curve from the ranks of all pixels, ``(n, pixels)`` (Mann and Whitney)."""
    positives = positive.sum(1).double()
    negatives = positive.shape[1] - positives
    rank_sum = (ranks * positive).sum(1)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def energy_share(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of a map's positive values that lies on a mask.

    It rewards any sharpening of a map, so read it beside :func:`ranking_auc`.

    Args:
        maps: The maps, ``(n, h, w)``; negative values count as zero.
        masks: The masks, as in :func:`ranking_auc`.

    Returns:
        One value per image in [0, 1], float64; a map of zeros counts as a constant one.

    Raises:
        ValueError: The shapes differ, or a mask is all True or all False.

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
        maps: The maps, ``(n, h, w)``.
        masks: The masks, as in :func:`ranking_auc`.

    Returns:
        One value per image, float64: 1 or 0; if several pixels tie for the largest value, the share of them
        that lies on the mask.

    Raises:
        ValueError: The shapes differ, or a mask is all True or all False.

    Example:
        >>> import torch
        >>> pointing_game(torch.tensor([[[3.0, 1.0, 3.0]]]), torch.tensor([[[True, False, False]]]))
        tensor([0.5000], dtype=torch.float64)
    """
    values, positive = _flatten(maps, masks)
    largest = values == values.amax(1, keepdim=True)
    return (largest & positive).sum(1) / largest.sum(1).double()


def all_zero(maps: Tensor) -> Tensor:
    """Whether each map of ``(n, ...)`` is zero everywhere, bool ``(n,)``.

    Example:
        >>> import torch
        >>> all_zero(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]]))
        tensor([ True, False])
    """
    return (maps == 0).flatten(1).all(1)


def separation(
    distilled_item: Tensor,
    residual_item: Tensor,
    distilled_cue: Tensor | None = None,
    residual_cue: Tensor | None = None,
) -> Tensor:
    """How far distilled maps lie on what was distilled, and residual maps on what was left behind.

    ``[(distilled_item - residual_item) + (residual_cue - distilled_cue)] / 2``, for any score of a map
    against a mask: 0 for maps that know nothing, negative for maps that have it the wrong way round. If the
    cue has no location, only the item's half counts, and it is not divided by 2.

    Args:
        distilled_item: The scores of the distilled maps against the item, ``(n,)``.
        residual_item: The scores of the residual maps against the item, ``(n,)``.
        distilled_cue: The scores of the distilled maps against the cue, ``(n,)``; None: no location.
        residual_cue: The scores of the residual maps against the cue, ``(n,)``; None: no location.

    Returns:
        One value per image.

    Example:
        >>> import torch
        >>> perfect, none = torch.ones(1), torch.zeros(1)
        >>> separation(perfect, none, none, perfect)
        tensor([1.])
    """
    if distilled_cue is None or residual_cue is None:
        return distilled_item - residual_item
    return ((distilled_item - residual_item) + (residual_cue - distilled_cue)) / 2


def _flatten(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    if maps.shape != masks.shape or maps.dim() != 3:
        raise ValueError(
            "Maps and masks must both have the shape (n, h, w), got "
            f"{tuple(maps.shape)} and {tuple(masks.shape)}."
        )
    positive = masks.flatten(1).bool()
    if not (positive.any(1) & ~positive.all(1)).all():
        raise ValueError("Every mask must have pixels that are True and pixels that are False.")
    return maps.flatten(1), positive
