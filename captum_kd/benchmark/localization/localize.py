"""The maps of every method for every pair, scored against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from captum_kd.attr.methods import MapMethod, TwoMaps, maps_in_batches
from captum_kd.benchmark.localization.methods import SIGNED
from captum_kd.benchmark.pairs.trained_pairs import TrainedPairs
from captum_kd.benchmark.pairs.training import words_seed
from captum_kd.datasets.planted_cue import normalise
from captum_kd.metrics.localization import (
    CEILING,
    RANDOM,
    Separation,
    all_zero,
    perfect_maps,
    random_maps,
    separations,
)
from captum_kd.models.architectures import default_layers


@dataclass(frozen=True, kw_only=True)
class LocalizationRow(Separation):
    """How well the maps of one method separate item and cue, for one pair at one layer.

    Attributes:
        geometry: The name of the images' geometry.
        seed: The seed of training and images.
        pair: The name of the pair.
        method: The name of the method.
        layer: The name of the student's layer.
        zero_distilled: The share of distilled maps that are zero everywhere.
        zero_residual: The share of residual maps that are zero everywhere.
    """

    geometry: str
    seed: int
    pair: str
    method: str
    layer: str
    zero_distilled: float
    zero_residual: float


def localize(
    trained: TrainedPairs,
    methods: Mapping[str, MapMethod],
    report: Callable[[str], None] = lambda line: None,
) -> list[LocalizationRow]:
    """Score every method on every pair.

    Args:
        trained: The models, pairs and images.
        methods: The methods by name, for instance
            :data:`~captum_kd.benchmark.localization.methods.LOCALIZATION_METHODS`.
        report: Called with a line that says what comes next.

    Returns:
        A row for every pair, method, layer and measure; random maps come first and perfect masks last.

    Example:
        >>> from captum_kd.benchmark.pairs.trained_pairs import embedded_pairs
        >>> from captum_kd.attr.methods import METHODS
        >>> rows = localize(embedded_pairs(), {"mine": METHODS["Grad-CAM difference"]})
        >>> list(dict.fromkeys(row.method for row in rows))
        ['random maps', 'mine', 'perfect masks']
    """
    scored = trained.images.scored
    images = normalise(scored.images)
    item, cue = scored.item_masks, scored.cue_masks if scored.cue_masks.any() else None
    rows = []
    for name, names in trained.pairs.items():
        pair = trained.pair(name)
        layers = default_layers(trained.models[names.student])
        maps: dict[str, list[TwoMaps]] = {}
        for title, method in methods.items():
            if f"{title}{SIGNED}" not in methods:
                report(f"{trained.geometry}, seed {trained.seed}, {name}: {title}")
                maps[title] = maps_in_batches(method, pair, images, scored.labels)
        # A method's maps are the positive parts of its signed ones; some are too expensive to make twice.
        for title in methods:
            if title not in maps:
                maps[title] = [(ours.relu(), theirs.relu()) for ours, theirs in maps[f"{title}{SIGNED}"]]
        maps = {title: maps[title] for title in methods}
        like = next(iter(maps.values()))
        noise = random_maps(like, words_seed(trained.geometry, trained.seed, name, RANDOM))
        maps = {RANDOM: noise, **maps, CEILING: perfect_maps(item, cue, len(layers))}
        for title, of_layers in maps.items():
            for layer, both in zip(layers, of_layers, strict=True):
                zero = [all_zero(side).double().mean().item() for side in both]
                rows += [
                    LocalizationRow(
                        geometry=trained.geometry,
                        seed=trained.seed,
                        pair=name,
                        method=title,
                        layer=layer,
                        zero_distilled=zero[0],
                        zero_residual=zero[1],
                        **asdict(found),
                    )
                    for found in separations(both, item, cue)
                ]
    return rows
