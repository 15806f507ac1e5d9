"""Laying out the tokens of transformers as an image."""

from __future__ import annotations

import math
import warnings

from torch import Tensor

# More than any architecture puts before the positions: tokens of images that are not square.
_MOST_OTHERS = 16


def tokens_to_image(value: Tensor) -> Tensor:
    """A ``reshape_transform`` for vision transformers and mixed models, for square images.

    Of tokens ``(n, t, c)`` the last ones are taken, as many as fill the largest square: what comes before
    (class token, distillation token, registers) is left out. Channels that come last, as in Swin
    transformers, are put first. What is ``(n, c, h, w)`` already stays as it is.

    Args:
        value: What a layer gives: ``(n, t, c)``, ``(n, h, w, c)`` or ``(n, c, h, w)``.

    Returns:
        Shape ``(n, c, h, w)``, with ``h`` and ``w`` equal where tokens were given.

    Raises:
        ValueError: Other shapes, or a number of tokens that is far from a square.

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
        value = value[:, -side * side :].unflatten(1, (side, side))
    elif value.dim() != 4:
        raise ValueError(f"Tokens (n, t, c) or (n, h, w, c) are needed, got shape {tuple(value.shape)}.")
    elif not channels_last(value):
        return value
    return value.movedim(-1, 1)


def channels_last(activations: Tensor) -> bool:
    """Whether activations of square images seem to be ``(n, h, w, c)`` rather than ``(n, c, h, w)``."""
    if activations.dim() != 4:
        return False
    _, first, second, third = activations.shape
    return first == second != third


def warn_of_channels_last(label: str, activations: Tensor) -> None:
    """Warn where activations that are taken as ``(n, c, h, w)`` seem to be something else."""
    if channels_last(activations):
        warnings.warn(
            f"{label} gives activations of shape {tuple(activations.shape)}, which are taken as (n, c, h, w) "
            "but look like (n, h, w, c). If they are, pass "
            "reshape_transform=captum_kd.tokens_to_image.",
            stacklevel=3,
        )
