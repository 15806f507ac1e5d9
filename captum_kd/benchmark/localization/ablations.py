"""The recommended method without one of its steps, to measure what each step is worth."""

from __future__ import annotations

from torch import Tensor

from captum_kd.attr.deep_features import AtLayer
from captum_kd.attr.deep_unicam import DeepUniCAM
from captum_kd.functional.cam import Direction


class OneDirection(DeepUniCAM):
    """Without the subtraction of the other direction's map."""

    def _contrasted(self, distilled: list[Tensor], residual: list[Tensor]) -> dict[Direction, list[Tensor]]:
        return {"distilled": distilled, "residual": residual}


class ChannelWeights(DeepUniCAM):
    """With one weight per channel, as in Grad-CAM and Eq. 5."""

    def _weights(self, gradient: Tensor) -> Tensor:
        return gradient.flatten(2).mean(-1) if gradient.dim() > 2 else gradient


class NotCentred(DeepUniCAM):
    """With activations as they are."""

    def _activations(self, at_layer: AtLayer) -> Tensor:
        return at_layer.activations
