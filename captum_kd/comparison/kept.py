"""Features of images that are reduced to the pixels that maps rank highest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from captum_kd.attr.methods import deep_unicam
from captum_kd.attr.pair import Pair
from captum_kd.comparison.features import KeptKey, layer_features
from captum_kd.functional.perturbation import road

# What keeps pixels, as the names of quantities say it: first for the student, then for the base model.
KEPT_BY = ("distilled maps", "residual maps")
RANDOMLY_KEPT_BY = ("random maps, student", "random maps, base")


class KeptFeatures:
    """Features of images reduced to the pixels that maps rank highest, the others imputed (ROAD).

    The maps are those of :class:`~captum_kd.DeepUniCAM` without class evidence. They see neither labels nor
    predictions, which mostly are the labels, so the relevance of what they keep is not circular. Distilled
    maps reduce the images for the student, residual maps for the base model. The baseline are random maps of
    the layer's resolution, the same for both.

    Args:
        pairs: Each student with the base model.
        pool: The grid size that activations are averaged on.
        share: The share of the pixels that is kept.
        seed: The seed of the noise on imputed pixels and of the random maps.
    """

    def __init__(self, pairs: Mapping[str, Pair], pool: int, share: float, seed: int) -> None:
        self.pairs = pairs
        self.methods = {name: deep_unicam(pair, class_evidence=False) for name, pair in pairs.items()}
        self.pool, self.share, self.seed = pool, share, seed

    def __call__(self, images: Tensor) -> dict[KeptKey, Tensor]:
        """Compute the features of a batch.

        Args:
            images: Shape ``(n, c, h, w)``.

        Returns:
            Features ``(n, d)`` of each layer that has positions.
        """
        # Each batch has its own, so that it gives the same whatever came before it.
        imputed, random = (torch.Generator().manual_seed(self.seed) for _ in range(2))
        # By layer; made once for all models, since imputing costs more than they do.
        randomly_kept: dict[int, Tensor] = {}
        features = {}
        for name, pair in self.pairs.items():
            # Signed, since only the order of positions matters.
            both = self.methods[name].attribute_all(images, relu_attributions=False)
            for keeper, random_keeper, maps, side in zip(
                KEPT_BY, RANDOMLY_KEPT_BY, both, (pair.student, pair.base), strict=True
            ):
                for i, layer_maps in enumerate(maps):
                    if layer_maps.dim() == 4:
                        if i not in randomly_kept:
                            noise = torch.rand(layer_maps.shape, generator=random).to(layer_maps)
                            randomly_kept[i] = road(images, noise, share=self.share, generator=random)
                        kept = road(images, layer_maps, share=self.share, generator=imputed)
                        for key, reduced in ((keeper, kept), (random_keeper, randomly_kept[i])):
                            features[name, key, i] = layer_features(side.only([i]), reduced, self.pool)[0][0]
        return features
