"""Arranging the tokens of transformers as an image."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

# No architecture puts more tokens before the positions; if there are more, the images are not square.
_MOST_OTHERS = 16


def tokens_to_image(value: Tensor) -> Tensor:
    """Arrange tokens as an image: a ``reshape_transform`` for vision transformers and square images.

    Tokens ``(n, t, c)`` become the largest square that they fill. It is made of the last tokens; those before
    them (class token, distillation token, registers) are left out. Channels that come last, as in Swin
    transformers, are moved to dimension 1. Activations ``(n, c, h, w)`` are returned unchanged, so networks
    that mix convolutions and transformers work as well.

    Args:
        value: The output of a layer: ``(n, t, c)``, ``(n, h, w, c)`` or ``(n, c, h, w)``.

    Returns:
        Activations ``(n, c, h, w)``; ``h`` and ``w`` are equal if tokens were given.

    Raises:
        ValueError: The output has another shape, or the number of tokens is far from a square.

    Example:
        >>> import torch
        >>> tokens_to_image(torch.zeros(2, 1 + 14 * 14, 192)).shape     # DeiT
        torch.Size([2, 192, 14, 14])
        >>> tokens_to_image(torch.zeros(2, 7, 7, 768)).shape            # Swin
        torch.Size([2, 768, 7, 7])
    """
    if value.dim() == 3:
        side = math.isqrt(value.shape[1])
        others = value.shape[1] - side * side
        if others > _MOST_OTHERS:
            raise ValueError(
                f"{value.shape[1]} tokens are {side} x {side} positions and {others} others, so the images "
                "do not seem to be square. Pass a reshape_transform of your own, which knows the grid."
            )
        value = torch.unflatten(value[:, -side * side :], 1, (side, side))
    elif value.dim() != 4:
        raise ValueError(f"Tokens (n, t, c) or (n, h, w, c) are needed, got shape {tuple(value.shape)}.")
    elif not channels_last(value):
        return value
    return value.movedim(-1, 1)


def channels_last(activations: Tensor) -> bool:
    """Return whether activations of square images seem to be ``(n, h, w, c)``, not ``(n, c, h, w)``."""
    if activations.dim() != 4:
        return False
    _, first, second, third = activations.shape
    return first == second != third


def warn_of_channels_last(label: str, activations: Tensor) -> None:
    """Warn if activations that are taken as ``(n, c, h, w)`` seem to be ``(n, h, w, c)``."""
    if channels_last(activations):
        warnings.warn(
            f"{label} gives activations of shape {tuple(activations.shape)}, which are taken as (n, c, h, w) "
            "but look like (n, h, w, c). If they are, pass "
            "reshape_transform=captum_kd.tokens_to_image.",
            stacklevel=3,
        )
