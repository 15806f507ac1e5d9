"""What every figure agrees on: colours, markers, and how an input of a model is shown as a picture."""

from __future__ import annotations

import torch
from torch import Tensor

# Lightness grows with the value, so the order of values can be seen in grey print and with colour blindness.
POSITIVE_COLOURS = "inferno"
# Zero is white in the middle. Both ends are dark, so signed panels also get contours, dashed where negative.
SIGNED_COLOURS = "PuOr_r"

# Okabe and Ito's colours, which can be told apart under all common kinds of colour blindness, with grey in
# place of their yellow, which is faint on white. In grey print the markers differ.
SERIES_COLOURS = ("#999999", "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#000000")
SERIES_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")

# The weights of red, green and blue in perceived brightness (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


def series_style(index: int) -> tuple[str, str]:
    """The colour and marker of a series; they repeat after eight.

    Args:
        index: The number of the series, from 0.

    Returns:
        A colour and a marker as Matplotlib takes them.

    Example:
        >>> series_style(1)
        ('#0072B2', 's')
    """
    return SERIES_COLOURS[index % len(SERIES_COLOURS)], SERIES_MARKERS[index % len(SERIES_MARKERS)]


def displayable(images: Tensor, *, like: Tensor | None = None) -> Tensor:
    """Turn inputs of a model into pictures: three channels with values in [0, 1].

    If all values lie within [0, 1], the images are shown as they are. Otherwise they were normalised in an
    unknown way, so each image is stretched: its lowest value becomes 0, its highest 1. Integers are taken as
    8-bit. A single channel becomes grey; images with neither 1 nor 3 channels are shown by their mean.

    Args:
        images: Shape ``(n, c, h, w)``.
        like: The images that decide how to stretch, of the same shape; None: ``images``. Pass the originals
            of perturbed images, so that unchanged pixels keep their colour.

    Returns:
        float32, ``(n, 3, h, w)``, on the CPU.

    Raises:
        ValueError: The images are not four-dimensional, empty, or not finite.

    Example:
        >>> displayable(torch.tensor([0.2, 0.4]).reshape(1, 1, 1, 2))[0, 0]
        tensor([[0.2000, 0.4000]])
        >>> displayable(torch.tensor([-1.0, 3.0, 1.0]).reshape(1, 1, 1, 3))[0, 0]
        tensor([[0.0000, 1.0000, 0.5000]])
    """
    shown, guide = _float(images), _float(images if like is None else like)
    if not 0 <= float(guide.min()) <= float(guide.max()) <= 1:
        low, high = (f(guide, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        shown = (shown - low) / (high - low).clamp_min(torch.finfo(shown.dtype).tiny)
    if shown.shape[1] not in (1, 3):
        shown = shown.mean(dim=1, keepdim=True)
    return shown.clamp(0, 1).expand(-1, 3, -1, -1)


def luminance(pictures: Tensor) -> Tensor:
    """Turn coloured pictures ``(n, 3, h, w)`` into grey ones ``(n, h, w)``.

    Example:
        >>> luminance(torch.ones(1, 3, 1, 1))
        tensor([[[1.]]])
    """
    return torch.einsum("nchw,c->nhw", pictures, pictures.new_tensor(_LUMA))


def _float(images: Tensor) -> Tensor:
    if images.dim() != 4 or not images.numel():
        raise ValueError(
            f"Images must have the shape (n, c, h, w), with no dimension 0; got {tuple(images.shape)}."
        )
    values = images.detach().cpu()
    values = values.float() if values.is_floating_point() else values.float() / 255
    if not values.isfinite().all():
        raise ValueError("Images must be finite, but some values are NaN or infinite.")
    return values
