"""The version, and the versions of what results depend on."""

from __future__ import annotations

import importlib
import platform

__version__ = "0.1.0"


def versions(*libraries: str) -> dict[str, str]:
    """Versions of captum-kd, Captum, torch, Python, and of further libraries.

    Args:
        *libraries: Names of further modules, for instance ``"torchvision"``.

    Returns:
        The versions by name, as they are recorded with results.

    Example:
        >>> list(versions("torchvision"))
        ['captum-kd', 'captum', 'torch', 'Python', 'torchvision']
    """
    found = {name: importlib.import_module(name).__version__ for name in ("captum", "torch", *libraries)}
    captum, torch = found.pop("captum"), found.pop("torch")
    return {
        "captum-kd": __version__,
        "captum": str(captum),
        "torch": str(torch),
        "Python": platform.python_version(),
        **{name: str(version) for name, version in found.items()},
    }
