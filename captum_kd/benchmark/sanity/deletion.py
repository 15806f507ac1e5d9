"""Deletion and insertion: do the pixels of a map carry the predictions that are unique to its model?

If two models predict different classes for an image, each prediction is unique to its model. A share of the
image's pixels is kept, chosen by the distilled or by the residual map, and ROAD imputes the others.
*Selectivity* is how much better each model's prediction survives on its own side's pixels than on the other
side's:

    ((student | distilled) - (student | residual) + (base | residual) - (base | distilled)) / 2,

where (model | map) is 1 if the model still predicts the class that it predicts for the whole image, and 0 if
not. Selectivity is at most 1, and 0 for maps that know nothing, whichever model is the more robust. Insertion
keeps the highest pixels, so its selectivity should be above 0; deletion removes them, so it should be below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_kd.attr.methods import MapMethod, TwoMaps, maps_in_batches, upsample
from captum_kd.benchmark.pairs.checked_pair import CheckedPair
from captum_kd.benchmark.sanity.checks import SANITY_METHODS, SanityRow, summarise
from captum_kd.functional import road
from captum_kd.metrics.localization import RANDOM, random_maps
from captum_kd.models.activations import layer_activations
from captum_kd.models.architectures import default_layers

SHARES = (0.1, 0.2, 0.4)
Direction = Literal["insertion", "deletion"]


def check_deletion(
    checked: CheckedPair,
    methods: Mapping[str, MapMethod] = SANITY_METHODS,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[SanityRow]:
    """Measure the selectivity of every method and of random maps.

    Args:
        checked: The models and images; images for which both models predict the same class are not used.
        methods: The methods by name.
        shares: The shares of the pixels that insertion keeps and deletion removes.
        seed: The seed of random maps and of ROAD's noise.
        report: Called with a line that says what comes next.

    Returns:
        A row for every direction, method, share and layer.

    Raises:
        ValueError: The models predict different classes for fewer than two images.

    Example:
        >>> from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
        >>> rows = check_deletion(checked_demo_pair(16, 32), {}, shares=[0.2])
        >>> {row.method for row in rows}
        {'random maps'}
    """
    models = (checked.student, checked.base)
    ours, theirs = (predictions(model, checked.images) for model in models)
    differ = ours != theirs
    if differ.sum() < 2:
        raise ValueError(
            f"The models predict different classes for {int(differ.sum())} of {len(differ)} images; at least "
            "2 are needed, since only such predictions are unique to a model."
        )
    images, labels = checked.images[differ], checked.labels[differ]
    predicted = (ours[differ], theirs[differ])
    layers = default_layers(checked.student)
    pair = checked.pair()
    maps = {name: maps_in_batches(method, pair, images, labels, 64) for name, method in methods.items()}
    shapes = layer_activations(checked.student, pair.student.layers, images[:1]).activations
    like = [torch.empty(len(images), 1, *shape.shape[2:]) for shape in shapes]
    maps = {RANDOM: random_maps([(noise, noise) for noise in like], seed), **maps}
    rows = []
    for name, of_layers in maps.items():
        report(f"deletion and insertion: {name}")
        for direction in get_args(Direction):
            for share in shares:
                values = torch.stack(
                    [
                        selectivity(models, predicted, images, both, direction, share, seed)
                        for both in of_layers
                    ]
                )
                rows += summarise(direction, name, str(share), layers, values)
    return rows


def selectivity(
    models: tuple[nn.Module, nn.Module],
    predicted: tuple[Tensor, Tensor],
    images: Tensor,
    maps: TwoMaps,
    direction: Direction,
    share: float,
    seed: int = 0,
) -> Tensor:
    """The selectivity of each image.

    Args:
        models: The student and the base model.
        predicted: The classes that each predicts for the whole images, ``(n,)``.
        images: The images, ``(n, c, h, w)``.
        maps: The distilled and the residual maps, ``(n, 1, h', w')``.
        direction: "insertion" keeps the given share of the pixels, the highest ones; "deletion" removes it.
        share: The share of the pixels, from 0 to 1.
        seed: The seed of ROAD's noise.

    Returns:
        One value per image from -1 to 1, float64, ``(n,)``.
    """
    total = torch.zeros(len(images), dtype=torch.float64)
    for side, side_maps in enumerate(maps):
        at_pixels = upsample(side_maps, (images.shape[2], images.shape[3]))[:, None]
        if direction == "deletion":
            at_pixels, kept_share = -at_pixels, 1 - share
        else:
            kept_share = share
        kept = road(images, at_pixels, share=kept_share, generator=torch.Generator().manual_seed(seed))
        for which, (model, classes) in enumerate(zip(models, predicted, strict=True)):
            survives = (predictions(model, kept) == classes).double()
            total += survives if which == side else -survives
    return total / 2


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """The class that a model predicts for each image."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(64)])
