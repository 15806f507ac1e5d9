"""Deletion and insertion: do the pixels of a map make the predictions that are unique to its model?

On images for which two models predict different classes, each prediction is unique to its model. Of every
image a share of the pixels is kept, chosen by the distilled or by the residual map, and ROAD imputes the
others. *Selectivity* is how much better each model's prediction survives on its own side's pixels than on the
other side's:

    ((student | distilled) - (student | residual) + (base | residual) - (base | distilled)) / 2,

where (model | map) is 1 if the model still predicts what it predicted of the whole image, and 0 if not. It
is 0 for maps that know nothing, whichever of the models is the more robust, and at most 1. Insertion keeps
the highest pixels and is to be above 0; deletion takes the highest away and is to be below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from captum_kd.attr.methods import MapMethod, TwoMaps, maps_in_batches, upsample
from captum_kd.benchmark.localization.methods import RANDOM
from captum_kd.benchmark.sanity.checks import SANITY_METHODS, SanityRow, SanitySubject, summarise
from captum_kd.functional import road
from captum_kd.metrics.localization import random_maps
from captum_kd.models.activations import layer_activations
from captum_kd.models.architectures import default_layers

SHARES = (0.1, 0.2, 0.4)
Direction = Literal["insertion", "deletion"]


def check_deletion(
    subject: SanitySubject,
    methods: Mapping[str, MapMethod] = SANITY_METHODS,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[SanityRow]:
    """Selectivity of every method and of random maps.

    Args:
        subject: Models and images; images for which both models predict the same class are not used.
        methods: By name.
        shares: Of the pixels, kept by insertion and taken away by deletion.
        seed: Of random maps and of ROAD's noise.
        report: Called with what is about to be done.

    Returns:
        A row for every direction, method, share and layer.

    Raises:
        ValueError: The models predict the same class for all images but one.

    Example:
        >>> from captum_kd.benchmark.sanity.checks import demo_subject
        >>> rows = check_deletion(demo_subject(16, 32), {}, shares=[0.2])
        >>> {row.method for row in rows}
        {'random maps'}
    """
    models = (subject.student, subject.base)
    ours, theirs = (predictions(model, subject.images) for model in models)
    differ = ours != theirs
    if differ.sum() < 2:
        raise ValueError(
            f"The models predict different classes for {int(differ.sum())} of {len(differ)} images; at least "
            "2 are needed, since only such predictions are unique to a model."
        )
    images, labels = subject.images[differ], subject.labels[differ]
    predicted = (ours[differ], theirs[differ])
    layers = default_layers(subject.student)
    pair = subject.pair()
    maps = {name: maps_in_batches(method, pair, images, labels, 64) for name, method in methods.items()}
    shapes = layer_activations(subject.student, pair.student.layers, images[:1]).activations
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
    """Selectivity of each image.

    Args:
        models: Student and base model.
        predicted: What each predicts of the whole images, ``(n,)``.
        images: Shape ``(n, c, h, w)``.
        maps: Distilled and residual, ``(n, 1, h', w')``.
        direction: "insertion" keeps the highest share of the pixels, "deletion" all others.
        share: Of the pixels.
        seed: Of ROAD's noise.

    Returns:
        ``(n,)``, float64, from -1 to 1.
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
    """The predicted class of each image."""
    return torch.cat([model(batch).argmax(1) for batch in images.split(64)])
