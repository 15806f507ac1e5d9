"""The methods that are compared; pass your own as a :class:`~captum_kd.attr.methods.MapMethod`."""

from __future__ import annotations

from functools import partial

from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn

from captum_kd.attr.gradient_maps import grad_cam, gradient_x_activation
from captum_kd.attr.methods import (
    METHODS,
    UNIQUE_SIDES,
    MapMethod,
    TwoMaps,
    deep_unicam,
    difference,
    recommended,
)
from captum_kd.attr.pair import Pair
from captum_kd.benchmark.localization.ablations import ChannelWeights, NotCentred, OneDirection
from captum_kd.models.activations import ReshapeTransform

# Captum's LayerLRP and LayerDeepLift do not run on residual blocks that use one ReLU twice.
INTEGRATION_STEPS = 8
# The recommended maps were chosen on these geometries (and on the demo's pair), the others measured once.
CHOSEN_ON = ("free", "grid")
RANDOM = "random maps"
# A method of this name with ending gives signed maps, of which the method's own are what is above zero.
SIGNED = ", signed"
CEILING = "perfect masks"


def integrated_gradients(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    reshape_transform: ReshapeTransform | None = None,
) -> Tensor:
    """Captum's LayerIntegratedGradients from an image of mid grey, summed over channels, with ReLU."""
    method = LayerIntegratedGradients(model, layer)
    maps: Tensor = method.attribute(
        images, target=classes, n_steps=INTEGRATION_STEPS, internal_batch_size=8 * len(images)
    )
    maps = maps if reshape_transform is None else reshape_transform(maps)
    return maps.sum(1, keepdim=True).relu()


def asked_for_label(pair: Pair, images: Tensor, labels: Tensor) -> list[TwoMaps]:
    """The recommended method with evidence for the label, whatever the models predict; signed."""
    maps = deep_unicam(pair).attribute_all(images, target=labels)
    return list(zip(*maps, strict=True))


LOCALIZATION_METHODS: dict[str, MapMethod] = {
    **METHODS,
    # What the recommended setting consists of, each part taken away.
    "UniCAM, recommended, no class evidence, signed": MapMethod(
        UNIQUE_SIDES, partial(recommended, signed=True, class_evidence=False)
    ),
    "UniCAM, recommended, one direction, signed": MapMethod(
        UNIQUE_SIDES, partial(recommended, signed=True, method=OneDirection, class_evidence=False)
    ),
    "UniCAM, recommended, own features, signed": MapMethod(
        UNIQUE_SIDES, partial(recommended, signed=True, feature_layer=None)
    ),
    "UniCAM, recommended, channel weights, signed": MapMethod(
        UNIQUE_SIDES, partial(recommended, signed=True, method=ChannelWeights)
    ),
    "UniCAM, recommended, not centred, signed": MapMethod(
        UNIQUE_SIDES, partial(recommended, signed=True, method=NotCentred)
    ),
    "UniCAM, recommended, asked for label, signed": MapMethod(UNIQUE_SIDES, asked_for_label),
    "integrated gradients difference": MapMethod(
        UNIQUE_SIDES, partial(difference, function=integrated_gradients)
    ),
    **{
        f"{name} difference{SIGNED}": MapMethod(
            UNIQUE_SIDES, partial(difference, function=function, signed=True)
        )
        for name, function in (
            ("Grad-CAM", grad_cam),
            ("gradient x activation", gradient_x_activation),
            ("integrated gradients", integrated_gradients),
        )
    },
}
"""The benchmark's methods by name. Random maps and perfect masks, floor and ceiling, are added to any."""
