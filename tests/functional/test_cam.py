"""The closed form against autograd through a plain broadcast distance, and the parts of a map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kd.functional.cam import (
    activation_gradient,
    add_evidence,
    attribution_map,
    channel_weights,
    class_evidence,
)
from captum_kd.functional.distance import pairwise_distances
from captum_kd.functional.objectives import OBJECTIVES, Distances, Objective, distances_gradient, row_max
from captum_kd.functional.pooling import pool_activations, positions_of

N, M, CHANNELS = 7, 6, 3
ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def custom(explained: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """Not symmetric in the order of a pair, and not linear."""
    weights = torch.arange(explained.numel(), dtype=explained.dtype).reshape(explained.shape).sin()
    return (weights * explained * other).sum() / (1 + (explained * labels).mean()) + explained.amax()


ALL_OBJECTIVES: dict[str, Objective] = {**OBJECTIVES, "row_max": row_max, "custom": custom}


def plain_distances(x: Tensor, y: Tensor) -> Tensor:
    squared = (x.flatten(1)[:, None] - y.flatten(1)).square().sum(-1)
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)


def plain_pool(activations: Tensor, grid: int | None) -> Tensor:
    return activations if grid is None else ADAPTIVE[activations.dim() - 2](activations, grid)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equal(closed_form: Tensor, oracle: Tensor) -> None:
    assert closed_form.shape == oracle.shape
    assert oracle.abs().max() > 1e-6  # a comparison of zeros would show nothing
    assert (closed_form - oracle).abs().max() <= 1e-10 * oracle.abs().max()


@pytest.mark.parametrize("objective", ALL_OBJECTIVES)
@pytest.mark.parametrize(
    ("spatial", "pool"),
    [((5, 7), None), ((5, 7), 1), ((5, 7), 3), ((6, 6), 3), ((8,), 3), ((4, 3, 5), 3), ((), None)],
)
@pytest.mark.parametrize("with_reference", [False, True], ids=["batch", "reference"])
def test_closed_form_is_autograd(
    objective: str, spatial: tuple[int, ...], pool: int | None, with_reference: bool
) -> None:
    score = ALL_OBJECTIVES[objective]
    activations = normal(N, CHANNELS, *spatial, seed=0).requires_grad_()
    reference = normal(M, CHANNELS, *spatial, seed=1)
    # Of the other model and of the labels: of the samples, then of the reference.
    other, labels = normal(N + M, 11, seed=2), normal(N + M, 4, seed=3)
    pooled = plain_pool(activations, pool)
    if with_reference:
        total = activations.new_zeros(())
        for i in range(N):
            rows = [*range(N, N + M), i]
            together = torch.cat([plain_pool(reference, pool), pooled[i : i + 1]])
            total = total + score(
                plain_distances(together, together),
                plain_distances(other[rows], other[rows]),
                plain_distances(labels[rows], labels[rows]),
            )
    else:
        other, labels = other[:N], labels[:N]
        total = score(
            plain_distances(pooled, pooled), plain_distances(other, other), plain_distances(labels, labels)
        )
    (oracle,) = torch.autograd.grad(total, activations)

    activations = activations.detach()
    features = pool_activations(activations, pool)
    if with_reference:
        others = pool_activations(reference, pool)
        explained, *rest = (
            Distances(pairwise_distances(a, b), pairwise_distances(b))
            for a, b in ((features, others), (other[:N], other[N:]), (labels[:N], labels[N:]))
        )
    else:
        others = features
        explained, *rest = (Distances(pairwise_distances(a), None) for a in (features, other, labels))
    gradient = distances_gradient(score, explained, *rest)
    assert_equal(activation_gradient(gradient, explained.to, features, others, activations), oracle)
    weights = channel_weights(gradient, explained.to, features, others, positions_of(activations))
    assert_equal(weights, oracle.flatten(2).mean(-1) if spatial else oracle)


@pytest.mark.parametrize("spatial", [(5, 7), (4,), ()])
@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("sum_channels", [False, True])
def test_attribution_map(
    spatial: tuple[int, ...], per_position: bool, relu: bool, sum_channels: bool
) -> None:
    activations = normal(2, 3, *spatial, seed=0)
    weights = normal(2, 3, *(spatial if per_position else ()), seed=1)
    oracle = torch.stack(
        [torch.stack([weights[n, k] * activations[n, k] for k in range(3)]) for n in range(2)]
    )
    oracle = oracle.sum(1, keepdim=True) if sum_channels else oracle
    oracle = oracle.clamp_min(0) if relu else oracle
    ours = attribution_map(weights, activations, relu=relu, sum_channels=sum_channels)
    torch.testing.assert_close(ours, oracle)


def test_class_evidence_by_hand() -> None:
    activations = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]]], dtype=torch.float64)
    weights = torch.tensor([[[1.0, 1.0, -1.0], [2.0, 1.0, 1.0]]], dtype=torch.float64)
    # Sums over channels 3, 2, -3; above zero 3, 2, 0, of variance 14/9.
    expected = torch.tensor([[[3.0, 2.0, 0.0]]], dtype=torch.float64) / (14 / 9) ** 0.5
    torch.testing.assert_close(class_evidence(weights, activations), expected)


def test_evidence_and_uniqueness_have_equal_say_in_the_units_of_the_first() -> None:
    generator = torch.Generator().manual_seed(0)
    unique, evidence = (torch.randn(4, 1, 5, 5, generator=generator) for _ in range(2))
    found = add_evidence(unique, evidence)
    torch.testing.assert_close(add_evidence(3 * unique, 0.1 * evidence), 3 * found)
    share = found - unique
    torch.testing.assert_close(share.flatten(1).std(1), unique.flatten(1).std(1))


def test_evidence_that_is_constant_adds_nothing_and_nothing_is_infinite() -> None:
    unique = torch.tensor([[[1.0, -1.0]], [[0.0, 0.0]]])
    constant, varied = torch.full_like(unique, 7.0), torch.tensor([[[1.0, 0.0]]]).expand(2, 1, 2)
    assert torch.equal(add_evidence(unique, constant), unique)
    assert torch.equal(add_evidence(unique, varied)[1], unique[1])
    flat = class_evidence(torch.ones(2, 3), torch.ones(2, 3, 4))
    assert not flat.any()
    assert torch.equal(class_evidence(-torch.ones(2, 3), torch.rand(2, 3, 4)), torch.zeros(2, 1, 4))
