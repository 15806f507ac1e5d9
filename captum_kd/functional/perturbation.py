"""Perturbed images, from which features of salient regions are taken: ROAD and I * H.

:func:`road` and :func:`multiply` are ready to be the ``perturb_func(inputs, attributions)`` of
:func:`captum_kd.feature_similarity_score` and :func:`captum_kd.relevance_score`. Both work in the
model's own input space and return what the model can be fed at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_kd.functional.imputation import noisy_linear_imputation

_TIE_BREAK_SEED = 0


def keep_mask(attributions: Tensor, share: float) -> Tensor:
    """Marks the most relevant share of the pixels of each map.

    Exactly ``round(share * h * w)`` pixels of each map are kept. Among equal attributions (a
    constant map, or the zeros that a ReLU leaves) the order is that of one fixed, seeded random
    permutation of the pixels. So the result is deterministic, the same on every device and
    for every batch, a larger share keeps the pixels of a smaller one and more, and no
    place in the image is favoured.

    Args:
        attributions: The maps, of shape (n, 1, h, w) or (n, h, w).
        share: The share of pixels to keep, from 0 to 1.

    Returns:
        True where a pixel is kept, of shape (n, h, w) and dtype bool.

    Raises:
        TypeError: ``attributions`` is no real tensor.
        ValueError: ``attributions`` has another shape or NaN or infinite entries, or ``share`` is
            outside 0 to 1.

    Example:
        >>> keep_mask(torch.tensor([[[0.1, 0.9], [0.7, 0.2]]]), share=0.5)
        tensor([[[False,  True],
                 [ True, False]]])
        >>> keep_mask(torch.zeros(1, 10, 10), share=0.2).sum()
        tensor(20)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is a part of the pixels and must be from 0 to 1, got {share}")
    maps = _as_maps(attributions)[:, 0]
    n, h, w = maps.shape
    seeded = torch.Generator().manual_seed(_TIE_BREAK_SEED)
    shuffled = torch.randperm(h * w, generator=seeded).to(maps.device)
    order = maps.flatten(1)[:, shuffled].argsort(dim=1, descending=True, stable=True)
    most_relevant = shuffled[order[:, : round(share * h * w)]]
    keep = torch.zeros(n, h * w, dtype=torch.bool, device=maps.device)
    return keep.scatter_(1, most_relevant, True).view(n, h, w)


def road(
    inputs: Tensor,
    attributions: Tensor,
    *,
    share: float = 0.5,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Keeps the most relevant pixels of each image and imputes the others.

    The perturbation of ROAD (Rong et al., 2022): :func:`keep_mask` of the map, then
    :func:`~captum_kd.functional.noisy_linear_imputation`. Set other values with
    ``functools.partial(road, share=0.2)``.

    Args:
        inputs: The images as the model takes them, floating point, of shape (n, c, h, w).
        attributions: Their maps, of shape (n, 1, h', w') or (n, h', w'); resized bilinearly to
            (h, w) where they have another size.
        share: The share of pixels to keep, from 0 to 1. The published code keeps 0.2 or 0.5.
        noise: The standard deviation of the noise on the imputed pixels, in units of ``inputs``.
        generator: Draws the noise. None: torch's global one.

    Returns:
        The perturbed images, like ``inputs`` and without gradient.

    Raises:
        TypeError: A tensor is missing or of the wrong dtype.
        ValueError: The shapes do not fit, an entry is NaN or infinite, or an option is out of
            range.

    Example:
        >>> images, maps = torch.rand(4, 3, 32, 32), torch.rand(4, 1, 8, 8)
        >>> perturbed = road(images, maps, share=0.25)
        >>> (perturbed == images).all(dim=1).sum(dim=(1, 2))
        tensor([256, 256, 256, 256])
    """
    maps = _upsample(attributions, inputs)
    if maps.shape[-2:] != attributions.shape[-2:]:
        # Interpolated equal values must be equal, or rounding would rank a constant map.
        maps = maps.float()
    keep = keep_mask(maps, share)
    return noisy_linear_imputation(inputs, keep.to(inputs.device), noise=noise, generator=generator)


def multiply(inputs: Tensor, attributions: Tensor) -> Tensor:
    """Multiplies each image by its map, I * H: the literal reading of Eq. 7.

    H is the map, resized to the image, with its negative part clipped and divided by its maximum,
    so that it is from 0 to 1 in each image. The images are used as they are: where the
    model takes normalised inputs, irrelevant pixels fade to 0, the mean colour, not to black.

    Args:
        inputs: The images as the model takes them, floating point, of shape (n, c, h, w).
        attributions: Their maps, of shape (n, 1, h', w') or (n, h', w'); resized bilinearly to
            (h, w) where they have another size.

    Returns:
        The perturbed images, in the shape, dtype and device of ``inputs``. A map without a
        positive entry says that nothing is relevant, and gives an image of zeros.

    Raises:
        TypeError: A tensor is missing or of the wrong dtype.
        ValueError: The shapes do not fit, or the maps have NaN or infinite entries.

    Example:
        >>> multiply(torch.full((1, 1, 1, 3), 5.0), torch.tensor([[[-1.0, 1.0, 2.0]]]))
        tensor([[[[0.0000, 2.5000, 5.0000]]]])
    """
    relevance = _upsample(attributions, inputs).clamp_min(0)
    maximum = relevance.amax(dim=(-2, -1), keepdim=True)
    relevance = relevance / torch.where(maximum > 0, maximum, 1.0)
    return inputs * relevance.to(inputs)


def _as_maps(attributions: Tensor) -> Tensor:
    """Checks the maps and returns them as (n, 1, h, w)."""
    if not isinstance(attributions, Tensor) or attributions.is_complex():
        given = attributions.dtype if isinstance(attributions, Tensor) else type(attributions).__name__
        raise TypeError(f"attributions must be a real tensor, got {given}")
    if attributions.ndim == 3:
        attributions = attributions.unsqueeze(1)
    if attributions.ndim != 4 or attributions.shape[1] != 1:
        raise ValueError(
            "attributions must have the shape (n, 1, h, w) or (n, h, w), got "
            f"{tuple(attributions.shape)}; sum attributions of several channels first, with "
            "attributions.sum(dim=1, keepdim=True)"
        )
    if attributions.shape[-2] == 0 or attributions.shape[-1] == 0:
        raise ValueError(f"attributions have no pixels: their shape is {tuple(attributions.shape)}")
    finite = torch.isfinite(attributions).flatten(1).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"attributions must be finite, but {int((~finite).sum())} of {len(finite)} maps have "
            f"NaN or infinite entries, the first at index {int((~finite).nonzero()[0])}"
        )
    return attributions


def _upsample(attributions: Tensor, inputs: Tensor) -> Tensor:
    """Resizes the maps bilinearly to the images: (n, 1, h, w)."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        given = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs must be one floating point tensor, got {given}")
    if inputs.ndim != 4:
        raise ValueError(f"inputs must have the shape (n, c, h, w), got {tuple(inputs.shape)}")
    maps = _as_maps(attributions)
    if len(maps) != len(inputs):
        raise ValueError(
            f"there must be one map for each image, got {len(maps)} maps and {len(inputs)} images"
        )
    if maps.shape[-2:] == inputs.shape[-2:]:
        return maps
    wide = torch.float32 if maps.device.type == "mps" else torch.float64
    return interpolate(maps.to(wide), size=inputs.shape[-2:], mode="bilinear", align_corners=False)
