"""Maps of every method for every pair, scored against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from captum_kd.attr.methods import MapMethod, TwoMaps, maps_in_batches, upsample
from captum_kd.benchmark.localization.methods import CEILING, RANDOM, SIGNED
from captum_kd.benchmark.pairs.subjects import Subject
from captum_kd.benchmark.pairs.training import words_seed
from captum_kd.datasets.planted_cue import normalise
from captum_kd.metrics.localization import all_zero, perfect_maps, random_maps, score_sides
from captum_kd.models.architectures import default_layers


class LocalizationRow(NamedTuple):
    """How one method's maps of one pair at one layer separate what was distilled from what was left behind.

    Attributes:
        geometry: of the images.
        seed: of training and images.
        pair: its name.
        method: its name.
        layer: its name.
        measure: "auc" (the headline), "energy" or "pointing".
        separation: mean over images.
        low: lower end of the normal 95 % interval over images.
        high: upper end.
        samples: images.
        parts: the four scores, or two where the cue has no place, that make the separation.
        zero_distilled: share of distilled maps that are zero everywhere.
        zero_residual: of residual maps.
    """

    geometry: str
    seed: int
    pair: str
    method: str
    layer: str
    measure: str
    separation: float
    low: float
    high: float
    samples: int
    parts: dict[str, float]
    zero_distilled: float
    zero_residual: float


def localize(
    subject: Subject,
    methods: Mapping[str, MapMethod],
    report: Callable[[str], None] = lambda line: None,
) -> list[LocalizationRow]:
    """Score every method on every pair of a subject.

    Args:
        subject: Models, pairs and images.
        methods: By name, for instance
            :data:`~captum_kd.benchmark.localization.methods.LOCALIZATION_METHODS`.
        report: Called with what is about to be done.

    Returns:
        A row for every pair, method, layer and measure; random maps first and perfect masks last.

    Example:
        >>> from captum_kd.benchmark.pairs.subjects import embedded_subject
        >>> from captum_kd.attr.methods import METHODS
        >>> rows = localize(embedded_subject(), {"mine": METHODS["Grad-CAM difference"]})
        >>> list(dict.fromkeys(row.method for row in rows))
        ['random maps', 'mine', 'perfect masks']
    """
    scored = subject.images.scored
    images = normalise(scored.images)
    item, cue = scored.item_masks, scored.cue_masks if scored.cue_masks.any() else None
    rows = []
    for name, names in subject.pairs.items():
        pair = subject.pair(name)
        layers = default_layers(subject.models[names.student])
        maps: dict[str, list[TwoMaps]] = {}
        for title, method in methods.items():
            if f"{title}{SIGNED}" not in methods:
                report(f"{subject.geometry}, seed {subject.seed}, {name}: {title}")
                maps[title] = maps_in_batches(method, pair, images, scored.labels)
        # What a method's signed maps have above zero is its maps; some are too dear to make twice.
        for title in methods:
            if title not in maps:
                maps[title] = [(ours.relu(), theirs.relu()) for ours, theirs in maps[f"{title}{SIGNED}"]]
        maps = {title: maps[title] for title in methods}
        like = next(iter(maps.values()))
        noise = random_maps(like, words_seed(subject.geometry, subject.seed, name, RANDOM))
        maps = {RANDOM: noise, **maps, CEILING: perfect_maps(item, cue, len(layers))}
        for title, found in maps.items():
            for layer, both in zip(layers, found, strict=True):
                key = (subject.geometry, subject.seed, name, title, layer)
                rows += score_layer(key, both, item, cue)
    return rows


def score_layer(
    key: tuple[str, int, str, str, str], both: TwoMaps, item: Tensor, cue: Tensor | None
) -> list[LocalizationRow]:
    """The rows, one a measure, of two maps ``(n, 1, h, w)``; ``key`` is what each row begins with."""
    size = (item.shape[1], item.shape[2])
    zero = [all_zero(maps).double().mean().item() for maps in both]
    rows = []
    distilled, residual = (upsample(maps, size) for maps in both)
    for measure, sides in score_sides(distilled, residual, item, cue).items():
        separations = sides.separation()
        mean = separations.mean().item()
        margin = 1.96 * separations.std().item() / len(separations) ** 0.5
        parts = {part: value.mean().item() for part, value in sides.parts().items()}
        rows.append(
            LocalizationRow(*key, measure, mean, mean - margin, mean + margin, len(separations), parts, *zero)
        )
    return rows
