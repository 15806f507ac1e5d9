"""Class indices from every kind of target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_kd.models.targets import class_indices, has_class_scores

SCORES = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.2, 0.1], [0.0, 0.1, 0.2]])


@pytest.mark.parametrize("output", [SCORES, None, (SCORES, SCORES), SCORES[:, :, None, None]])
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2, [2, 2, 2]),
        (torch.tensor(2), [2, 2, 2]),
        (torch.tensor([2]), [2, 2, 2]),
        ([1, 0, 2], [1, 0, 2]),
        ((1, 0, 2), [1, 0, 2]),
        (torch.tensor([1, 0, 2]), [1, 0, 2]),
        (torch.tensor([1, 0, 2], dtype=torch.uint8), [1, 0, 2]),
        (np.array([1, 0, 2]), [1, 0, 2]),
    ],
)
def test_given(target: Any, expected: list[int], output: Any) -> None:
    assert class_indices(target, output, count=3).tolist() == expected


def test_prediction() -> None:
    assert class_indices(None, SCORES, count=3).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("output", "given"),
    [
        (None, "NoneType"),
        ((SCORES,), "tuple"),
        (SCORES[0], r"\(3,\)"),
        (SCORES[None], r"\(1, 3, 3\)"),
        (SCORES[:2], r"\(2, 3\)"),
    ],
)
def test_no_prediction_to_take(output: Any, given: str) -> None:
    with pytest.raises(ValueError, match=rf"target is needed: .* the student returned {given}"):
        class_indices(None, output, count=3, role="student")


@pytest.mark.parametrize(
    ("target", "output", "error", "message"),
    [
        ([0, 1], SCORES, ValueError, r"3 samples, but target has shape \(2,\)"),
        (torch.zeros(3, 1).long(), SCORES, ValueError, r"target has shape \(3, 1\)"),
        ([0, 1, 3], SCORES, ValueError, "from 0 to 2, got values from 0 to 3"),
        (3, SCORES, ValueError, "from 0 to 2, got values from 3 to 3"),
        (-1, SCORES, ValueError, "from 0 to 2, got values from -1 to -1"),
        ([0, -1, 1], None, ValueError, "0 or more, got values from -1 to 1"),
        (1.0, SCORES, TypeError, r"integer class indices, got torch\.float32"),
        (torch.ones(3), SCORES, TypeError, r"integer class indices, got torch\.float32"),
        (True, SCORES, TypeError, r"integer class indices, got torch\.bool"),
        (1j, SCORES, TypeError, r"integer class indices, got torch\.complex64"),
        ("cat", SCORES, TypeError, "must be an int, a list of ints or an integer tensor"),
        ([[0], [1, 2]], SCORES, TypeError, "must be an int, a list of ints or an integer tensor"),
        ({0: 1}, SCORES, TypeError, "must be an int, a list of ints or an integer tensor"),
    ],
)
def test_bad_target(target: Any, output: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_indices(target, output, count=3)


@pytest.mark.parametrize(
    ("output", "expected"),
    [(SCORES, True), (SCORES[0], False), (SCORES[None], False), ([SCORES], False), (None, False)],
)
def test_has_class_scores(output: Tensor, expected: bool) -> None:
    assert has_class_scores(output) is expected
