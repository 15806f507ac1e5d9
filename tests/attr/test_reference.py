"""Reading the reference set in every form that it may be given in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from captum_kd.attr.reference import read_reference

IMAGES, TARGET = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("reference", "sizes", "inputs", "with_target"),
    [
        (IMAGES, [6], 1, False),
        ((IMAGES, TARGET), [6], 1, True),
        ((IMAGES, TARGET.tolist()), [6], 1, True),
        ((IMAGES, None), [6], 1, False),
        (((IMAGES, -IMAGES), TARGET), [6], 2, True),
        ([IMAGES[:4], IMAGES[4:]], [4, 2], 1, False),
        ([(IMAGES[:4], TARGET[:4]), (IMAGES[4:], TARGET[4:])], [4, 2], 1, True),
        (DataLoader(TensorDataset(IMAGES, TARGET), batch_size=4), [4, 2], 1, True),
        ((batch for batch in IMAGES.split(3)), [3, 3], 1, False),
    ],
)
def test_forms(reference: Any, sizes: list[int], inputs: int, with_target: bool) -> None:
    batches = read_reference(reference)
    assert [len(b.inputs[0]) for b in batches] == sizes
    assert [len(b.inputs) for b in batches] == [inputs] * len(sizes)
    assert torch.equal(torch.cat([b.inputs[0] for b in batches]), IMAGES)
    if with_target:
        assert torch.equal(torch.cat([b.target for b in batches if b.target is not None]), TARGET)
    else:
        assert all(b.target is None for b in batches)


def test_shuffling_loader_is_read_once() -> None:
    reads = []

    class Counting(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            reads.append(index)
            return super().__getitem__(index)

    batches = read_reference(DataLoader(Counting(IMAGES, TARGET), batch_size=2, shuffle=True))
    assert sorted(reads) == list(range(6))
    for inputs, target in batches:
        assert target is not None
        rows = (inputs[0][:, 0] / 2).long()  # each image still has its own target
        assert torch.equal(TARGET[rows], target)


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        (7, TypeError, "a tensor of inputs, a pair .* got int"),
        ("path", TypeError, "must be a tensor or a tuple of tensors, got str"),
        (
            (IMAGES, TARGET, TARGET),
            TypeError,
            r"pair \(inputs, target\), got 3 items.*\(\(first, second\), target\)",
        ),
        (([1.0, 2.0], TARGET), TypeError, "must be a tensor or a tuple of tensors, got list"),
        (((IMAGES, 3), TARGET), TypeError, "must be a tensor or a tuple of tensors, got Tensor, int"),
        (torch.tensor(1.0), TypeError, "must be a tensor or a tuple of tensors"),
        (IMAGES[:2], ValueError, "at least 3 samples .* got 2"),
        ([], ValueError, "at least 3 samples .* got 0"),
        ((IMAGES, TARGET[:4]), ValueError, r"one class index per sample: got shape \(4,\) for 6 samples"),
        ((IMAGES, 1), ValueError, r"got shape \(\) for 6 samples"),
        ([IMAGES, TARGET], ValueError, "different dimensions.*a tuple: .inputs, target., not a list"),
        ([(IMAGES, TARGET), IMAGES], ValueError, "targets in every batch or in none"),
    ],
)
def test_bad_reference(reference: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_reference(reference)
