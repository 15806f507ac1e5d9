"""Images and maps as the page holds them: pictures, and small grids that the browser draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib
import numpy as np
import torch
from matplotlib.image import imsave
from numpy.typing import NDArray
from torch import Tensor

from captum_kd.visualization import POSITIVE_COLOURS, SIGNED_COLOURS, displayable

# For each student, layer and method two maps (n, 1, h, w).
PairsOfMaps: TypeAlias = Mapping[str, Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]]

_MOST_PNG_PIXELS = 128 * 128  # beyond this JPEG is much smaller, and nobody sees the difference


def viewer_data(
    images: Tensor,
    captions: Sequence[tuple[str, str]],
    maps: PairsOfMaps,
    sides: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Collect what the page's viewer draws, as JSON can hold it.

    Args:
        images: The images as the models took them, ``(n, c, h, w)``.
        captions: The class and the file name of each image; the file name may be empty.
        maps: For each student, layer and method two maps ``(n, 1, h, w)`` at the layer's resolution.
        sides: For each method what its two maps are.

    Returns:
        The keys ``images``, ``students`` and ``colours``. Names are in lists, since a browser would reorder
        keys that look like numbers.

    Example:
        >>> pair = torch.tensor([0.0, 0.5]).reshape(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
        >>> words = {"mine": ("student", "base")}
        >>> maps = {"s": {"layer4": {"mine": pair}}}
        >>> data = viewer_data(torch.rand(1, 3, 8, 8), [("cat", "")], maps, words)
        >>> data["students"][0]["layers"][0]["methods"][0]["pairs"][0][0]
        {'size': [1, 2], 'peak': 0.5, 'values': 'AP8='}
    """
    pictures = displayable(images) if len(images) else images
    return {
        "images": [
            {"class": name, "file": file, "url": picture_url(picture), "size": list(picture.shape[1:])}
            for (name, file), picture in zip(captions, pictures, strict=True)
        ],
        "students": [
            {
                "name": student,
                "layers": [
                    {
                        "name": layer,
                        "methods": [_method(name, sides[name], pair) for name, pair in methods.items()],
                    }
                    for layer, methods in layers.items()
                ],
            }
            for student, layers in maps.items()
            if layers
        ],
        "colours": {"positive": _colour_table(POSITIVE_COLOURS), "signed": _colour_table(SIGNED_COLOURS)},
    }


def picture_url(picture: Tensor) -> str:
    """Encode a picture ``(3, h, w)`` with values in [0, 1] as a data URL; small ones without loss."""
    pixels = (picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    if picture[0].numel() <= _MOST_PNG_PIXELS:
        kind, options = "png", {}
    else:
        kind, options = "jpeg", {"quality": 90}
    imsave(buffer, pixels, format=kind, pil_kwargs=options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def grid(values: Tensor, signed: bool) -> dict[str, Any]:
    """Encode a map as bytes, quantised against its own largest magnitude.

    Args:
        values: The map, ``(h, w)``.
        signed: Let bytes 1 to 255 stand for -peak to peak, with zero at 128; otherwise bytes 0 to 255
            stand for 0 to peak.

    Returns:
        The keys ``size``; ``peak``, the largest magnitude, None if a value is not finite; and ``values``, the
        bytes in base64, row by row, empty if the peak is zero or None.
    """
    values = values.detach().double().cpu()
    finite = bool(values.isfinite().all())
    peak = float(values.abs().max()) if finite else 0.0
    encoded = ""
    if peak > 0:
        shares = values / peak
        levels = (shares * 127 + 128) if signed else (shares * 255)
        encoded = _base64(levels.round().to(torch.uint8).numpy())
    return {"size": list(values.shape), "peak": peak if finite else None, "values": encoded}


def _method(name: str, sides: tuple[str, str], pair: tuple[Tensor, Tensor]) -> dict[str, Any]:
    signed = any(bool((maps < 0).any()) for maps in pair)
    pairs = [[grid(ours[0], signed), grid(theirs[0], signed)] for ours, theirs in zip(*pair, strict=True)]
    return {"name": name, "sides": list(sides), "signed": signed, "pairs": pairs}


def _colour_table(name: str) -> str:
    """256 colours of Matplotlib as bytes: red, green, blue."""
    colours = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return _base64(np.asarray(colours)[:, :3])


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
