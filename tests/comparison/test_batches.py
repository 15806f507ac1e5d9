"""Batches as compare reads them, and the reference."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from captum_kd.comparison import features
from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from tests.comparison.quick import QUICK, batches, quick
from tests.networks import Network, classes, images, pair


def test_the_reference_must_be_disjoint() -> None:
    data = batches(24, 8)
    for reference in (data, images(24)[:10], [(images(24)[:5], classes(5))], [images(24)[:9]]):
        with pytest.raises(ValueError, match="disjoint from what is scored"):
            quick(*pair(), data, reference=reference)
    assert quick(*pair(), data, reference=images(9, seed=1)).settings.reference == 9


def drawn(rows: list[int], size: int = 8) -> list[Any]:
    return list(zip(images(24)[rows].split(size), classes(24)[rows].split(size), strict=True))


def assert_the_same_scores(found: Comparison, expected: Comparison) -> None:
    assert len(found.rows) == len(expected.rows)
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row["value"] == pytest.approx(other["value"], abs=1e-5)
        assert row["p_value"] == other["p_value"]
    assert found.accuracy == expected.accuracy


@pytest.mark.parametrize("size", [3, 8, 40])
def test_an_image_that_comes_again_is_scored_once(size: int) -> None:
    # In the same batch, in a later one, and twice.
    rows = [0, 1, 0, *range(2, 20), 1, 5, 5, *range(20, 24), 0]
    with pytest.warns(
        UserWarning, match="5 of the 29 images of data are identical to earlier ones"
    ) as caught:
        found = quick(*pair(), drawn(rows, size), shown=4)
    assert [warning.filename for warning in caught] == [quick.__code__.co_filename]
    expected = quick(*pair(), drawn(list(range(24))), shown=4)
    assert_the_same_scores(found, expected)
    assert (found.settings.samples, found.settings.left_out, expected.settings.left_out) == (24, 5, 0)
    # The shown images are the first that are scored.
    assert found.settings.positions == (0, 1, 3, 4)
    assert torch.equal(found.images, images(24)[:4])
    assert ("Images left out", "5, identical to earlier ones or to ones of the reference") in (
        found.settings.provenance(4)
    )


def test_another_target_for_the_same_image_is_said_aloud() -> None:
    data = [*drawn(list(range(24))), (images(24)[[3, 4]], torch.stack([classes(24)[3], classes(24)[5]]))]
    with pytest.warns(UserWarning, match=r"2 of the 26 .* 1 of them came with another target, which was ign"):
        quick(*pair(), data)


def test_a_sampler_with_replacement_and_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TensorDataset(images(24), classes(24))

    def again() -> Comparison:
        sampler = WeightedRandomSampler(
            torch.ones(24).tolist(), 48, generator=torch.Generator().manual_seed(2)
        )
        with pytest.warns(UserWarning, match="of the 48 images of data are identical"):
            return quick(
                *pair(), DataLoader(dataset, 10, sampler=sampler), reference=None, shown=0, cache=tmp_path
            )

    first = again()
    assert first.settings.samples + first.settings.reference + first.settings.left_out == 48
    assert first.settings.left_out >= 24
    monkeypatch.setattr(features, "compute_batch", lambda *_: pytest.fail("computed a second time"))
    assert again().rows == first.rows


def test_what_is_set_aside_does_not_come_again() -> None:
    rows = [*range(24), 0, 3, 5, 23]
    with pytest.warns(UserWarning, match="4 of the 28 images of data are identical"):
        found = quick(*pair(), drawn(rows), reference=None, shown=3)
    assert_the_same_scores(found, quick(*pair(), drawn(list(range(24))), reference=None, shown=3))
    assert (found.settings.reference, found.settings.samples) == (6, 18)
    assert found.settings.positions == (6, 7, 8)
    assert torch.equal(found.images, images(24)[6:9])


@pytest.mark.parametrize("target", [False, True])
def test_what_the_reference_shares_with_the_data_is_not_scored(target: bool) -> None:
    shared = [9, 10, 23]
    reference = torch.cat([images(9, seed=1), images(24)[shared]])
    given: Any = (reference, classes(12)) if target else [reference[:5], reference[5:]]
    with pytest.warns(UserWarning, match="3 of the 24 images of data are in the reference") as caught:
        found = quick(*pair(), batches(24, 8), reference=given, shown=10)
    assert [warning.filename for warning in caught] == [quick.__code__.co_filename]
    rest = [row for row in range(24) if row not in shared]
    assert_the_same_scores(found, quick(*pair(), drawn(rest), reference=given, shown=10))
    assert found.settings.positions == (0, 1, 2, 3, 4, 5, 6, 7, 8, 11)
    assert (found.settings.samples, found.settings.left_out) == (21, 3)
    with pytest.raises(ValueError, match="disjoint from what is scored"):
        quick(*pair(), batches(24, 8), reference=images(24).flip(0))
    # None left to score but five.
    with (
        pytest.warns(UserWarning, match="19 of the 24 images"),
        pytest.raises(ValueError, match="at least 8 images, got 5"),
    ):
        quick(*pair(), batches(24, 8), reference=images(24)[5:])


def test_copies_in_the_reference_are_said_aloud() -> None:
    reference = images(9, seed=1)[[0, 1, 2, 3, 3, 4, 5, 0]]
    with pytest.warns(UserWarning, match="2 of the 8 images of the reference are identical") as caught:
        quick(*pair(), reference=reference)
    assert [warning.filename for warning in caught] == [quick.__code__.co_filename]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(*pair(), reference=reference[:4])


def test_data_in_the_order_of_their_classes_are_noticed() -> None:
    data = [(images(40), torch.arange(40) // 10)]
    with pytest.warns(UserWarning, match="all of one class.*Shuffle") as caught:
        compare(*pair(), "second_relu", data, methods=(), **QUICK)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_part_set_aside_is_64_or_a_quarter() -> None:
    for count, reference in ((11, 3), (40, 10), (256, 64), (300, 64)):
        found = quick(*pair(), batches(count, 13), layers="second_relu", reference=None, shown=0)
        assert (found.settings.reference, found.settings.samples) == (reference, count - reference)


def test_outputs_that_are_no_class_scores_may_differ() -> None:
    class Embeddings(Network):
        def forward(self, images: Tensor) -> Any:
            return (super().forward(images),)

    found = quick(Embeddings(classes=5).eval(), Embeddings(classes=7).eval())
    assert found.accuracy == {"student": None, "base": None}


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
