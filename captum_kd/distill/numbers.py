"""Checks of the numbers that a recipe consists of."""

from __future__ import annotations

import math


def check_number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    whole: bool = False,
    why: str = "",
) -> None:
    """Raise unless a value is a finite number in a range; the message names the field and the option.

    Args:
        name: Name of the field; the option of the command line is called after it.
        value: The value.
        least: The least number that is valid.
        above: The number that a valid one is greater than.
        below: The number that a valid one is less than.
        whole: Whether it must be an integer.
        why: The reason for the range, in brackets behind it.

    Raises:
        TypeError: The value is no number, or no integer where one is needed.
        ValueError: The number is NaN, infinite or out of range.

    Example:
        >>> check_number("momentum", 5.0, least=0, below=1)
        Traceback (most recent call last):
        ValueError: momentum must be at least 0 and below 1, got 5.0 (--momentum).
    """
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "an integer" if whole else "a number"
        raise TypeError(f"{name} must be {kind}, got {value!r} ({option}).")
    number = float(value)
    if math.isfinite(number) and number >= least and number > above and number < below:
        return
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", least), ("above", above), ("below", below))
        if math.isfinite(bound)
    ]
    if math.isinf(below) and not whole:
        bounds.append("finite")
    raise ValueError(f"{name} must be {' and '.join(bounds)}{why and f' ({why})'}, got {value!r} ({option}).")
