"""The closed form against autograd through a plain broadcast distance, and the parts of a map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from captum_kd.functional.cam import activation_gradient, attribution_map, channel_weights
from captum_kd.functional.distance import pairwise_distances
from captum_kd.functional.objectives import (
    OBJECTIVES,
    Distances,
    Objective,
    distances_gradient,
    objective_gradient,
)
from captum_kd.functional.pooling import channel_mean, pool_activations, positions_of

N, M, CHANNELS = 7, 6, 3
ADAPTIVE = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def custom(explained: Tensor, other: Tensor, labels: Tensor) -> Tensor:
    """Not symmetric in the order of a pair, and not linear."""
    weights = torch.arange(explained.numel(), dtype=explained.dtype).reshape(explained.shape).sin()
    return (weights * explained * other).sum() / (1 + (explained * labels).mean()) + explained.amax()


ALL_OBJECTIVES: dict[str, Objective] = {**OBJECTIVES, "custom": custom}


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


@pytest.mark.parametrize(
    ("spatial", "grid"), [((5, 7), 3), ((6, 6), 2), ((8,), 5), ((4, 3, 5), 3), ((4, 4), 4)]
)
def test_pooling(spatial: tuple[int, ...], grid: int) -> None:
    activations = normal(2, 3, *spatial, seed=0)
    torch.testing.assert_close(pool_activations(activations, grid), plain_pool(activations, grid))


@pytest.mark.parametrize("grid", [0, -1, 6])
def test_pooling_to_a_grid_that_does_not_fit(grid: int) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and .* got {grid} for .* \(2, 3, 5, 7\)"):
        pool_activations(torch.ones(2, 3, 5, 7), grid)


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


def test_channel_mean_weighs_samples_not_batches() -> None:
    activations = normal(7, 3, 4, 5, seed=0)
    mean = channel_mean([activations[:5], activations[5:]])
    torch.testing.assert_close(mean, activations.mean(dim=(0, 2, 3)))


def test_objective_runs_for_callers_without_gradients() -> None:
    d = pairwise_distances(normal(5, 3, seed=0))
    oracle = 2 * torch.ones(5, 5).double()
    with torch.no_grad():
        assert torch.equal(objective_gradient(lambda e, o, g: e.sum(), d, d, None), oracle)
    with torch.inference_mode():
        inside = d * 1
        assert torch.equal(objective_gradient(lambda e, o, g: e.sum(), inside, inside, inside), oracle)


def test_objective_may_work_in_place() -> None:
    d, other, labels = (pairwise_distances(normal(5, 3, seed=s)) for s in range(3))
    before = other.clone(), labels.clone()
    gradient = objective_gradient(lambda e, o, g: (e * o.mul_(2)).sum() + g.zero_().sum(), d, other, labels)
    torch.testing.assert_close(gradient, 4 * before[0])
    assert torch.equal(other, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    ("objective", "given"),
    [
        (lambda e, o, g: e.sum(0), r"got \(5,\)"),
        (lambda e, o, g: 1.0, "got float"),
        (lambda e, o, g: o.sum(), r"got \(\) without a gradient"),
    ],
)
def test_objective_must_be_a_differentiable_scalar(objective: Objective, given: str) -> None:
    d = torch.ones(5, 5)
    with pytest.raises(ValueError, match=f"scalar tensor that is differentiable .*{given}"):
        objective_gradient(objective, d, d, None)


def test_distances_like() -> None:
    within = torch.ones(3, 3, dtype=torch.float64)
    half = Distances(within, within).like(torch.ones(1))
    assert half.within is not None
    assert half.to.dtype == half.within.dtype == torch.float32
    assert Distances(within, None).like(within).within is None
