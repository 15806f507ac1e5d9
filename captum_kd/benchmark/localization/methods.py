"""The methods that are compared; a method of your own is a :class:`~captum_kd.attr.methods.MapMethod`."""

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
# The recommended maps were chosen on these geometries and on the demo's pair; the others were measured once.
CHOSEN_ON = ("free", "grid")
# The ending of a method's name that says that its maps are signed. Without the ending, they are the positive
# parts of the same maps.
SIGNED = ", signed"


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
    # The recommended setting without each of its parts.
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
"""The benchmark's methods by name. Random maps and perfect masks, the floor and the ceiling, are added."""
