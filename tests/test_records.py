"""Parsed JSON against types."""

from __future__ import annotations

import math
from typing import Any

import pytest

from captum_kd.records import check_record


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, float),
        (math.nan, float),
        (None, float | None),
        ({"a": [1]}, dict[str, list[int]]),
        (["a", "b"], tuple[str, str]),
        ([{"file": "a"}], tuple[dict[str, str], ...]),
        ([], tuple[int, ...]),
    ],
)
def test_values_that_fit_a_type(value: object, kind: Any) -> None:
    check_record(value, kind, "it", finite=False)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1.0, int),
        (True, float),
        (2**70, int),
        (10**400, float),
        ("a", float | None),
        ({"a": "b"}, dict[str, list[int]]),
        (["a"], tuple[str, str]),
        (["a", 1], tuple[str, str]),
        ("ab", tuple[str, str]),
        ("ab", list[str]),
    ],
)
@pytest.mark.parametrize("finite", [True, False])
def test_values_that_do_not(value: object, kind: Any, finite: bool) -> None:
    with pytest.raises(ValueError, match="it: "):
        check_record(value, kind, "it", finite=finite)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite_unless_said_otherwise(value: float) -> None:
    with pytest.raises(ValueError, match=r"it: a\[0\] must be a finite number"):
        check_record({"a": [value]}, dict[str, list[float]], "it")
    check_record({"a": [value]}, dict[str, list[float]], "it", finite=False)
