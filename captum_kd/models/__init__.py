"""Networks: their layers, activations and gradients, class scores, architectures, and checkpoints."""

from captum_kd.models.layers import find_layer
from captum_kd.models.tokens import tokens_to_image

__all__ = ["find_layer", "tokens_to_image"]
