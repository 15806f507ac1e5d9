"""What distilled and residual maps keep of an image (the paper's Figures 1 and C.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.functional import keep_mask, road
from captum_kd.visualization.grid import TEXT_SIZE, AxesGrid, draw_picture, enclose, fill
from captum_kd.visualization.layers import LayerPairs, Place, draw_layers, resized_maps
from captum_kd.visualization.style import displayable


def plot_kept(
    images: Tensor,
    maps: LayerPairs,
    *,
    share: float = 0.2,
    sides: tuple[str, str] = ("distilled", "residual"),
    seed: int = 0,
    row_titles: Sequence[str] | None = None,
    title: str | None = None,
) -> tuple[Figure, AxesGrid]:
    """Draw images reduced to the pixels that maps rank highest, the others imputed, as a model is fed them.

    The perturbation is :func:`captum_kd.functional.road`; a line encloses what is kept. If a map does not
    rank enough pixels, for instance because it is zero everywhere, the rest is drawn at random, and the panel
    says how much. Imputation restores much of an image from scattered pixels, so such a panel says little
    about the map.

    Args:
        images: As the models take them, floating point ``(n, c, h, w)``; shown as
            :func:`~captum_kd.visualization.displayable` says.
        maps: For each student and layer two maps, as :func:`plot_layers` takes them.
        share: The share of pixels that is kept.
        sides: What the two maps are.
        seed: The seed of the noise on imputed pixels.
        row_titles: A title for each image.
        title: The title of the figure, for instance the method.

    Returns:
        The figure and its axes, as :func:`plot_layers` returns them.

    Raises:
        TypeError: ``images`` are not floating point.
        ValueError: As for :func:`plot_layers`; or ``share`` is not from 0 to 1.

    Example:
        >>> pair = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
        >>> figure, axes = plot_kept(torch.rand(2, 3, 8, 8), {"student": {"layer4": pair}}, share=0.3)
        >>> axes.shape
        (4, 2)
    """
    originals = images.detach().cpu()
    kept: dict[Place, Tensor] = {}
    random: dict[Place, Tensor] = {}
    masks: dict[Place, Tensor] = {}
    for place, values in resized_maps(originals, maps, sides).items():
        generator = torch.Generator().manual_seed(seed)
        perturbed = road(originals, values, share=share, generator=generator)
        kept[place] = displayable(perturbed, like=originals)
        random[place] = _random_share(values, share)
        masks[place] = keep_mask(values, share)

    def draw(panel: Axes, place: Place, i: int) -> None:
        draw_picture(panel, kept[place][i])
        enclose(panel, masks[place][i].float(), 0.5, width=0.6)
        if random[place][i] >= 0.005:
            panel.set_xlabel(f"{100 * random[place][i]:.0f} % of these at random", fontsize=TEXT_SIZE - 1)

    figure, axes, _ = draw_layers(images, maps, sides, draw, row_titles, title, keys=0)
    note = (
        f"Within lines: the {100 * share:g} % of the pixels that each map ranks highest. Others are imputed."
    )
    figure.supxlabel(fill(note, figure.get_figwidth()), fontsize=TEXT_SIZE - 1)
    return figure, axes


def _random_share(maps: Tensor, share: float) -> Tensor:
    """The share of each map's kept pixels that were drawn at random among equal ones: shape ``(n,)``."""
    keep = keep_mask(maps, share).flatten(1)
    values = maps.flatten(1)
    lowest = values.masked_fill(~keep, float("inf")).amin(dim=1, keepdim=True)
    equal = values == lowest
    drawn = (equal & ~keep).any(dim=1)
    return torch.where(drawn, (equal & keep).sum(dim=1) / keep.sum(dim=1).clamp_min(1), 0.0)
