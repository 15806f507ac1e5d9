"""Evidence maps by hand, and where there is nothing to scale by."""

from __future__ import annotations

import torch

from captum_kd.functional.cam import add_evidence, class_evidence


def test_by_hand() -> None:
    activations = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]]], dtype=torch.float64)
    weights = torch.tensor([[[1.0, 1.0, -1.0], [2.0, 1.0, 1.0]]], dtype=torch.float64)
    # Sums over channels 3, 2, -3; above zero 3, 2, 0, of variance 14/9.
    expected = torch.tensor([[[3.0, 2.0, 0.0]]], dtype=torch.float64) / (14 / 9) ** 0.5
    torch.testing.assert_close(class_evidence(weights, activations), expected)


def test_both_have_equal_say_in_the_units_of_the_first() -> None:
    generator = torch.Generator().manual_seed(0)
    unique, evidence = (torch.randn(4, 1, 5, 5, generator=generator) for _ in range(2))
    found = add_evidence(unique, evidence)
    torch.testing.assert_close(add_evidence(3 * unique, 0.1 * evidence), 3 * found)
    share = found - unique
    torch.testing.assert_close(share.flatten(1).std(1), unique.flatten(1).std(1))


def test_what_is_constant_adds_nothing_and_nothing_is_infinite() -> None:
    unique = torch.tensor([[[1.0, -1.0]], [[0.0, 0.0]]])
    constant, varied = torch.full_like(unique, 7.0), torch.tensor([[[1.0, 0.0]]]).expand(2, 1, 2)
    assert torch.equal(add_evidence(unique, constant), unique)
    assert torch.equal(add_evidence(unique, varied)[1], unique[1])
    flat = class_evidence(torch.ones(2, 3), torch.ones(2, 3, 4))
    assert not flat.any()
    assert torch.equal(class_evidence(-torch.ones(2, 3), torch.rand(2, 3, 4)), torch.zeros(2, 1, 4))
