"""Warnings that name the line of the user's that they are about."""

from __future__ import annotations

import sys
import warnings

# Frames of these packages stand between the user's line and what warns.
_BETWEEN = ("captum_kd", "captum", "torch", "torchmetrics")


def warn(message: str) -> None:
    """Issue a UserWarning that names the caller's line outside the package, however deep it comes from.

    Args:
        message: What is the case, what it means, and what to do.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level + 1)
