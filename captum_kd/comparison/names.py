"""Names that a caller picks from what there is."""

from __future__ import annotations

from collections.abc import Sequence


def known_name(name: str, names: Sequence[str], option: str) -> str:
    """Return the name if it is one of ``names``.

    Raises:
        ValueError: It is not; the message lists them.

    Example:
        >>> known_name("layer3", ("layer3", "layer4"), "layer")
        'layer3'
    """
    if name not in names:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, names))}, got {name!r}.")
    return name


def one_name(name: str | None, names: Sequence[str], option: str) -> str:
    """Return the name, which may be left out where there is only one.

    Raises:
        ValueError: It is left out where there are several, or it is unknown.

    Example:
        >>> one_name(None, ("student",), "student")
        'student'
    """
    if name is None:
        if len(names) > 1:
            raise ValueError(f"{option} is needed, one of {', '.join(map(repr, names))}.")
        return names[0]
    return known_name(name, names, option)
