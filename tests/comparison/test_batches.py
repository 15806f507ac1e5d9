"""Batches as compare reads them, and the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from captum_kd.comparison.compare import compare
from tests.comparison.quick import QUICK, batches, quick
from tests.networks import classes, images, pair


def test_the_reference_must_be_disjoint() -> None:
    data = batches(24, 8)
    for reference in (data, images(24)[:10], [(images(24)[:5], classes(5))], [images(24)[:9]]):
        with pytest.raises(ValueError, match="disjoint from what is scored"):
            quick(*pair(), data, reference=reference)
    assert quick(*pair(), data, reference=images(9, seed=1)).settings.reference == 9


def test_data_in_the_order_of_their_classes_are_noticed() -> None:
    data = [(images(40), torch.arange(40) // 10)]
    with pytest.warns(UserWarning, match="all of one class.*Shuffle") as caught:
        compare(*pair(), "second_relu", data, methods=(), **QUICK)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_part_set_aside_is_64_or_a_quarter() -> None:
    for count, reference in ((11, 3), (40, 10), (256, 64), (300, 64)):
        found = quick(*pair(), batches(count, 13), layers="second_relu", reference=None, shown=0)
        assert (found.settings.reference, found.settings.samples) == (reference, count - reference)


BAD_BATCH = r"must be a pair \(images, target\)"


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "no images"),
        (images(24), TypeError, "data must be a DataLoader"),
        (7, TypeError, "data must be a DataLoader"),
        ([images(24)], ValueError, BAD_BATCH + ".*got Tensor"),
        ([(images(24),)], ValueError, BAD_BATCH + ".*a tuple of 1"),
        ([{"images": images(24)}], ValueError, BAD_BATCH),
        (TensorDataset(images(24), classes(24)), TypeError, "a Dataset into a DataLoader"),
        ([(images(24)[0], 3)], ValueError, "Put a Dataset into a DataLoader"),
        ([(images(24), classes(23))], ValueError, "one class index per image"),
        ([(images(24), classes(24).float())], TypeError, "integer class indices"),
        ([(images(24), classes(24) + 1)], ValueError, "target must be from 0 to 3, got values from 1 to 4"),
        (
            [(images(24), torch.zeros(24, dtype=torch.long))],
            ValueError,
            "All 24 scored images are of class 0",
        ),
        ([(images(7), classes(7))], ValueError, "at least 8 images, got 7"),
        ([(images(8), classes(8)), (images(8)[..., 1:], classes(8))], ValueError, "images of one size"),
        ([(images(24) * torch.nan, classes(24))], ValueError, "NaN"),
    ],
)
def test_bad_data(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quick(*pair(), data)
