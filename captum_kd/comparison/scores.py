"""FSS and RS of every layer from streamed features, as plain records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from captum_kd.attr.methods import deep_unicam
from captum_kd.attr.pair import Pair
from captum_kd.comparison.features import Stream, layer_features
from captum_kd.functional.perturbation import road
from captum_kd.metrics import Score, score_with_statistics

BASE, TEACHER = "base", "teacher"
# What keeps pixels, as the names of quantities say it.
KEPT_BY = ("distilled maps", "residual maps")
RANDOMLY_KEPT_BY = ("random maps, student", "random maps, base")

# A student, what keeps pixels, and the index of a layer.
KeptKey = tuple[str, str, int]
Record = dict[str, Any]


class KeptFeatures:
    """Features of images reduced to the pixels that maps rank highest, the others imputed (ROAD).

    The maps are those of :meth:`UniCAM.recommended` without class evidence. They see neither labels nor
    predictions, which mostly are the labels, so relevance of what they keep is not circular. Distilled maps
    reduce the images for the student, residual maps for the base model; random maps of the layer's
    resolution, the same for both, are the baseline.

    Args:
        pairs: Each student with the base model.
        pool: Grid that activations are averaged on.
        share: Share of the pixels that is kept.
        seed: Of the noise on imputed pixels, and of the random maps.
    """

    def __init__(self, pairs: Mapping[str, Pair], pool: int, share: float, seed: int) -> None:
        self.pairs = pairs
        self.methods = {name: deep_unicam(pair, class_evidence=False) for name, pair in pairs.items()}
        self.pool, self.share, self.seed = pool, share, seed

    def __call__(self, images: Tensor) -> dict[KeptKey, Tensor]:
        """Features ``(n, d)`` of a batch, of each layer that has positions."""
        # Of each batch its own, so that a batch gives the same whatever came before it.
        imputed, random = (torch.Generator().manual_seed(self.seed) for _ in range(2))
        # By layer; made once for all models, since imputing costs more than they do.
        randomly_kept: dict[int, Tensor] = {}
        features = {}
        for name, pair in self.pairs.items():
            # Signed, since only the order of positions matters.
            both = self.methods[name].attribute_all(images, relu_attributions=False)
            for keeper, word, maps, side in zip(
                KEPT_BY, RANDOMLY_KEPT_BY, both, (pair.student, pair.base), strict=True
            ):
                for i, layer_maps in enumerate(maps):
                    if layer_maps.dim() == 4:
                        if i not in randomly_kept:
                            noise = torch.rand(layer_maps.shape, generator=random).to(layer_maps)
                            randomly_kept[i] = road(images, noise, share=self.share, generator=random)
                        kept = road(images, layer_maps, share=self.share, generator=imputed)
                        for key, reduced in ((keeper, kept), (word, randomly_kept[i])):
                            features[name, key, i] = layer_features(side.only([i]), reduced, self.pool)[0][0]
        return features


def score_rows(
    found: Stream,
    students: tuple[str, ...],
    layers: list[str],
    labels: Tensor,
    *,
    seed: int,
    **options: Any,
) -> Iterator[Record]:
    """Every quantity of every student and layer, see :func:`captum_kd.compare`.

    Args:
        found: The features of the students by name, of "base" and, where there is one, of "teacher".
        students: Their names.
        layers: Names of the layers.
        labels: Label embeddings ``(n, d)``.
        seed: Every score draws permutations from a generator of its own with this seed.
        **options: Of :func:`~captum_kd.metrics.score_with_statistics`.

    Yields:
        Records with the keys student, layer and quantity and the fields of
        :class:`~captum_kd.metrics.Score`, student by student and layer by layer. What does not depend on
        the student is computed once, and is in the records of each.
    """
    features = found.features
    shared: dict[tuple[str, int], Score] = {}

    def score(x: Tensor, y: Tensor, **more: Any) -> Score:
        generator = torch.Generator().manual_seed(seed)
        return score_with_statistics(x, y, generator=generator, **options, **more)

    def once(quantity: str, i: int, x: Tensor, y: Tensor, **more: Any) -> tuple[str, Score]:
        if (quantity, i) not in shared:
            shared[quantity, i] = score(x, y, **more)
        return quantity, shared[quantity, i]

    def quantities(name: str, i: int) -> Iterator[tuple[str, Score]]:
        student, base = features[name][i], features[BASE][i]
        yield "FSS", score(student, base, estimator="biased")
        yield "RS student", score(student, labels)
        yield once("RS base", i, base, labels)
        yield "RS distilled", score(student, labels, given=base)
        yield "RS residual", score(base, labels, given=student)
        for keeper in (*KEPT_BY, *RANDOMLY_KEPT_BY):
            if (name, keeper, i) in found.extra:
                yield f"RS kept by {keeper}", score(found.extra[name, keeper, i], labels)
        if TEACHER in features:
            teacher = features[TEACHER][i]
            yield once("RS teacher", i, teacher, labels)
            yield "FSS teacher and student", score(teacher, student, estimator="biased")
            yield once("FSS teacher and base", i, teacher, base, estimator="biased")
        if len(layers) > 1:
            progression = f"dCor with {layers[-1]}, "
            yield progression + "student", score(student, features[name][-1])
            for other in (BASE, TEACHER):
                if other in features:
                    yield once(progression + other, i, features[other][i], features[other][-1])

    for name in students:
        for i, layer in enumerate(layers):
            for quantity, result in quantities(name, i):
                yield {"student": name, "layer": layer, "quantity": quantity, **result._asdict()}


def record_count(found: Stream, students: tuple[str, ...], layers: list[str]) -> int:
    """How many records :func:`score_rows` yields."""
    teacher = TEACHER in found.features
    each = 5 + 3 * teacher + (2 + teacher if len(layers) > 1 else 0)
    return each * len(students) * len(layers) + len(found.extra)
